# Every target makes what it needs. `make serve` runs RouterDash, `make test` tests it.
# Needs Python 3.11 or later with venv; `make check` and `make fmt` also need npm.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TOOLS := .cache/tools
ALONE := .cache/alone
JS := .cache/js
BIOME := $(JS)/node_modules/.bin/biome
NEWEST := .cache/newest
COVERAGE := .cache/coverage
COMPILED := .cache/test-compiled
DOCS := .cache/docs
DIST ?= dist
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Where it is set, as in many containers, each process would compile all of the project anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install install-dev compile serve demo screenshots test test-all test-fast test-short test-short-newest coverage test-newest test-tasks test-build test-compiled test-slow-compiled instructions test-js test-postgres fuzz hostile torture torture-long torture-limits storm bench bench-routing check docs docs-serve package image test-image lock prices sbom audit fmt messages

help: ## List the targets
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

# uv takes a tenth of the time of pip. Where it fails, pip may know the index of the machine.
install = $(TOOLS)/bin/uv pip install --quiet --python $(1) --require-hashes --requirement $(2) || \
  $(1)/bin/pip install --quiet --require-hashes --requirement $(2)

# The generator of the documentation site, in an environment of its own as well.
$(DOCS)/installed: requirements-docs.txt | $(TOOLS)/installed
	@test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(call install,$(DOCS),requirements-docs.txt)
	@touch $@

# What RouterDash runs on and nothing else, for the list of its parts.
$(ALONE)/installed: requirements.txt | $(TOOLS)/installed
	rm -rf $(ALONE)
	$(PYTHON) -m venv $(ALONE)
	$(call install,$(ALONE),requirements.txt)
	@touch $@

$(NEWEST)/installed: requirements-dev.txt | $(TOOLS)/installed
	rm -rf $(NEWEST)
	$(or $(NEWEST_PYTHON),$(shell .ci/newest)) -m venv $(NEWEST)
	$(call install,$(NEWEST),requirements-dev.txt)
	@touch $@

# Biome checks and formats static/js and static/css. Its version and hashes are in package-lock.json.
$(JS)/installed: package.json package-lock.json
	@command -v npm >/dev/null || { echo "make check and make fmt need npm (Node.js 18 or later) to install Biome, which checks scripts and style sheets. Install it, for example by: apt-get install nodejs npm" >&2; exit 2; }
	@mkdir -p $(JS)
	@cp package.json package-lock.json $(JS)/
	cd $(JS) && npm ci --ignore-scripts --no-audit --no-fund --silent
	@touch $@

install-dev: $(VENV)/installed-dev

install: $(VENV)/installed ## Create the virtual environment and install RouterDash's requirements in it

# Gateways use it as long as it was built from the sources that are there (routerdash/processes/compiled.py).
compile: $(VENV)/installed-dev ## Compile the gateway, which takes about two thirds of the CPU time then, and a part of control (needs a C compiler)
	$(BIN)/python packaging/compile_gateway.py

serve: $(VENV)/installed ## Run RouterDash on http://127.0.0.1:32768
	@exec $(BIN)/python manage.py serve

demo: $(VENV)/installed ## Run RouterDash with four simulated servers, two simulated clouds and light traffic
	@exec $(BIN)/python -m benchmarks.demo

screenshots: $(VENV)/installed-dev ## Save screenshots of the demo's pages in docs/screenshots (ARGS="--to FOLDER --seconds 5")
	$(BIN)/python -m benchmarks.screenshots $(ARGS)

test: $(VENV)/installed-dev ## Run all tests but rare ones, on SQLite, in about ten minutes (ARGS="…": arguments for pytest)
	$(BIN)/python -m pytest -n $(SLOW_JOBS) --dist worksteal -m "not rare" $(ARGS)

