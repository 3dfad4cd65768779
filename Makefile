# Every target makes what it needs. `make serve` runs RouterDash, `make test` tests it.
# Needs Python 3.11 or later with venv; nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TOOLS := .cache/tools
ALONE := .cache/alone
DIST ?= dist
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Where it is set, as in many containers, each process would compile all of the project anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install serve demo screenshots test test-postgres fuzz hostile torture torture-long storm bench bench-micro check package image test-image lock sbom audit fmt messages

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "RouterDash needs Python 3.11 or later; name one by PYTHON=…" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: requirements.txt | $(BIN)/python
	$(BIN)/pip install --quiet --require-hashes --requirement requirements.txt
	@touch $@

$(VENV)/installed-dev: requirements-dev.txt | $(BIN)/python
	$(BIN)/pip install --quiet --require-hashes --requirement requirements-dev.txt
	@touch $@ $(VENV)/installed

# What makes a release is in an environment of its own: nothing that RouterDash runs on depends on it.
$(TOOLS)/installed: requirements-tools.txt
	@test -x $(TOOLS)/bin/python || $(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/pip install --quiet --require-hashes --requirement requirements-tools.txt
	@touch $@

# What RouterDash runs on and nothing else, for the list of its parts.
$(ALONE)/installed: requirements.txt
	rm -rf $(ALONE)
	$(PYTHON) -m venv $(ALONE)
	$(ALONE)/bin/pip install --quiet --require-hashes --requirement requirements.txt
	@touch $@

install: $(VENV)/installed ## Make the virtual environment and install RouterDash's requirements into it

serve: $(VENV)/installed ## Run RouterDash on http://127.0.0.1:32768
	@exec $(BIN)/python manage.py serve

demo: $(VENV)/installed ## Run RouterDash with three simulated servers under gentle traffic
	@exec $(BIN)/python -m benchmarks.demo

screenshots: $(VENV)/installed-dev ## Take pictures of the demo's pages into docs/screenshots (ARGS="--to FOLDER --seconds 5")
	$(BIN)/python -m benchmarks.screenshots $(ARGS)

test: $(VENV)/installed-dev ## Run all tests, on SQLite (ARGS="…" for pytest's own arguments)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

test-postgres: $(VENV)/installed-dev ## Run the tests that know of the database on the PostgreSQL that TEST_DATABASE names
	ROUTERDASH_TEST_DATABASE=$(TEST_DATABASE) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)
JOBS ?= 2  # tests at a time, each with processes of its own
TEST_DATABASE ?= postgres://postgres@127.0.0.1:5432/postgres

fuzz: $(VENV)/installed-dev ## Try what holds of any input on 2,000 new inputs each; `make test` tries the same 100 each time
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m hypothesis --hypothesis-profile=fuzz --timeout=1800 $(ARGS)

hostile: $(VENV)/installed-dev ## Hostile clients and endpoints in full size, a well-behaved client measured beside them
	$(BIN)/python -m pytest tests/hostile --hostile-full --timeout=1800 $(ARGS)

torture: $(VENV)/installed-dev ## Kill and starve RouterDash under load for five minutes, and audit its figures (ARGS="--seed 7")
	$(BIN)/python -m tests.torture kills --workers 2 --minutes 5 $(ARGS)

torture-long: $(VENV)/installed-dev ## The same over 1, 2 and 4 workers on SQLite and 2 on PostgreSQL, 300 kills in all
	$(BIN)/python -m tests.torture kills --long --minutes 5 --kills 75 $(ARGS)

storm: $(VENV)/installed-dev ## 500 clients of all kinds while endpoints fail in every way: is anything left over? (ARGS="--minutes 1")
	$(BIN)/python -m tests.storm $(ARGS)

bench: $(VENV)/installed-dev ## Measure RouterDash beside nginx and HAProxy, and write benchmarks/RESULTS.md (ARGS="--peers", "--quick")
	$(BIN)/python -m benchmarks.bench $(ARGS)

bench-micro: $(VENV)/installed-dev ## Time the pieces of a request's way
	$(BIN)/python -m pytest benchmarks/micro --benchmark-columns=min,median,iqr --benchmark-sort=name $(ARGS)

check: $(VENV)/installed-dev ## Check format, lint, types, import direction, migrations and templates
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy .
	$(BIN)/lint-imports
	$(BIN)/python -W ignore::RuntimeWarning manage.py makemigrations --check --dry-run
	$(BIN)/python manage.py check --fail-level WARNING
	$(BIN)/python manage.py spectacular --validate --fail-on-warn --file /dev/null
	$(BIN)/djlint templates --lint --quiet

package: $(TOOLS)/installed ## Build the wheel and the sdist into dist/ (DIST=FOLDER)
	$(TOOLS)/bin/python -m build --no-isolation --outdir $(DIST) .

IMAGE ?= routerdash
ENGINE ?= podman
image: ## Build the container image (IMAGE=name, ENGINE="docker", BASE=its base image)
	$(ENGINE) build $(if $(filter podman,$(firstword $(ENGINE))),--format docker) $(if $(BASE),--build-arg BASE=$(BASE)) --tag $(IMAGE) $(ARGS) .

test-image: $(VENV)/installed-dev ## Try the container image in an engine (IMAGE=name, ENGINE="docker")
	TEST_IMAGE=$(IMAGE) TEST_ENGINE="$(ENGINE)" $(BIN)/python -m pytest tests/image $(ARGS)

lock: $(TOOLS)/installed ## Pin what RouterDash, its tests and its tools need, with hashes (ARGS="--upgrade", "--upgrade-package NAME")
	$(LOCK) pyproject.toml --output-file requirements.txt $(ARGS)
	$(LOCK) requirements-dev.in --output-file requirements-dev.txt $(ARGS)
	$(LOCK) requirements-tools.in --output-file requirements-tools.txt $(ARGS)
	$(LOCK) tests/clients/requirements.in --output-file tests/clients/requirements.txt $(ARGS)
	$(LOCK) tests/llamacpp/requirements.in --output-file tests/llamacpp/requirements.txt $(ARGS)
LOCK := $(TOOLS)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock"

sbom: $(TOOLS)/installed $(ALONE)/installed ## Write what RouterDash consists of into dist/routerdash.cdx.json (CycloneDX; DIST=FOLDER)
	$(TOOLS)/bin/python packaging/sbom.py $(ALONE)/bin/python $(DIST)/routerdash.cdx.json

audit: $(TOOLS)/installed ## Ask the advisory database about every pinned package (needs the network)
	$(TOOLS)/bin/pip-audit --strict --require-hashes --disable-pip --requirement requirements.txt
	$(TOOLS)/bin/pip-audit --strict --require-hashes --disable-pip --requirement requirements-dev.txt
	$(TOOLS)/bin/pip-audit --strict --require-hashes --disable-pip --requirement requirements-tools.txt

fmt: $(VENV)/installed-dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

messages: $(VENV)/installed-dev ## Collect texts to translate into locale/ and compile them (needs GNU gettext)
	$(BIN)/python manage.py makemessages --locale ja --no-location --no-obsolete --ignore .venv --ignore tests
	$(BIN)/python -m tests.messages
