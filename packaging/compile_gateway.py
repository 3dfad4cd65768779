"""Compile RouterDash's hot code to machine code by mypyc: `python packaging/compile_gateway.py --to FOLDER`.

A compiled gateway takes about two thirds of the CPU time for a request. FOLDER gets a whole copy of the package
`gateway`, in which most modules are extension modules for this Python and this machine; the sources stay as they are.
FOLDER/control gets a copy of the package `metrics`, in which those modules are compiled that handle every record.
RouterDash finds them there (routerdash.processes.compiled). Needs mypy, setuptools and a C compiler; takes about a
minute on two cores.
"""

import argparse
import ast
import contextlib
import io
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mypyc.build import mypycify
from mypyc.common import RUNTIME_C_FILES
from mypyc_sources import bases, rewritten, split, struct_names

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from routerdash.processes.compiled import CONTROL_FOLDER, CONTROL_READS, DIGEST, FOLDER, SUFFIX, digest  # noqa: E402  # this needs the path

PLAIN = "plain"  # the package in a compiled one for classes that stay in Python
Extension = Any  # of setuptools, which has no types
# Modules that stay in Python: no request needs them, or mypyc cannot compile them.
IN_PYTHON = frozenset((
    "base.addresses", "base.causes", "base.cloud_settings", "base.config", "base.connecting.forward_proxy",
    "base.connecting.proxy_settings", "base.csv_cells", "base.currencies", "base.destinations",
    "base.earlier_causes", "base.files", "base.logs", "base.ollama_settings", "base.process", "base.sealing",
    "base.secret_files",
    "base.setting_parsers", "base.settings.retention", "base.volumes", "certificate",
    "http.acceptor", "http.control_proxy", "http.cors",
    "ipc.cancellations", "ipc.running_requests", "loop.uvicorn_parts", "main", "prices.catalogue", "prices.published",
    "registry.folders", "registry.kinds", "registry.old_snapshot", "registry.rows", "registry.store", "registry.writer",
    "routing.queue", "routing.routes",
    "server", "upstream.connection_settings", "upstream.dialer", "upstream.extra_headers",
))  # fmt: skip
# Protocols between layers that one class implements.
PROTOCOLS = {
    "Api": ("gateway.inference.api", "OpenAiApi"),
    "Application": ("gateway.application", "Gateway"),
    "BodyConsumer": ("gateway.inference.relaying", "StreamPump"),
    "ClientConnection": ("gateway.http.protocol", "GatewayProtocol"),
    "ClientFlow": ("gateway.loop.flow_control", "FlowControl"),
    "ConnectionOwner": ("gateway.upstream.pool", "Pool"),
    "DrainState": ("gateway.application", "Gateway"),
    "EventCounts": ("gateway.dialects.sse_relay", "StreamRelay"),
    "RequestSink": ("gateway.http.protocol", "GatewayProtocol"),
    "RunningRequest": ("gateway.inference.request", "InferenceRequest"),
    "TokenClocks": ("gateway.ipc.live_page", "EndpointWork"),
}
# Modules of `metrics` that control runs for every record, and that import no Django.
OF_RECORDS = frozenset((
    "costs.of_batch", "counting.cells", "counting.choices", "counting.fold_sums", "counting.histogram",
    "counting.plausibility", "counting.speeds", "learning.from_records", "learning.packed_windows", "learning.past",
    "storage.history_rows",
))  # fmt: skip
TOOL = "tool.sha256"  # the file in the folder that says how the sources were compiled
OPTIMISED = "2"  # the usual level of the C compiler
# Modules with most of the instructions of usual requests. All others are compiled for size: their code is a third
# smaller then, and takes more instructions.
HOT = frozenset((
    "application", "dialects.json_text", "dialects.openai_events", "dialects.openai_requests",
    "dialects.openai_responses", "dialects.sse_relay", "dialects.surrogates", "fast.chunk_taker",
    "fast.coroutine_runner", "fast.repeated_event", "fast.repeated_header_block", "fast.repeated_request",
    "fast.write_batch",
    "http.admission", "http.exchange", "http.http_connection", "http.protocol",
    "inference.api", "inference.attempt", "inference.chat", "inference.choosing", "inference.headers",
    "inference.inference", "inference.recording", "inference.relaying", "inference.request", "inference.responding",
    "inference.sending", "inference.services", "ipc.journal", "ipc.live_page", "ipc.record",
    "loop.flow_control", "routing.adaptive",
    "routing.affinity.affinity", "routing.affinity.keys", "routing.affinity.prompts", "routing.affinity.table",
    "routing.balancer", "routing.endpoint", "routing.expected_time", "routing.roster",
    "upstream.connection", "upstream.pool", "upstream.response_head", "upstream.response_parser",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Group:
    """A package whose modules are compiled into one file."""

    package: str
    name: str  # of the file
    folder: str  # inside the folder of all
    hot: frozenset[str]
    in_python: frozenset[str] = frozenset()
    compiled: frozenset[str] | None = None  # None: all but those in Python
    reads: tuple[str, ...] = ()  # other packages, whose types count

    def compiles(self, path: Path) -> bool:
        name = self.module_name(path)
        listed = name not in self.in_python if self.compiled is None else name in self.compiled
        return listed and path.name != "__init__.py"

    def module_name(self, path: Path) -> str:
        return ".".join(path.relative_to(ROOT / self.package).with_suffix("").parts)

    def digest(self) -> str:
        return digest(*(ROOT / package for package in (self.package, *self.reads)))


GATEWAY = Group("gateway", "routerdash_gateway", "", HOT, in_python=IN_PYTHON)
CONTROL = Group("metrics", "routerdash_control", CONTROL_FOLDER, OF_RECORDS, compiled=OF_RECORDS, reads=CONTROL_READS)

# Without tables to unwind the stack, which only debuggers would use, without symbols, and with a table of relocations
# of 12 KB instead of 700, which glibc reads since 2.36.
COMPILED_SMALL, LINKED_SMALL, PACKED = "-fno-asynchronous-unwind-tables", "-s", "-Wl,-z,pack-relative-relocs"
PACKED_SINCE = (2, 36)
HOT_UNITS, OTHER_UNITS = 3, 6  # C files: the headers of Python are parsed once for each
# mypyc 2.3.1 raises SystemError for a slice of bytes that ends before it begins, where Python returns no bytes.
SLICE, MENDED_SLICE = "slice_len = endn - startn;", "slice_len = endn > startn ? endn - startn : 0;"

MYPY = """
[mypy]
strict = True
warn_unused_ignores = False
warn_unreachable = True
[mypy-httptools.*,uvloop.*]
ignore_missing_imports = True
[mypy-gateway.plain.*,metrics.plain.*]
ignore_errors = True
"""
# Modules that stay in Python import what the compiler need not have: Django, without its plugin for types.
MYPY_OF_CONTROL = f"""{MYPY}
[mypy-metrics.storage.bulk,metrics.sql]
follow_imports = silent
[mypy-django.*]
follow_imports = skip
ignore_missing_imports = True
"""

# Compiled modules import the decorator for mypyc, and need not have it installed.
NO_EXTENSIONS = """
def mypyc_attr(*_, **__):
    return lambda it: it
"""


def tool(optimise: str) -> str:
    """Return what compiles the sources: the digests of the programs in this folder, mypy's version, the level."""
    return f"{digest(Path(__file__).parent)} {version('mypy')} {optimise}"


def is_built(to: Path, sources: str, optimise: str) -> bool:
    """Return True if a folder has what these programs would make of the sources with this digest."""
    try:
        return ((to / DIGEST).read_text(), (to / TOOL).read_text()) == (sources, tool(optimise))
    except OSError:
        return False


def folder_of(python: str) -> Path:
    """Return where RouterDash looks for the compiled gateway in the environment of a Python."""
    program = "from routerdash.processes.compiled import FOLDER; print(FOLDER)"
    return Path(_run([python, "-P", "-c", program]).strip())


def copied(group: Group, to: Path) -> list[Path]:
    """Copy a package into a folder, rewritten where it will be compiled. Return the sources to compile."""
    package = ROOT / group.package
    sources = sorted(package.rglob("*.py"))
    trees = {path: ast.parse(path.read_text()) for path in sources}
    structs = struct_names(trees.values())
    compiled = [path for path in sources if group.compiles(path)]
    in_python = [path for path in sources if path not in compiled]
    classes = (node for path in in_python for node in ast.walk(trees[path]) if isinstance(node, ast.ClassDef))
    derived_from = frozenset().union(*map(bases, classes))
    shutil.copytree(package, to / group.package, ignore=shutil.ignore_patterns("__pycache__"))
    for path in compiled:
        inside = path.relative_to(package)
        kept, plain = split(path.read_text(), f"{group.package}.{PLAIN}.{group.module_name(path)}", structs)
        (to / group.package / inside).write_text(rewritten(kept, derived_from, PROTOCOLS))
        if plain is not None:
            _write_module(to / group.package / PLAIN, inside, plain)
    return [path.relative_to(ROOT) for path in compiled]


def _write_module(package: Path, inside: Path, text: str) -> None:
    for folder in [package, *((package / parent) for parent in inside.parents)]:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").touch()
    (package / inside).write_text(text)


def translated(group: Group, sources: Iterable[Path], c_folder: Path, python: str) -> list[Extension]:
    """Translate modules of the current directory to C. Return an extension for each, and one for the code of all.

    `python`: that of the environment with RouterDash's requirements, whose types count.
    """
    Path("mypy.ini").write_text(MYPY_OF_CONTROL if group.reads else MYPY)
    for package in group.reads:
        Path(package).symlink_to(ROOT / package)  # for the types only
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):  # dozens of warnings that generator expressions become lists
            return mypycify(
                ["--config-file=mypy.ini", f"--python-executable={python}", *map(str, sources)],
                multi_file=True,  # else all is one file, which one core would compile for minutes
                group_name=group.name,
                target_dir=str(c_folder),
            )
    except SystemExit:
        print(printed.getvalue(), file=sys.stderr)
        raise


def compile_all(group: Group, extensions: list[Extension], c_folder: Path, optimise: str) -> None:
    """Compile the C code into the current directory, beside the modules."""
    mend_slices(c_folder)
    shared = next(extension for extension in extensions if extension.name.startswith(group.name))
    generated = [Path(source) for source in shared.sources if Path(source).name not in RUNTIME_C_FILES]
    hot = [source for source in generated if _module_of(group, source) in group.hot]
    units = _units(hot, HOT_UNITS, c_folder / "hot")
    others = _units([source for source in generated if source not in hot], OTHER_UNITS, c_folder / "other")
    runtime = c_folder / "runtime.c"
    runtime.write_text(
        "".join(f'#include "{source}"\n' for source in shared.sources if Path(source).name in RUNTIME_C_FILES)
    )
    shims = [extension for extension in extensions if extension is not shared]
    include = ["-I", str(c_folder), *(f"-I{folder}" for folder in shared.include_dirs)]
    flags = ["-fPIC", "-DNDEBUG", "-fwrapv", "-g0", "-w", "-fvisibility=hidden", COMPILED_SMALL, f"-O{optimise}"]
    flags += [*include, "-I", sysconfig.get_path("include")]
    small = [*flags, "-Os"] if optimise == OPTIMISED else flags
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [(unit, flags) for unit in (*units, runtime)] + [(unit, small) for unit in others]
        objects = list(pool.map(lambda job: _compiled(*job), jobs))
        packed = [PACKED] if reads_packed(*platform.libc_ver()) else []
        _run([*_cc(), "-shared", LINKED_SMALL, *packed, *map(str, objects), "-o", shared.name + SUFFIX])
        list(pool.map(lambda shim: _linked(shim, flags), shims))


def reads_packed(library: str, version: str) -> bool:
    """Return True if this C library reads packed relocations."""
    return library == "glibc" and tuple(map(int, version.split(".")[:2])) >= PACKED_SINCE


def mend_slices(c_folder: Path) -> None:
    """Mend slices of bytes in the copy of mypyc's runtime (SLICE)."""
    path = c_folder / "bytes_ops.c"
    text = path.read_text()
    if text.count(SLICE) != 1:
        raise SystemExit("another version of mypyc: look whether it mends slices of bytes that end before they begin")
    path.write_text(text.replace(SLICE, MENDED_SLICE))


def _module_of(group: Group, source: Path) -> str:
    """Return the name of the module within the package that mypyc has translated to this file."""
    return source.stem.removeprefix(f"__native_{group.package}___").replace("___", ".")


def _units(sources: list[Path], number: int, start: Path) -> list[Path]:
    """Distribute C files over a few, by their size: each includes its own. Their names begin with `start`."""
    parts: list[tuple[int, list[Path]]] = [(0, []) for _ in range(number)]
    for source in sorted(sources, key=lambda path: path.stat().st_size, reverse=True):
        size, part = parts.pop(parts.index(min(parts, key=lambda sized_part: sized_part[0])))
        parts.append((size + source.stat().st_size, [*part, source]))
    units = [start.with_name(f"{start.name}{index}.c") for index in range(number)]
    for unit, (_, part) in zip(units, parts, strict=True):
        unit.write_text("".join(f'#include "{source}"\n' for source in part))
    return units


def _compiled(source: Path, flags: list[str]) -> Path:
    target = source.with_suffix(".o")
    _run([*_cc(), *flags, "-c", str(source), "-o", str(target)])
    return target


def _linked(shim: Extension, flags: list[str]) -> None:
    _run([*_cc(), *flags, "-shared", *shim.sources, "-o", shim.name.replace(".", "/") + SUFFIX])


def _cc() -> list[str]:
    return os.environ.get("CC", "cc").split()


def _run(command: list[str]) -> str:
    """Run a program, and return what it prints."""
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    if done.returncode:
        raise SystemExit(f"{command[0]} failed with {command[-1]}:\n{done.stderr[-3000:]}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, help="the folder of the compiled package")
    parser.add_argument("--for", dest="python", help="the Python of another environment, where RouterDash is installed")
    parser.add_argument("--again", action="store_true", help="compile even if the sources have not changed")
    parser.add_argument("--optimise", default=OPTIMISED, help="level of the C compiler, such as 0 for a quick build")
    options = parser.parse_args()
    to = options.to.resolve() if options.to else folder_of(options.python) if options.python else FOLDER
    python = options.python or sys.executable
    for group in (GATEWAY, CONTROL):
        folder = to / group.folder
        if not options.again and is_built(folder, group.digest(), options.optimise):
            print(f"the compiled {group.package} in {folder} is that of these sources", flush=True)
        else:
            build(group, folder, python, options.optimise)


def build(group: Group, to: Path, python: str, optimise: str) -> None:
    """Compile a group into a folder."""
    compiler = _cc()[0]
    if shutil.which(compiler) is None:
        raise SystemExit(
            f"there is no C compiler {compiler}; install one, for example by: apt-get install gcc libc6-dev"
        )
    to.parent.mkdir(parents=True, exist_ok=True)
    began, digest_of_sources = time.monotonic(), group.digest()
    with tempfile.TemporaryDirectory(dir=to.parent, prefix="building-") as made:
        built, c_folder = Path(made) / "package", Path(made) / "c"
        sources = copied(group, built)
        print(f"translating {len(sources)} modules to C", flush=True)
        os.chdir(built)
        extensions = translated(group, sources, c_folder, python)
        print(f"compiling them ({time.monotonic() - began:.0f} s so far)", flush=True)
        compile_all(group, extensions, c_folder, optimise)
        shutil.rmtree(".mypy_cache", ignore_errors=True)
        for name in ("mypy.ini", *group.reads):
            Path(name).unlink()
        Path("mypy_extensions.py").write_text(NO_EXTENSIONS)
        (built / DIGEST).write_text(digest_of_sources)
        (built / TOOL).write_text(tool(optimise))
        os.chdir(ROOT)
        shutil.rmtree(to, ignore_errors=True)
        built.rename(to)
    print(f"the compiled {group.package} is in {to} ({time.monotonic() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