# In the order in which a fault shows soonest. A program that is missing fails its tests; `.ci/programs` installs all.
test-all: export TEST_REQUIRES_PROGRAMS := 1
test-all: $(VENV)/installed-dev ## Run all tests in every way: rare ones, coverage, PostgreSQL, plain Tasks, compiled, newest Python
	.ci/programs
	$(MAKE) coverage
	$(MAKE) test-tasks
	$(MAKE) test-compiled
	$(MAKE) test-slow-compiled
	if NEWEST=$$(.ci/newest); then $(MAKE) test-newest NEWEST_PYTHON="$$NEWEST"; fi
	.ci/with-postgres $(MAKE) test-postgres JOBS=$(SLOW_JOBS)
	$(MAKE) instructions

test-fast: $(VENV)/installed-dev ## Run the unit tests and the tests of the gateway, on SQLite (two to three minutes)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow" --hypothesis-profile=fast $(ARGS)

# Coverage's .pth file measures each Python process that these variables reach: workers of pytest, and gateways. Whole
# installations run without the tracer, which adds half to the CPU time of their start.
coverage: $(VENV)/installed-dev ## Run all tests on SQLite, and compare the branch coverage of the short ones with the floor
	rm -rf $(COVERAGE)
	mkdir -p $(COVERAGE)
	COVERAGE_PROCESS_START=$(CURDIR)/pyproject.toml COVERAGE_FILE=$(CURDIR)/$(COVERAGE)/data \
	  $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow and not unmeasured" $(ARGS)
	$(BIN)/python -m pytest -n $(SLOW_JOBS) --dist worksteal -m "slow or unmeasured" $(ARGS)
	COVERAGE_FILE=$(COVERAGE)/data $(BIN)/coverage combine --quiet
	COVERAGE_FILE=$(COVERAGE)/data $(BIN)/coverage report

# .ci/newest names the newest Python of this machine. A fault of another Python does not depend on the example, so a few
# of each property are enough.
test-newest: $(NEWEST)/installed ## Run the gateway's tests on the newest Python of this machine (NEWEST_PYTHON=… selects another)
	$(NEWEST)/bin/python -m pytest -n $(JOBS) --dist worksteal --hypothesis-profile=fast tests/gateway $(ARGS)

test-short-newest: $(NEWEST)/installed ## Run the short tests on the newest Python of this machine
	$(NEWEST)/bin/python -m pytest -n $(JOBS) --dist worksteal -m "not slow and not rare" $(ARGS)

test-short: $(VENV)/installed-dev ## Run the short tests
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow and not rare" $(ARGS)

# Installations use only what is built where `make compile` builds it. Without optimisation, it takes half of the time;
# `make compile` builds it again.
test-build: $(VENV)/installed-dev
	$(BIN)/python packaging/compile_gateway.py --optimise 0

test-slow-compiled: test-build ## Run the tests of whole installations with the compiled code
	TEST_COMPILED=$$($(BIN)/python -c 'from routerdash.processes.compiled import FOLDER; print(FOLDER)') \
	  $(BIN)/python -m pytest -n $(SLOW_JOBS) --dist worksteal -m "slow and not rare" $(ARGS)

# What is left out serves no request, or tries dialects, which know nothing of Tasks.
DIALECT_TESTS := $(addprefix inference/test_,$(addsuffix .py,chat_as_messages cloud_errors clouds codex documented error_content error_endings messages missing_paths ollama ollama_examples refused_tools responses responses_as_chat sdks_at_anthropic sdks_at_limits simulated_clouds))
test-tasks: $(VENV)/installed-dev ## Run the gateway's tests with each request in an asyncio Task instead of a CoroutineRunner
	TEST_PLAIN_TASKS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal --hypothesis-profile=fast tests/gateway \
	  $(addprefix --ignore=tests/gateway/,base dialects ipc/counters loop providers registry routing upstream $(DIALECT_TESTS)) $(ARGS)

