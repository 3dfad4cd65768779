"""Translation of the tools of a Responses request to functions of chat completions, and of their names back."""

import hashlib
import re
from collections.abc import Iterable

import msgspec

from gateway.dialects.chat.bodies import checked, decoded_field, no_object, refusal
from gateway.dialects.chat.dropped import Dropped
from gateway.dialects.chat.requests import CUSTOM_INPUT, NO_PARAMETERS, ChatFunction, ChatTool, ToolFields
from gateway.dialects.chat.shapes import NOTHING
from gateway.dialects.responses.shapes import ChosenTool, GrammarFormat, ResponsesTool, ToolReference
from gateway.dialects.responses.translation import CalledTool

ONLY = "chat completions"
FUNCTION, CUSTOM, NAMESPACE = "function", "custom", "namespace"
MAX_TOOLS = 5_000
MAX_NAME = 256  # characters of the name of a tool or a namespace
_MODES = ("auto", "none", "required")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_OTHER = re.compile(r"[^A-Za-z0-9_-]")

_decode_tools = msgspec.json.Decoder(list[ResponsesTool]).decode
_decode_format = msgspec.json.Decoder(GrammarFormat).decode


def flat_name(namespace: str | None, name: str) -> str:
    """Return the name of a tool for chat completions, which have no namespaces.

    The same name results for a tool and for calls of it. A name that servers would refuse gets a hash instead of its
    rest.
    """
    if not namespace:
        return name
    flat = f"{namespace}__{name}"
    if _NAME.fullmatch(flat):
        return flat
    digest = hashlib.sha256(f"{namespace}\0{name}".encode()).hexdigest()[:8]
    return f"{_OTHER.sub('_', flat)[:55]}_{digest}"


def read_tools(raw: msgspec.Raw, place: str) -> tuple[ResponsesTool, ...]:
    """Decode a list of tools, with the tools of namespaces after them. Raises Refusal (400)."""
    if raw == NOTHING:
        return ()
    return tuple(decoded_field(_decode_tools, raw, ONLY, place))


class ChatTools:
    """The tools of a request, as functions, and what each of them was called."""

    def __init__(self, dropped: Dropped) -> None:
        self.functions: dict[str, ChatTool] = {}
        self.called: dict[str, CalledTool] = {}
        self._dropped = dropped

    def add_all(self, tools: Iterable[ResponsesTool], place: str, namespace: str = "") -> None:
        """Add tools. Those that only OpenAI's servers run are left out, and named. Raises Refusal (400)."""
        for position, tool in enumerate(tools):
            where = f"{place}[{position}]"
            if tool.type == NAMESPACE and not namespace:
                self.add_all(read_tools(tool.tools, f"{where}.tools"), f"{where}.tools", _named(tool, where))
            elif tool.type in (FUNCTION, CUSTOM):
                self._add(tool, where, namespace)
            else:
                self._dropped.add(f"tools.{tool.type}")

    def _add(self, tool: ResponsesTool, where: str, namespace: str) -> None:
        name = _named(tool, where)
        flat = flat_name(namespace, name)
        if flat in self.functions:  # a client may offer a tool again in a later item
            return
        if len(self.functions) == MAX_TOOLS:
            raise refusal(f"There are more than {MAX_TOOLS:,} tools.", "tools")
        is_custom = tool.type == CUSTOM
        function: ChatFunction = {"name": flat}
        description = tool.description or ""
        if is_custom:
            description = "\n\n".join(filter(None, (description, _grammar(tool, where))))
        if description:
            function["description"] = description
        function["parameters"] = CUSTOM_INPUT if is_custom else _parameters(tool, where)
        if tool.strict and not is_custom:
            function["strict"] = True
        self.functions[flat] = {"type": "function", "function": function}
        self.called[flat] = CalledTool(name, namespace, is_custom)

    def names(self) -> dict[str, CalledTool]:
        """Return the tools by each name that a model may use: some leave out the namespace."""
        short: dict[str, CalledTool] = {}
        for tool in self.called.values():
            if tool.namespace:
                short[tool.name] = CalledTool("") if tool.name in short else tool
        return {**{name: tool for name, tool in short.items() if tool.name}, **self.called}

    def fields(self, choice: str | ChosenTool | None, *, parallel: bool | None) -> ToolFields:
        """Return the fields about tools. Raises Refusal (400)."""
        functions = self.functions
        mode: str | ChatTool | None = None
        if isinstance(choice, str):
            mode = _mode(choice)
        elif choice is not None and choice.type == "allowed_tools":
            names = [self._flat(reference) for reference in choice.tools or ()]
            functions = {name: functions[name] for name in names if name in functions}
            mode = _mode(choice.mode or "auto")
        elif choice is not None:
            name = self._flat(choice)
            if name not in functions:
                raise refusal(f"`tool_choice`: no tool has the name {name[:80]!r}.", "tool_choice")
            mode = {"type": "function", "function": {"name": name}}
        if not functions:
            if mode not in (None, "auto", "none"):
                message = "`tool_choice` requires a tool, but the endpoint supports none of the `tools`."
                raise refusal(message, "tool_choice")
            return {}
        fields: ToolFields = {"tools": list(functions.values())}
        if mode is not None:
            fields["tool_choice"] = mode
        if parallel is not None:
            fields["parallel_tool_calls"] = parallel
        return fields

    @staticmethod
    def _flat(reference: ToolReference) -> str:
        if reference.type not in (FUNCTION, CUSTOM) or reference.name is None:
            fault = f"{reference.type[:40]!r} is not supported by this endpoint, which supports only {ONLY}"
            raise refusal(f"`tool_choice.type`: {fault}.", "tool_choice")
        return flat_name(reference.namespace, reference.name)


def _mode(mode: str) -> str:
    if mode not in _MODES:
        message = f"`tool_choice` must be {', '.join(_MODES)}, or an object that names a tool."
        raise refusal(message, "tool_choice")
    return mode


def _named(tool: ResponsesTool, where: str) -> str:
    if not tool.name:
        raise refusal(f"`{where}.name` is missing.", "tools")
    if len(tool.name) > MAX_NAME:
        raise refusal(f"`{where}.name` has more than {MAX_NAME} characters.", "tools")
    return tool.name


def _parameters(tool: ResponsesTool, where: str) -> msgspec.Raw:
    schema = tool.parameters
    if schema == NOTHING or schema == msgspec.Raw(b"{}"):
        return NO_PARAMETERS
    if bytes(memoryview(schema)[:1]) != b"{":
        raise no_object(f"{where}.parameters", "tools")
    return checked(schema)


def _grammar(tool: ResponsesTool, where: str) -> str:
    """Return the grammar of a custom tool as a part of its description: functions have no field for it."""
    if tool.format == NOTHING:
        return ""
    form: GrammarFormat = decoded_field(_decode_format, tool.format, ONLY, f"{where}.format")
    if form.type != "grammar" or not form.definition:
        return ""
    return f"The input must match this grammar ({form.syntax or 'lark'}):\n{form.definition}"
