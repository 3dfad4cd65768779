"""Forms with files (RFC 7578) on the path to an endpoint: the model name is read while a form arrives. No I/O.

Two readers of one form must not find two models in it. Therefore constructs that parsers are known to read in different
ways are refused.
"""

import re
from collections.abc import Collection, Iterator

from gateway.base.errors import INVALID_REQUEST, Refusal
from gateway.base.types import Body, Data
from gateway.dialects.deciding_fields import check_name, field_of
from gateway.dialects.openai_requests import MAX_MODEL_NAME

READ = ("model", "stream")  # the fields that are read
MAX_HELD_BYTES = 8 << 20  # bytes within which the model must be named
MAX_PARTS = 100
MAX_PART_HEAD_BYTES = 16 << 10
MAX_VALUE_BYTES = 4 * MAX_MODEL_NAME  # bytes of a field that is read
MERGED_BYTES = 64 << 10  # smaller chunks are merged up to this size
MAX_PADDING_BYTES = 256  # blanks after a boundary

_TYPE = re.compile(rb"[ \t]*multipart/form-data[ \t]*((?:;.*)?)", re.IGNORECASE | re.DOTALL)
_PARAMETER = re.compile(
    rb"[ \t]*;[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s;,\"]+))[ \t]*", re.DOTALL
)
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*+([^\x00-\x08\x0a-\x1f\x7f]*+)")
_DISPOSITION = re.compile(rb"form-data[ \t]*((?:;.*)?)", re.IGNORECASE | re.DOTALL)
_PLAIN_CODINGS = (b"7bit", b"8bit", b"binary")
_PLAIN_KIND = re.compile(rb"(?!.*charset).*|.*;[ \t]*charset=\"?(?:utf-8|us-ascii)\"?")

_PREAMBLE, _BEHIND, _HEAD, _BODY, _CLOSED, _EPILOGUE = range(6)


class Form:
    """A form whose body is fed to it part by part.

    It stores the received parts until the caller releases them, and finds the fields `model` and `stream` at any place.
    """

    def __init__(self, content_type: bytes, checked: Collection[str] = ()) -> None:
        """Read the Content-Type. Raises Refusal (400) if it is no form, or has no proper boundary.

        `checked`: the fields whose names all servers must read alike, besides those that are read here.
        """
        self._checked = checked
        self.model: str | None = None  # None until it is found
        self.stream = False  # as far as the form was read
        self.held: list[Body] = []
        self.size = 0  # bytes fed
        self._holding = True
        self._delimiter = b"\r\n--" + _boundary(content_type)
        self._state = _PREAMBLE
        self._rest = b"\r\n"  # bytes not scanned yet; a boundary may be the very first line
        self._offset = -2  # offset of the rest in the form
        self._parts = 0
        self._field: str | None = None  # the field that is being read: model or stream; None for one that is skipped
        self._seen: set[str] = set()
        self._at = (0, 0)  # start and end of the model's name

    def feed(self, data: Body) -> None:
        """Take the next bytes. Raises Refusal (400) if the form is malformed, or names no model within 8 MiB."""
        self.size += len(data)
        if self._holding:
            self._hold(data)
        if self._state == _EPILOGUE:
            return
        buffer = self._rest + data if self._rest else bytes(data)
        position = 0
        while (then := self._step(buffer, position)) >= 0:
            position = then
        self._rest = buffer[position:]
        self._offset += position
        if self.size > MAX_HELD_BYTES and (self.model is None or self._at[1] > MAX_HELD_BYTES):
            raise _bad(
                f"`model` must stand within the first {MAX_HELD_BYTES >> 20} MiB of the form: put it before the files."
            )

    def _hold(self, data: Body) -> None:
        """Store a chunk. Small ones are merged: a client that sends byte by byte must not cost an object for each."""
        last = self.held[-1] if self.held else b""
        if isinstance(last, bytearray) and len(last) + len(data) < MERGED_BYTES:
            last += data
        else:
            self.held.append(bytearray(data) if len(data) < MERGED_BYTES else data)

    def finish(self) -> None:
        """Take the end of the body. Raises Refusal (400) if the form is incomplete, or names no model."""
        if self._state != _EPILOGUE and not (self._state == _CLOSED and not self._rest.strip(b" \t")):
            raise _bad("The form ends before its last boundary does.")
        if self.model is None:
            raise _missing()

    def let_go(self) -> None:
        """Discard the stored bytes and store no others: the form will not be sent from its beginning again."""
        self._holding = False
        self.held = []

    def pieces(self, model: str | None = None) -> Iterator[Data]:
        """Yield the stored parts, with another name for the model if one is given.

        Raises Refusal (400) for a name that a form cannot contain.
        """
        # Merged chunks do not grow any more.
        self.held = [bytes(piece) if len(piece) < MERGED_BYTES else piece for piece in self.held]
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
        """Return the bytes by which another name for the model lengthens the form; negative for a shorter one."""
        if model is None:
            return 0
        start, end = self._at
        return len(_encoded(model)) - (end - start)

    # Reading

    def _step(self, buffer: bytes, position: int) -> int:
        """Read one step. Return the position of the next one, or -1 while more bytes are needed; earlier bytes are not
        read again.
        """
        if self._state == _PREAMBLE or (self._state == _BODY and self._field is None):
            return self._skip(buffer, position)
        if self._state == _BODY:
            return self._read_value(buffer, position)
        if self._state == _BEHIND:
            return self._read_behind(buffer, position)
        if self._state == _HEAD:
            return self._read_head(buffer, position)
        return self._read_padding(buffer, position, _EPILOGUE) if self._state == _CLOSED else -1

    def _skip(self, buffer: bytes, position: int) -> int:
        boundary_at = buffer.find(self._delimiter, position)
        if boundary_at >= 0:
            self._state = _BEHIND
            return boundary_at + len(self._delimiter)
        kept = max(position, len(buffer) - len(self._delimiter) + 1)
        return kept if kept > position else -1

    def _read_value(self, buffer: bytes, position: int) -> int:
        end = buffer.find(self._delimiter, position)
        if (end if end >= 0 else len(buffer) - len(self._delimiter)) - position > MAX_VALUE_BYTES:
            raise _bad(f"`{self._field}` has more than {MAX_MODEL_NAME} characters.", self._field)
        if end < 0:
            return -1
        if self._field == "model":
            self.model = _model(buffer[position:end])
            self._at = self._offset + position, self._offset + end
        else:
            self.stream = buffer[position:end].strip().lower() in (b"true", b"1")
        self._state = _BEHIND
        return end + len(self._delimiter)

    def _read_behind(self, buffer: bytes, position: int) -> int:
        """Read the bytes after a boundary: another part follows, or the end."""
        if buffer.startswith(b"--", position):
            if self.model is None:
                raise _missing()
            self._state = _CLOSED
            return position + 2
        if buffer[position:] == b"-":
            return -1
        then = self._read_padding(buffer, position, _HEAD)
        if then >= 0:
            self._parts += 1
            if self._parts > MAX_PARTS:
                raise _bad(f"The form has more than {MAX_PARTS} parts.")
        return then

    def _read_padding(self, buffer: bytes, position: int, state: int) -> int:
        """Skip blanks at the end of a boundary's line."""
        end = buffer.find(b"\r\n", position)
        padding = buffer[position:end] if end >= 0 else buffer[position:].removesuffix(b"\r")
        if padding.strip(b" \t") or len(padding) > MAX_PADDING_BYTES:
            raise _bad("The form has a line that begins like its boundary but is not a boundary.")
        if end < 0:
            return -1
        self._state = state
        return end + 2

    def _read_head(self, buffer: bytes, position: int) -> int:
        end = buffer.find(b"\r\n\r\n", position)
        if (end if end >= 0 else len(buffer)) - position > MAX_PART_HEAD_BYTES:
            raise _bad(f"The header block of a part has more than {MAX_PART_HEAD_BYTES >> 10} KiB.")
        body = end + 4
        if end < 0 or len(buffer) < body + len(self._delimiter) - 2:
            return -1
        if buffer.startswith(self._delimiter[2:], body):  # some parsers take it for a boundary, others do not
            raise _bad("A part has no body.")
        self._field = self._named(buffer[position:end])
        self._state = _BODY
        return body

    def _named(self, head: bytes) -> str | None:
        """Return the name of a part's field if it is one to be read."""
        lines = _part_lines(head)
        parameters = _disposition(lines.get(b"content-disposition"))
        name = parameters[b"name"].decode("utf-8", "replace")
        text = name if name in READ else field_of(name, self._checked)
        if text is None:
            return None
        check_name(name, text, is_repeated=text in self._seen)
        self._seen.add(text)
        if text not in READ:
            return None
        if any(name.startswith(b"filename") for name in parameters):
            raise _bad(f"`{text}` must be a field, not a file.", text)
        coding, kind = lines.get(b"content-transfer-encoding"), lines.get(b"content-type", b"")
        if (coding and coding.lower() not in _PLAIN_CODINGS) or not _PLAIN_KIND.fullmatch(kind.lower()):
            raise _bad(f"`{text}` must be in the form without an encoding.", text)
        return text