# Built without optimisation, in half of the time.
# The second run has the compiled package before the one in Python (-P), and pytest must not change that.
test-compiled: $(VENV)/installed-dev ## Compile the gateway and control's part, and run their tests with the compiled code
	$(BIN)/python packaging/compile_gateway.py --to $(COMPILED) --optimise 0
	PYTHONPATH=$(CURDIR)/$(COMPILED)/control:$(CURDIR) TEST_COMPILED_CONTROL=1 $(BIN)/python -P -m pytest -n $(JOBS) \
	  --import-mode=append -o django_find_project=false tests/metrics/test_compiled.py \
	  $(addprefix tests/metrics/,counting memory storage learning) $(ARGS)
	TEST_COMPILED=$(CURDIR)/$(COMPILED) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "gateway_process and not slow" \
	  tests/gateway $(ARGS)

test-postgres: $(VENV)/installed-dev ## Run the tests that depend on the database, on the PostgreSQL server in TEST_DATABASE
	ROUTERDASH_TEST_DATABASE=$(TEST_DATABASE) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)
JOBS ?= 3  # tests at a time, each with processes of its own
SLOW_JOBS ?= 4  # tests with whole installations, which mostly wait
TEST_DATABASE ?= postgres://postgres@127.0.0.1:5432/postgres

fuzz: $(VENV)/installed-dev ## Run each property test with 2,000 random inputs; `make test` uses 100 fixed inputs
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m hypothesis --hypothesis-profile=fuzz --timeout=1800 $(ARGS)

hostile: $(VENV)/installed-dev ## Run the tests with hostile clients and endpoints at full size, and measure a regular client beside them
	$(BIN)/python -m pytest tests/hostile --hostile-full --timeout=1800 $(ARGS)

torture: $(VENV)/installed-dev ## Kill processes and exhaust resources of RouterDash under load for five minutes, and audit its figures (ARGS="--seed 7")
	$(BIN)/python -m tests.torture kills --workers 2 --minutes 5 $(ARGS)

torture-limits: $(VENV)/installed-dev ## Run a hundred limited API keys at three times the allowed load for ten minutes, with kills and edits of limits (ARGS="--postgres")
	$(BIN)/python -m tests.torture limits --workers 4 --minutes 10 $(ARGS)

torture-long: $(VENV)/installed-dev ## Run `torture` with 1, 2 and 4 workers on SQLite and 2 on PostgreSQL, with 300 kills in total
	$(BIN)/python -m tests.torture kills --long --minutes 5 --kills 75 $(ARGS)

storm: $(VENV)/installed-dev ## Run 500 clients of all kinds while endpoints fail in every way, and check that nothing leaks (ARGS="--minutes 1")
	$(BIN)/python -m tests.storm $(ARGS)

# Of the compiled gateway, in user mode (benchmarks/MEASUREMENTS.md): 227,000 on 2026-12-03.
MOST_INSTRUCTIONS ?= 240000
instructions: compile ## Count the instructions of a plain request in the compiled gateway, and fail above a bound (needs valgrind, wrk and gcc)
	$(BIN)/python -m benchmarks.process_instructions --most $(MOST_INSTRUCTIONS) --out .cache/callgrind.out \
	  $$($(BIN)/python -c 'from routerdash.processes.compiled import FOLDER; print(FOLDER)')

bench: compile ## Compare RouterDash with nginx and HAProxy, and write benchmarks/RESULTS.md (ARGS="--peers", "--quick")
	$(BIN)/python -m benchmarks.bench $(ARGS)

bench-routing: $(VENV)/installed-dev ## Compare the balancers with oracles on simulated fleets over HTTP (ARGS="--quick" for a minute)
	$(BIN)/python -m benchmarks.routing.over_http $(ARGS)

