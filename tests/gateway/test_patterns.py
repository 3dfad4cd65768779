"""No text of a client or an endpoint takes more than linear time in the gateway's regular expressions.

They search on the event loop, so that a text which takes seconds stops every stream of a gateway. Each pattern is
listed with the text that takes it longest; the first test fails for one that is not.
"""

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import pytest

from gateway.base import causes
from gateway.base.errors import Refusal
from gateway.base.request_kinds import RESPONSES
from gateway.base.volumes import without_volume
from gateway.dialects.chat.bodies import explained
from gateway.dialects.endpoint_errors import read
from gateway.dialects.multipart import Form
from gateway.dialects.redact import Redactor
from gateway.dialects.tool_types import refused_types, types_beside_functions
from gateway.http.control_proxy import end_to_end
from gateway.http.ollama.paths import without_key
from gateway.providers import errors
from gateway.providers.quota import seconds_of
from tests.cpu_time import doublings

GATEWAY = Path(__file__).parents[2] / "gateway"
SIZES = [1 << power for power in range(10, 17)]  # 1 to 64 KiB
MOST = 3.0  # times the CPU time for a text that is twice as long
_NAMES = ("compile", "match", "fullmatch", "search", "split", "findall", "finditer", "sub", "subn")
_FUNCTIONS = frozenset(f"re.{name}" for name in _NAMES)


