"""Forms with files (RFC 7578) on their way to an endpoint: which model they ask for, read in passing. No I/O.

Two readers of one form must not find two models in it. Hence whatever parsers are known to read in different ways is
refused here, rather than guessed at.
"""

import re
from collections.abc import Iterator

from gateway.errors import INVALID_REQUEST, Refusal
from gateway.openai import MAX_MODEL_NAME
from gateway.outbox import Body, Data

MAX_HELD_BYTES = 8 << 20  # in which the model has to be named
MAX_PARTS = 100
MAX_PART_HEAD_BYTES = 16 << 10
MAX_VALUE_BYTES = 4 * MAX_MODEL_NAME  # of a field that is read
MERGED_BYTES = 64 << 10  # of small pieces that are held as one
MAX_PADDING_BYTES = 256  # blanks behind a boundary

_TYPE = re.compile(rb"[ \t]*multipart/form-data[ \t]*((?:;.*)?)", re.IGNORECASE | re.DOTALL)
_PARAMETER = re.compile(
    rb"[ \t]*;[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s;,\"]+))[ \t]*", re.DOTALL
)
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_DISPOSITION = re.compile(rb"form-data[ \t]*((?:;.*)?)", re.IGNORECASE | re.DOTALL)
_PLAIN_CODINGS = (b"7bit", b"8bit", b"binary")
_PLAIN_KIND = re.compile(rb"(?!.*charset).*|.*;[ \t]*charset=\"?(?:utf-8|us-ascii)\"?")

_PREAMBLE, _BEHIND, _HEAD, _BODY, _CLOSED, _EPILOGUE = range(6)