test-js: ## Run the unit tests of scripts (needs Node.js)
	node --test tests/js/*.test.js

check: $(VENV)/installed-dev $(JS)/installed test-js ## Check format, lint, types, import direction, migrations, templates, scripts, styles, structure and language
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy .
	$(BIN)/lint-imports
	$(BIN)/python -W ignore::RuntimeWarning manage.py makemigrations --check --dry-run
	$(BIN)/python manage.py check --fail-level WARNING
	$(BIN)/python manage.py spectacular --validate --fail-on-warn --file /dev/null
	$(BIN)/djlint templates --lint --check --quiet
	$(BIOME) check
	$(BIN)/python -m tests.measures

docs: $(DOCS)/installed ## Build the documentation as a searchable site into dist/docs (DIST=FOLDER)
	$(DOCS)/bin/python -m sphinx --fail-on-warning --keep-going --quiet -d .cache/docs-pages docs $(DIST)/docs

docs-serve: docs ## Build the documentation and serve it on http://127.0.0.1:8001
	@exec $(DOCS)/bin/python -m http.server --bind 127.0.0.1 --directory $(DIST)/docs 8001

package: $(TOOLS)/installed ## Build the wheel and the sdist into dist/ (DIST=FOLDER)
	$(TOOLS)/bin/python -m build --no-isolation --outdir $(DIST) .

IMAGE ?= routerdash
ENGINE ?= podman
image: ## Build the container image (IMAGE=name, ENGINE="docker", BASE=base image)
	$(ENGINE) build $(if $(filter podman,$(firstword $(ENGINE))),--format docker) $(if $(BASE),--build-arg BASE=$(BASE)) --tag $(IMAGE) $(ARGS) .

test-image: $(VENV)/installed-dev ## Test the container image in an engine (IMAGE=name, ENGINE="docker")
	TEST_IMAGE=$(IMAGE) TEST_ENGINE="$(ENGINE)" $(BIN)/python -m pytest tests/image $(ARGS)

lock: $(TOOLS)/installed ## Pin the requirements of RouterDash, its tests and its tools, with hashes (ARGS="--upgrade", "--upgrade-package NAME")
	$(LOCK) pyproject.toml --output-file requirements.txt $(ARGS)
	$(LOCK) requirements-dev.in --output-file requirements-dev.txt $(ARGS)
	$(LOCK) requirements-tools.in --output-file requirements-tools.txt $(ARGS)
	$(LOCK) requirements-docs.in --output-file requirements-docs.txt $(ARGS)
	$(LOCK) tests/clients/requirements.in --output-file tests/clients/requirements.txt $(ARGS)
	$(LOCK) tests/clients/clouds.in --output-file tests/clients/clouds.txt $(ARGS)
	$(LOCK) tests/clients/ollama.in --output-file tests/clients/ollama.txt $(ARGS)
	$(LOCK) tests/clients/lists.in --output-file tests/clients/lists.txt $(ARGS)
	$(LOCK) tests/llamacpp/requirements.in --output-file tests/llamacpp/requirements.txt $(ARGS)
LOCK := $(TOOLS)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock"

prices: $(VENV)/installed-dev ## Make the catalogue of prices anew from a wheel of genai-prices (WHEEL=FILE)
	$(BIN)/python -m benchmarks.price_catalogue $(WHEEL)

sbom: $(TOOLS)/installed $(ALONE)/installed ## Write the software bill of materials to dist/routerdash.cdx.json (CycloneDX; DIST=FOLDER)
	$(TOOLS)/bin/python packaging/sbom.py $(ALONE)/bin/python $(DIST)/routerdash.cdx.json

audit: $(TOOLS)/installed ## Check all pinned packages against the advisory database (needs network access)
	$(TOOLS)/bin/pip-audit --strict --require-hashes --disable-pip --requirement requirements.txt
	$(TOOLS)/bin/pip-audit --strict --require-hashes --disable-pip --requirement requirements-dev.txt
	$(TOOLS)/bin/pip-audit --strict --require-hashes --disable-pip --requirement requirements-tools.txt
	$(TOOLS)/bin/pip-audit --strict --require-hashes --disable-pip --requirement requirements-docs.txt

fmt: $(VENV)/installed-dev $(JS)/installed ## Format code, templates, scripts and style sheets
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/djlint templates --reformat --warn --quiet
	$(BIOME) check --write

messages: $(VENV)/installed-dev ## Collect translatable texts in locale/ and compile the translations (needs GNU gettext)
	$(BIN)/python manage.py makemessages --locale ja --no-location --no-obsolete --ignore .venv --ignore tests
	$(BIN)/python -m tests.messages