class Text(NamedTuple):
    """A text of any length: a beginning, a part that is repeated, and an end."""

    unit: str
    before: str = ""
    after: str = ""

    def of(self, size: int) -> str:
        return self.before + self.unit * (size // len(self.unit)) + self.after


class Use(NamedTuple):
    """The method by which the gateway uses a pattern, or a function that has the pattern; with its worst text."""

    by: str | Callable[[str], object]
    text: Text


def use(by: str | Callable[[str], object], unit: str, before: str = "", after: str = "") -> Use:
    return Use(by, Text(unit, before, after))


def escaped_key(text: str) -> bytes:
    return Redactor("sk-abc/123")._escaped().sub(b"", text.encode())


# By module and name, or function; an entry for each pattern there.
USES: Mapping[str, tuple[Use, ...]] = {
    "base/setting_parsers _ORIGIN": (use("fullmatch", "+", "a", "://#"),),
    "base/volumes without_volume": (
        use(lambda text: without_volume(PurePath("/"), text), "\\040", "1 2 3 / /", " - x"),
    ),
    "base/causes _PATTERNS": (use(causes.read, "1", "its head has more than "),),
    "base/causes _PLACEHOLDER": (use("split", "a", "{"),),
    "dialects/chat/bodies _UNKNOWN": (use("fullmatch", "'", "Invalid value '", "x"),),
    "dialects/chat/bodies explained": (use(lambda text: explained(text, "", "x"), " - at `$", "", "`"),),
    "dialects/anthropic/chat_parts _DATA_URL": (use("match", ";", "data:"),),
    "dialects/anthropic/chat_requests _MANUAL": (use("search", "claude-opus-4"),),
    "dialects/anthropic/chat_requests _THOUGHTLESS": (use("search", "claude-3-7"),),
    "dialects/anthropic/chat_turns _ID": (use("fullmatch", "a"),),
    "dialects/anthropic/chat_turns _NOT_IN_IDS": (use("sub", "!"),),
    "dialects/chat/dropped _TOKEN": (use("fullmatch", "a"),),
    "dialects/anthropic/messages_api _LENGTHS": (use("findall", "1"),),
    "dialects/anthropic/stream _MARK": (use("search", "a"),),
    "dialects/anthropic/stream _TEXT": (use("match", r"\a"),),
    "dialects/body_edits _NAME": (use("fullmatch", " ", '{"a":', "x"),),
    "dialects/deciding_fields LIST": (use("match", "["),),
    "dialects/deciding_fields TEXT": (use("match", '"'),),
    "dialects/deciding_fields TRUTH": (use("match", "true"),),
    "dialects/deciding_fields WHOLE_NUMBER": (use("match", "1"),),
    "dialects/endpoint_errors TOO_LONG": (use("search", "exceeds the "),),
    "dialects/endpoint_errors _WORD": (use("fullmatch", "a"),),
    "dialects/json_outline _ANY_NAME": (use("match", r"\a", '"'),),
    "dialects/json_outline _BRACKET": (use("findall", "["),),
    "dialects/json_outline _END": (use("match", " ", "{", "x"),),
    "dialects/json_outline _MEMBER": (use("match", r"\a", '{"'),),
    "dialects/json_outline _NAME": (use("match", "a", '"'),),
    "dialects/json_outline _NEXT": (use("match", " "),),
    "dialects/json_outline _SCALAR": (use("match", "1"),),
    "dialects/json_outline _SPACE": (use("match", " "),),
    "dialects/json_outline _TEXT": (use("match", r"\a"),),
    "dialects/json_text _COLON": (use("match", " "),),
    "dialects/json_text _STRING": (use("match", r"\a", '"'),),
    "dialects/multipart _BOUNDARY": (use("fullmatch", " "),),
    "dialects/multipart _DISPOSITION": (use("fullmatch", " ", "form-data", "!"),),
    "dialects/multipart _LINE": (use("fullmatch", " ", "a:", "\0"),),
    "dialects/multipart _PARAMETER": (use("match", r"\a", ';a="'),),
    "dialects/multipart _PLAIN_KIND": (use("fullmatch", "; charset="),),
    "dialects/multipart _TYPE": (use("fullmatch", " ", "multipart/form-data", "!"),),
    "dialects/needs _IMAGE": (use("search", '"type":'),),
    "dialects/needs _SOME_TOOL": (use("match", " ", "["),),
    "dialects/needs _TOOLS": (use("search", " ", '"tools":['),),
    "dialects/redact Redactor._escaped": (use(escaped_key, "\\"),),
    "dialects/redact _BEGINNING": (use("search", '"data:'),),
    "dialects/redact _LOWER_BEARER": (use("sub", "bearer+"),),
    "dialects/redact _UPPER_BEARER": (use("sub", "BEARER+"),),
    "fast/repeated_event _TEXT": (use("findall", '"text":"'),),
    "fast/repeated_event _find_special": (use("search", "a"),),
    "fast/repeated_event _is_string": (use("fullmatch", r"\n", "", '"'),),
    "dialects/responses/tools _NAME": (use("fullmatch", "a"),),
    "dialects/responses/tools _OTHER": (use("sub", "!"),),
    "dialects/sse_relay _END": (use("search", "\n\r"),),
    "dialects/surrogates _ESCAPE": (use("search", r"\udc"),),
    "dialects/surrogates _HALF": (use("search", r"\ud"),),
    "dialects/surrogates _PART": (use("sub", r"\ud800"),),
    "dialects/tool_types _REFUSALS": (use("search", "1", "tools"),),
    "dialects/tool_types _WORD": (use("findall", "a"),),
    "http/clients _HOST": (use("fullmatch", "a", "", "!"),),
    "http/cors _REQUEST_HEADERS": (use("fullmatch", "a", "openai-", "!"),),
    "http/grammar _ABSOLUTE": (use("fullmatch", "a", "http://a/", "#"),),
    "http/grammar _CONTROL": (use("search", "a"),),
    "http/grammar _TARGET": (use("fullmatch", "a", "/", " "),),
    "http/ollama/paths _KEY": (use("sub", "/"),),
    "inference/headers IS_JSON": (use("fullmatch", "a", "application/", "!"),),
    "inference/stored_ids _BEFORE_ITEM": (use("match", " ", ","),),
    "inference/stored_ids _ID_NAME": (use("search", '"i'),),
    "inference/stored_ids _OBJECT": (use("findall", "{"),),
    "ipc/journal _SEGMENT": (use("fullmatch", "1"),),
    "providers/errors _INPUT_UNKNOWN": (use("match", "image input is "),),
    "providers/errors _MESSAGES": (
        use("match", "You have reached your specified "),
        use("match", "API key "),
        use("match", "Model Not "),
        use("match", "Content Exists "),
        use("match", "a", "Your team "),
        use("match", "Incorrect API key "),
        use("match", "Content violates "),
        use("match", "a", "", " is not"),
    ),
    "providers/errors _NAMES_MODEL": (use("search", "model "),),
    "providers/errors _OBJECT": (use("search", "resp_ "),),
    "providers/errors _word": (use(errors._word, "a"),),
    "providers/public_errors _IDS": (use("sub", "org-a "),),
    "providers/quota _DIMENSION": (use("fullmatch", "-limit", "anthropic-ratelimit-a", "!"),),
    "providers/quota _DURATION": (use("fullmatch", "1ms", "", "!"),),
    "providers/quota _NUMBER": (use("fullmatch", "1"),),
    "providers/quota _UNIT": (use("findall", "1"),),
    "providers/table _REASONING": (use("search", "o1a"),),
    "upstream/extra_headers _NAME": (use("fullmatch", "a", "", " "),),
    "upstream/targets _ID": (use("fullmatch", "a"),),
    "upstream/targets _STORED": (use("fullmatch", "a", "/v1/responses/"),),
    "upstream/targets _VALUE": (use("fullmatch", "a"),),
}


REDACTOR = Redactor("sk-abc/123")


def classify(message: str) -> object:
    body = b'{"message":"%b"}' % message.encode()
    return errors.classify(None, 404, errors.read(body), models=["aa", "model"])


def named_types(text: str) -> list[str]:
    """Have a server quote a request with as many types of tools as fit."""
    body = b'{"tools":[%b]}' % b",".join(b'{"type":"t%d"}' % number for number in range(len(text) // 16))
    return refused_types(b"'type' of tool must be 'function' " + body, types_beside_functions(body, RESPONSES))


def form_head(text: str) -> None:
    form = Form(b"multipart/form-data; boundary=x")
    with suppress(Refusal):
        form.feed(b'--x\r\nContent-Disposition: form-data; name="model"\r\na:%b\0\r\n\r\nm\r\n' % text.encode())


# Functions that read such texts by more than a pattern
FUNCTIONS: Mapping[str, tuple[Callable[[str], object], Text]] = {
    "a bearer token": (lambda text: REDACTOR.clean(text.encode()), Text("bearer+")),
    "one bearer token": (lambda text: REDACTOR.clean(text.encode()), Text("+", "bearer")),
    "a spelled key": (lambda text: REDACTOR.clean(text.encode()), Text("\\", "%")),
    "headers for this hop": (lambda text: end_to_end([(b"connection", text.encode())] * 10), Text("a,")),
    "a model in an error": (classify, Text("a")),
    "many models in an error": (classify, Text("model ")),
    "an error that is no JSON": (lambda text: read(text.encode()), Text("[")),
    "the head of a form's part": (form_head, Text(" ")),
    "the key in a Referer": (lambda text: without_key(text.encode()), Text("/sk_a")),
    "the time of a pause": (lambda text: seconds_of(text, 0.0), Text("1 ")),
    "the types of tools": (named_types, Text("a")),
}


def places(tree: ast.Module) -> Iterator[str]:
    """Yield the name, or the function, of each regular expression in a module."""

    def visit(node: ast.AST, name: str) -> Iterator[str]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{name}.{node.name}".lstrip(".")
        elif isinstance(node, ast.Assign | ast.AnnAssign) and not name:
            name = ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in _FUNCTIONS:
            yield name
        for child in ast.iter_child_nodes(node):
            yield from visit(child, name)

    return visit(tree, "")


def patterns_in(value: Any) -> Iterator[re.Pattern[Any]]:
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, Mapping | tuple):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from patterns_in(each)
    elif isinstance(owner := getattr(value, "__self__", None), re.Pattern):
        yield owner


def searches(place: str, index: int) -> tuple[Callable[[Any], object], bool]:
    """Return a function that searches as the gateway does, and whether it takes bytes."""
    by = USES[place][index].by
    if not isinstance(by, str):
        return by, False
    module, name = place.split()
    pattern = list(patterns_in(getattr(import_module("gateway." + module.replace("/", ".")), name)))[index]
    is_bytes = isinstance(pattern.pattern, bytes)
    if by == "sub":
        return lambda text: pattern.sub(pattern.pattern[:0], text), is_bytes
    return getattr(pattern, by), is_bytes


def test_each_pattern_is_listed_with_its_worst_text() -> None:
    written = Counter[str]()
    for path in sorted(GATEWAY.rglob("*.py")):
        module = path.relative_to(GATEWAY).with_suffix("").as_posix()
        tree = ast.parse(path.read_text())
        assert not any(isinstance(node, ast.ImportFrom) and node.module == "re" for node in ast.walk(tree)), path
        written.update(f"{module} {place}" for place in places(tree))
    assert written == {place: len(uses) for place, uses in USES.items()}


@pytest.mark.parametrize(
    ("place", "index"), [(place, index) for place, uses in USES.items() for index in range(len(uses))]
)
def test_a_text_that_is_twice_as_long_takes_no_pattern_much_longer(place: str, index: int) -> None:
    search, is_bytes = searches(place, index)
    texts = [USES[place][index].text.of(size) for size in SIZES]
    inputs = [text.encode("latin-1") for text in texts] if is_bytes else texts
    for size, factor in zip(SIZES[1:], doublings(search, inputs, MOST), strict=True):
        assert factor <= MOST, f"{factor:.1f} times as long for {size >> 10} KiB"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_text_that_is_twice_as_long_takes_no_function_much_longer(name: str) -> None:
    function, text = FUNCTIONS[name]
    for factor in doublings(function, [text.of(size) for size in SIZES], MOST):
        assert factor <= MOST