class Form:
    """Feed it a body as it comes. It holds what came until the caller lets go of it, and finds the fields `model` and
    `stream` wherever they stand.
    """

    def __init__(self, content_type: bytes) -> None:
        """Raises Refusal (400) for what is no form, or has no proper boundary."""
        self.model: str | None = None  # until it was found
        self.stream = False  # as far as is known
        self.held: list[Body] = []
        self.size = 0  # bytes fed
        self._holding = True
        self._delimiter = b"\r\n--" + _boundary(content_type)
        self._state = _PREAMBLE
        self._rest = b"\r\n"  # what was not looked at yet; a boundary may be the very first line
        self._offset = -2  # where the rest begins in the form
        self._parts = 0
        self._field: str | None = None  # the one that is being read: model, stream, or None for what passes unread
        self._seen: set[str] = set()
        self._at = (0, 0)  # where the model's name begins and ends

    def feed(self, data: Body) -> None:
        """The next bytes. Raises Refusal (400) for what is no proper form, or names no model within 8 MiB."""
        self.size += len(data)
        if self._holding:
            self._hold(data)
        if self._state == _EPILOGUE:
            return
        buffer = self._rest + data if self._rest else bytes(data)
        at = 0
        while (then := self._step(buffer, at)) >= 0:
            at = then
        self._rest = buffer[at:]
        self._offset += at
        if self.size > MAX_HELD_BYTES and (self.model is None or self._at[1] > MAX_HELD_BYTES):
            raise _bad(
                f"`model` must stand within the first {MAX_HELD_BYTES >> 20} MiB of the form: put it before the files."
            )

    def _hold(self, data: Body) -> None:
        """Small pieces are held as one: a client that sends byte by byte must not have each of them kept."""
        last = self.held[-1] if self.held else b""
        if isinstance(last, bytearray) and len(last) + len(data) < MERGED_BYTES:
            last += data
        else:
            self.held.append(bytearray(data) if len(data) < MERGED_BYTES else data)

    def finish(self) -> None:
        """The body is over. Raises Refusal (400) if the form is not whole, or names no model."""
        if self._state != _EPILOGUE and not (self._state == _CLOSED and not self._rest.strip(b" \t")):
            raise _bad("The form ends before its last boundary does.")
        if self.model is None:
            raise _missing()

    def let_go(self) -> None:
        """What comes from now on is not held, nor what was: the form will not be sent from its beginning again."""
        self._holding = False
        self.held = []

    def pieces(self, model: str | None = None) -> Iterator[Data]:
        """What is held, with another name for the model where one is given. Raises Refusal (400) for a name that
        cannot stand in a form.
        """
        self.held = [bytes(piece) if len(piece) < MERGED_BYTES else piece for piece in self.held]  # none grows any more
        if model is None:
            yield from self.held
            return
        name = _encoded(model)
        start, end = self._at
        offset = 0
        for piece in self.held:
            behind = offset + len(piece)
            if behind <= start or offset >= end:
                yield piece
            else:
                view = memoryview(piece)
                yield view[: max(0, start - offset)]
                if offset <= start:
                    yield name
                yield view[min(len(piece), end - offset) :]
            offset = behind

    def growth(self, model: str | None) -> int:
        """Bytes that the form gets longer by another name for the model; below 0 for a shorter one."""
        if model is None:
            return 0
        start, end = self._at
        return len(_encoded(model)) - (end - start)

    # Reading

    def _step(self, buffer: bytes, at: int) -> int:
        """Read on: where the next step begins, or -1 while too little has come. What lies before is done with."""
        if self._state == _PREAMBLE or (self._state == _BODY and self._field is None):
            return self._skip(buffer, at)
        if self._state == _BODY:
            return self._read_value(buffer, at)
        if self._state == _BEHIND:
            return self._read_behind(buffer, at)
        if self._state == _HEAD:
            return self._read_head(buffer, at)
        return self._read_padding(buffer, at, _EPILOGUE) if self._state == _CLOSED else -1

    def _skip(self, buffer: bytes, at: int) -> int:
        found = buffer.find(self._delimiter, at)
        if found >= 0:
            self._state = _BEHIND
            return found + len(self._delimiter)
        kept = max(at, len(buffer) - len(self._delimiter) + 1)
        return kept if kept > at else -1

    def _read_value(self, buffer: bytes, at: int) -> int:
        end = buffer.find(self._delimiter, at)
        if (end if end >= 0 else len(buffer) - len(self._delimiter)) - at > MAX_VALUE_BYTES:
            raise _bad(f"`{self._field}` has more than {MAX_MODEL_NAME} characters.", self._field)
        if end < 0:
            return -1
        if self._field == "model":
            self.model = _model(buffer[at:end])
            self._at = self._offset + at, self._offset + end
        else:
            self.stream = buffer[at:end].strip().lower() in (b"true", b"1")
        self._state = _BEHIND
        return end + len(self._delimiter)

    def _read_behind(self, buffer: bytes, at: int) -> int:
        """A boundary: more, or the end?"""
        if buffer.startswith(b"--", at):
            if self.model is None:
                raise _missing()
            self._state = _CLOSED
            return at + 2
        if buffer[at:] == b"-":
            return -1
        then = self._read_padding(buffer, at, _HEAD)
        if then >= 0:
            self._parts += 1
            if self._parts > MAX_PARTS:
                raise _bad(f"The form has more than {MAX_PARTS} parts.")
        return then

    def _read_padding(self, buffer: bytes, at: int, state: int) -> int:
        """Blanks at the end of a boundary's line."""
        end = buffer.find(b"\r\n", at)
        padding = buffer[at:end] if end >= 0 else buffer[at:].removesuffix(b"\r")
        if padding.strip(b" \t") or len(padding) > MAX_PADDING_BYTES:
            raise _bad("The form has a line that begins like its boundary and is none.")
        if end < 0:
            return -1
        self._state = state
        return end + 2

    def _read_head(self, buffer: bytes, at: int) -> int:
        end = buffer.find(b"\r\n\r\n", at)
        if (end if end >= 0 else len(buffer)) - at > MAX_PART_HEAD_BYTES:
            raise _bad(f"The head of a part has more than {MAX_PART_HEAD_BYTES >> 10} KiB.")
        body = end + 4
        if end < 0 or len(buffer) < body + len(self._delimiter) - 2:
            return -1
        if buffer.startswith(self._delimiter[2:], body):  # to some readers a boundary, to others not
            raise _bad("A part has no body.")
        self._field = self._named(buffer[at:end])
        self._state = _BODY
        return body

    def _named(self, head: bytes) -> str | None:
        """The field that a part is, if it is one to be read."""
        lines = _part_lines(head)
        parameters = _disposition(lines.get(b"content-disposition"))
        field = parameters[b"name"]
        if field not in (b"model", b"stream"):
            return None
        text = field.decode()
        if any(name.startswith(b"filename") for name in parameters):
            raise _bad(f"`{text}` must be a field, not a file.", text)
        coding, kind = lines.get(b"content-transfer-encoding"), lines.get(b"content-type", b"")
        if (coding and coding.lower() not in _PLAIN_CODINGS) or not _PLAIN_KIND.fullmatch(kind.lower()):
            raise _bad(f"`{text}` must stand in the form as it is, not encoded.", text)
        if text in self._seen:
            raise _bad(f"The form has two fields `{text}`.", text)
        self._seen.add(text)
        return text