def _part_lines(head: bytes) -> dict[bytes, bytes]:
    """Return the headers of a part by lower-case name."""
    lines: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n"):
        match = _LINE.fullmatch(line)
        if match is None:
            raise _bad("The header block of a part has a malformed line.")
        name = match[1].lower()
        if name in lines:
            raise _bad("The header block of a part has a repeated line.")
        lines[name] = match[2].strip(b" \t")
    return lines


def _bad(message: str, param: str | None = None) -> Refusal:
    return Refusal(400, INVALID_REQUEST, message, param=param)


def _missing() -> Refusal:
    return _bad("`model` is missing; GET /v1/models lists the models.", "model")


def _boundary(content_type: bytes) -> bytes:
    match = _TYPE.fullmatch(content_type)
    parameters = None if match is None else _parameters(match[1])
    if parameters is None:
        raise _bad("Send this request as multipart/form-data.")
    boundary = parameters.get(b"boundary", b"")
    if not _BOUNDARY.fullmatch(boundary):
        raise _bad("The Content-Type of a form must contain its boundary, of 1 to 70 characters.")
    return boundary


def _disposition(value: bytes | None) -> dict[bytes, bytes]:
    match = None if value is None else _DISPOSITION.fullmatch(value)
    parameters = None if match is None else _parameters(match[1])
    if not parameters or b"name" not in parameters:
        raise _bad("Each part of a form must have a Content-Disposition with its name.")
    if b"\\" in parameters[b"name"] or b"name*" in parameters:  # parsers differ in reading it
        raise _bad("The name of a part must not be encoded.")
    return parameters


def _parameters(text: bytes) -> dict[bytes, bytes] | None:
    """Return parameters by lower-case name, without the quotes of quoted values.

    Return None if the text has no parameters, or one is repeated.
    """
    parameters: dict[bytes, bytes] = {}
    position = 0
    while position < len(text):
        parameter = _PARAMETER.match(text, position)
        if parameter is None:
            return None if text[position:].strip(b" \t;") else parameters
        name = parameter[1].lower()
        if name in parameters:
            return None
        parameters[name] = parameter[3] if parameter[2] is None else parameter[2]
        position = parameter.end()
    return parameters


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
        raise _bad("The endpoint's name of this model cannot be sent in a form.", "model")
    return model.encode()
