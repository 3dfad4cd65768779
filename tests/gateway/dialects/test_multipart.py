"""Forms of clients and of attackers: exactly one model is found, or the form is refused."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.base.errors import Refusal
from gateway.dialects import multipart
from gateway.dialects.multipart import MAX_HELD_BYTES, MAX_PART_HEAD_BYTES, MAX_PARTS, Form

TYPE = b"multipart/form-data; boundary=XX"
MODEL = b'Content-Disposition: form-data; name="model"\r\n\r\nwhisper-1'
FILE = (
    b'Content-Disposition: form-data; name="file"; filename="a;name=model.wav"\r\nContent-Type: audio/wav\r\n\r\n'
    b"RIFF\r\n--X\r\n-\r\n\0\xff--XX"
)


def form_of(*parts, preamble=b"", end=b"--XX--\r\n"):
    return preamble + b"".join(b"--XX\r\n%b\r\n" % part for part in parts) + end


def disposition(parameters, value=b"whisper-1", *lines):
    head = b"\r\n".join((b"Content-Disposition: form-data; " + parameters, *lines))
    return form_of(head + b"\r\n\r\n" + value)


def read(data, content_type=TYPE, step=0):
    """Feed the form in pieces of `step` bytes."""
    form = Form(content_type)
    for start in range(0, len(data), step or len(data) or 1):
        form.feed(data[start : start + (step or len(data))])
    form.finish()
    return form


def refusal(data, content_type=TYPE):
    with pytest.raises(Refusal) as caught:
        read(data, content_type)
    assert caught.value.status == 400
    return caught.value.message


# Forms of clients


@pytest.mark.parametrize(
    "data",
    [
        form_of(MODEL),
        form_of(MODEL, FILE),
        form_of(FILE, MODEL),
        form_of(FILE, MODEL, FILE, preamble=b"for old readers\r\n", end=b"--XX-- \t\r\nmore for them\r\n--XX\r\n"),
        form_of(FILE, MODEL, end=b"--XX--"),
        form_of(MODEL).replace(b"--XX\r\n", b"--XX \t\r\n"),
        disposition(b'name="model"', b"whisper-1", b"Content-Type: text/plain; charset=utf-8"),
        disposition(b'name="model"', b"whisper-1", b"content-transfer-encoding: 8bit", b"X-Other: \xff"),
        disposition(b"name=model"),
        disposition(b'NAME = "model" ;'),
        form_of(MODEL.replace(b"Content-Disposition: form-data", b"CONTENT-disposition:Form-Data")),
    ],
)
def test_a_model_is_found(data):
    assert read(data).model == "whisper-1"


@pytest.mark.parametrize(
    "content_type",
    [
        b"multipart/form-data; boundary=XX",
        b'Multipart/Form-Data;charset=utf-8; Boundary="XX"',
        b" multipart/form-data ; boundary = XX ; ",
    ],
)
def test_a_boundary_is_found(content_type):
    assert read(form_of(MODEL), content_type).model == "whisper-1"


def test_an_odd_boundary_is_taken_as_it_is():
    data = form_of(MODEL).replace(b"XX", b"--+ (a)?:=")
    assert read(data, b'multipart/form-data; boundary="--+ (a)?:="').model == "whisper-1"


@pytest.mark.parametrize("name", [b"Model", b"model[]", b" model", b"", b"models", b"m\xf6del"])
def test_other_fields_pass_unread(name):
    assert read(form_of(disposition(b'name="%b"' % name, b"x")[6:-10], MODEL)).model == "whisper-1"


@pytest.mark.parametrize("parameters", [b'filename="C:\\\\a\\"b.wav"', b"filename*=UTF-8''%e2%82%ac", b'x="\xe4"'])
def test_file_names_are_passed_on_unread(parameters):
    assert read(form_of(FILE.replace(b'filename="a;name=model.wav"', parameters), MODEL)).model == "whisper-1"


@pytest.mark.parametrize(
    ("value", "stream"), [(b"true", True), (b"True", True), (b"1", True), (b"false", False), (b"", False)]
)
def test_the_stream_field(value, stream):
    assert read(form_of(MODEL, disposition(b'name="stream"', value)[6:-10])).stream is stream


def test_the_model_is_known_at_the_end_of_its_part():
    form = Form(TYPE)
    form.feed(b"--XX\r\n" + MODEL)
    assert form.model is None
    form.feed(b"\r\n--XX")
    assert form.model == "whisper-1"


@given(st.lists(st.integers(1, 40)))
def test_a_form_is_parsed_alike_however_it_is_cut(sizes):
    data = form_of(FILE, MODEL, FILE, preamble=b"\r\n--X\r\n", end=b"--XX-- \r\n.")
    form, position = Form(TYPE), 0
    for size in [*sizes, len(data)]:
        form.feed(data[position : position + size])
        position += size
    form.finish()
    assert (form.model, form.size, b"".join(form.pieces())) == ("whisper-1", len(data), data)


@pytest.mark.parametrize("step", range(1, 60))
def test_a_form_is_parsed_alike_in_equal_pieces_of_any_size(step):
    data = form_of(FILE, MODEL, FILE)
    form = read(data, step=step)
    assert b"".join(form.pieces("other")) == data.replace(b"whisper-1", b"other")


@given(st.binary(max_size=300).filter(lambda data: b"\r\n--XX" not in b"\r\n" + data + b"\r\n"))
def test_a_file_never_contains_a_part(content):
    data = form_of(b'Content-Disposition: form-data; name="file"\r\n\r\n' + content, MODEL)
    form = read(data, step=7)
    assert b"".join(form.pieces("w")) == data.replace(b"\r\n\r\nwhisper-1\r\n--XX--", b"\r\n\r\nw\r\n--XX--")


@given(st.binary(max_size=200), st.integers(1, 9))
def test_random_bytes_are_refused_without_an_exception(data, step):
    with pytest.raises(Refusal):
        read(data, step=step)


@given(st.data())
def test_a_form_with_a_wrong_byte_is_read_alike_in_one_piece_and_in_many(data):
    good = form_of(FILE, MODEL)
    position, byte = data.draw(st.integers(0, len(good) - 1)), data.draw(st.integers(0, 255))
    bad = good[:position] + bytes([byte]) + good[position + 1 :]

    def outcome(step):
        try:
            return read(bad, step=step).model
        except Refusal as refused:
            return refused.message

    assert outcome(0) == outcome(1) == outcome(5)


# Replaced names


@pytest.mark.parametrize("name", ["w", "openai/whisper-large-v3-turbo", "größer"])
def test_a_model_gets_another_name(name):
    data = form_of(FILE, MODEL, FILE)
    form = read(data, step=11)
    assert b"".join(form.pieces(name)) == data.replace(b"whisper-1", name.encode())
    assert form.growth(name) == len(name.encode()) - len(b"whisper-1")


def test_a_model_that_keeps_its_name_is_passed_on_unchanged():
    data = form_of(MODEL)
    form = read(data)
    assert (list(form.pieces()), form.growth(None)) == ([data], 0)


def test_a_name_cannot_break_out_of_its_part():
    with pytest.raises(Refusal, match="cannot be sent in a form"):
        list(read(form_of(MODEL)).pieces("x\r\n--XX--"))


def test_released_bytes_are_not_held():
    form = Form(TYPE)
    form.feed(form_of(MODEL, end=b""))
    form.let_go()
    form.feed(b"--XX--")
    form.finish()
    assert list(form.pieces()) == []


def test_a_large_file_is_held_without_being_copied():
    piece = bytes(1 << 20)
    form = Form(TYPE)
    form.feed(form_of(FILE)[:-20])
    form.feed(piece)
    assert form.held[1] is piece


# Refused


@pytest.mark.parametrize(
    "content_type",
    [
        b"",
        b"application/json",
        b"multipart/mixed; boundary=XX",
        b"multipart/form-data",
        b"multipart/form-data; boundary=",
        b"multipart/form-data; boundary=XX; boundary=YY",
        b"multipart/form-data; boundary=X X",
        b"multipart/form-data, text/plain; boundary=XX",
        b'multipart/form-data; boundary="X\\X"',
        b'multipart/form-data; boundary="XX ',
        b'multipart/form-data; boundary="XX "',
        b"multipart/form-data; boundary=" + b"X" * 71,
        b"multipart/form-data; boundary=X\xe4",
        b"multipart/form-data; boundary=XX,YY",
    ],
)
def test_without_a_proper_boundary(content_type):
    with pytest.raises(Refusal) as caught:
        Form(content_type)
    assert (caught.value.status, caught.value.code) == (400, "invalid_request")


@pytest.mark.parametrize("data", [b"", b"--XX--", form_of(), form_of(FILE), b"--YY\r\n" + MODEL + b"\r\n--YY--"])
def test_without_a_model(data):
    assert re.search("`model` is missing|ends before", refusal(data))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (form_of(MODEL, MODEL), "`model` is there more than once"),
        (disposition(b'name="model"', b""), "must name a model"),
        (disposition(b'name="model"', b" \t"), "must name a model"),
        (disposition(b'name="model"', b"\xff"), "not valid UTF-8"),
        (disposition(b'name="model"', b"x" * 257), "more than 256 characters"),
        (disposition(b'name="model"', b"x" * 5000), "more than 256 characters"),
        (disposition(b'name="model"; filename="m"'), "not a file"),
        (disposition(b"name=model; filename*=utf-8''m"), "not a file"),
        (disposition(b'name="model"', b"d2g=", b"Content-Transfer-Encoding: base64"), "without an encoding"),
        (disposition(b'name="model"', b"w\0", b"Content-Type: text/plain; charset=utf-16"), "without an encoding"),
        (form_of(MODEL, end=b""), "before its last boundary"),
        (form_of(MODEL, end=b"--XX"), "before its last boundary"),
        (form_of(MODEL, end=b"--XX-"), "before its last boundary"),
    ],
)
def test_a_model_that_could_be_read_in_another_way(data, message):
    assert message in refusal(data)


@pytest.mark.parametrize(
    "data",
    [
        form_of(MODEL).replace(b"--XX\r\n", b"--XXX\r\n", 1) + b"--XX\r\n",
        form_of(MODEL, end=b"--XX--x\r\n"),
        form_of(FILE.replace(b"--X\r\n", b"--XX.\r\n"), MODEL),
        form_of(MODEL).replace(b"--XX\r\n", b"--XX" + b" " * 300 + b"\r\n"),
        form_of(MODEL).replace(b"--XX\r\n", b"--XX\n"),
        form_of(MODEL.replace(b"\r\n", b"\n")),
        form_of(MODEL.replace(b"-Disposition:", b"-Disposition :")),
        form_of(MODEL.replace(b": form", b":\r\n form")),
        form_of(MODEL.replace(b"form-data", b"attachment")),
        form_of(MODEL.replace(b"form-data; ", b"form-data; name=other; ")),
        form_of(MODEL.replace(b'name="model"', b"")),
        form_of(MODEL.replace(b'"model"', b'"mo\\del"')),
        form_of(MODEL.replace(b'"model"', b"\"x\"; name*=utf-8''model")),
        form_of(MODEL.replace(b'"model"', b'"model')),
        form_of(MODEL.replace(b'"model"', b'"mod\0el"')),
        form_of(b"Content-Disposition: form-data; name=other\r\n" + MODEL),
        form_of(b"\r\nno head", MODEL),
        form_of(b"Content-Disposition: form-data; name=a\r\n", MODEL),
        b"--XX\r\nContent-Disposition: form-data; name=a\r\n\r\n" + form_of(MODEL),
    ],
)
def test_ambiguous_forms_are_refused(data):
    refusal(data)


def test_the_number_of_parts_has_a_limit():
    other = b"Content-Disposition: form-data; name=a\r\n\r\nb"
    assert read(form_of(*[other] * (MAX_PARTS - 1), MODEL)).model == "whisper-1"
    assert "more than 100 parts" in refusal(form_of(*[other] * MAX_PARTS, MODEL))


def test_the_header_block_of_a_part_has_a_limit():
    assert "more than 16 KiB" in refusal(form_of(b"X: " + b"x" * MAX_PART_HEAD_BYTES + b"\r\n" + MODEL))


def test_the_model_must_be_near_the_beginning():
    large = FILE + bytes(MAX_HELD_BYTES)
    assert read(form_of(MODEL, large)).model == "whisper-1"
    assert "put it before the files" in refusal(form_of(large, MODEL))


def test_a_second_model_is_refused_at_any_position(monkeypatch):
    monkeypatch.setattr(multipart, "MAX_HELD_BYTES", 100)
    assert "more than once" in refusal(form_of(MODEL, FILE * 50, MODEL))


@pytest.mark.parametrize(
    ("name", "message"), [(b"Model", "`model` is spelled 'Model'"), (b"N", "`n` is spelled 'N'"), (b"other", "")]
)
def test_names_that_servers_may_read_in_two_ways_are_refused_where_they_are_checked(name, message):
    data = form_of(MODEL.replace(b"model", name), MODEL)
    assert read(data).model == "whisper-1"
    form = Form(TYPE, ("model", "n"))
    if not message:
        form.feed(data)
        return
    with pytest.raises(Refusal, match=re.escape(message)):
        form.feed(data)


def test_a_form_that_is_received_byte_by_byte_is_held_in_few_pieces():
    part = b'--XX\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
    body = part % (b"model", b"m") + part % (b"file", b"x" * 100_000) + b"--XX--\r\n"
    form = Form(b"multipart/form-data; boundary=XX")
    for position in range(len(body)):
        form.feed(body[position : position + 1])
    form.finish()
    assert len(form.held) <= 3
    assert b"".join(form.pieces()) == body
    assert b"".join(form.pieces("other")) == body.replace(b"\r\nm\r\n", b"\r\nother\r\n")


def test_bytes_received_after_sending_are_held_too():
    beginning = b'--XX\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--XX'
    form = Form(b"multipart/form-data; boundary=XX")
    form.feed(beginning)
    sent = [memoryview(piece) for piece in form.pieces()]
    form.feed(b"--\r\n")
    assert b"".join(sent) == beginning
    assert b"".join(form.pieces()) == beginning + b"--\r\n"