def _part_lines(head: bytes) -> dict[bytes, bytes]:
    """What a part says of itself, by lower-case name."""
    lines: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n"):
        found = _LINE.fullmatch(line)
        if found is None:
            raise _bad("The head of a part has a line that is none.")
        name = found[1].lower()
        if name in lines:
            raise _bad("The head of a part has a line twice.")
        lines[name] = found[2].strip(b" \t")
    return lines


def _bad(message: str, param: str | None = None) -> Refusal:
    return Refusal(400, INVALID_REQUEST, message, param=param)


def _missing() -> Refusal:
    return _bad("`model` is missing; GET /v1/models lists the models there are.", "model")


def _boundary(content_type: bytes) -> bytes:
    found = _TYPE.fullmatch(content_type)
    parameters = None if found is None else _parameters(found[1])
    if parameters is None:
        raise _bad("Send this request as multipart/form-data.")
    boundary = parameters.get(b"boundary", b"")
    if not _BOUNDARY.fullmatch(boundary):
        raise _bad("The Content-Type of a form must tell its boundary, of 1 to 70 characters.")
    return boundary


def _disposition(value: bytes | None) -> dict[bytes, bytes]:
    found = None if value is None else _DISPOSITION.fullmatch(value)
    parameters = None if found is None else _parameters(found[1])
    if not parameters or b"name" not in parameters:
        raise _bad("Each part of a form must have a Content-Disposition with its name.")
    if b"\\" in parameters[b"name"] or b"name*" in parameters:  # would be read in several ways
        raise _bad("The name of a part must be written plainly.")
    return parameters


def _parameters(text: bytes) -> dict[bytes, bytes] | None:
    """By lower-case name, quoted ones without their quotes and else as they are. None if these are no parameters, or
    one is there twice.
    """
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(text):
        parameter = _PARAMETER.match(text, at)
        if parameter is None:
            return None if text[at:].strip(b" \t;") else found
        name = parameter[1].lower()
        if name in found:
            return None
        found[name] = parameter[3] if parameter[2] is None else parameter[2]
        at = parameter.end()
    return found


def _model(value: bytes) -> str:
    try:
        model = value.decode()
    except UnicodeDecodeError:
        raise _bad("`model` is not valid UTF-8.", "model") from None
    if not model.strip():
        raise _bad("`model` must name a model; GET /v1/models lists them.", "model")
    if len(model) > MAX_MODEL_NAME:
        raise _bad(f"`model` has more than {MAX_MODEL_NAME} characters.", "model")
    return model


def _encoded(model: str) -> bytes:
    if "\r" in model or "\n" in model:
        raise _bad("The name that the endpoint gives this model cannot stand in a form.", "model")
    return model.encode()
