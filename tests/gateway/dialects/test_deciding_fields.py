"""What passes the check of a body is read alike by servers that read JSON in different ways."""

import json
import re
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.base.errors import AMBIGUOUS_REQUEST, Refusal
from gateway.dialects.deciding_fields import FIELDS, LIST, TEXT, TRUTH, WHOLE_NUMBER, checking, field_of
from gateway.dialects.json_outline import MAX_REPEATED, outline_in_slices, outline_of, quick_outline
from gateway.loop.time_slices import run_unsliced
from tests.cpu_time import doublings, longest_slice_ms
from tests.gateway.dialects.test_json_outline import HOSTILE, READ_WHOLE

LONG_S, KELVIN = "\u017f", "\u212a"
MOST = ("max_output_tokens", "max_completion_tokens", "max_tokens", "n_predict", "n", "best_of")
NUMBERS = (*MOST, "num_predict")
VALUES = {TEXT.written: '"x"', LIST.written: "[]", TRUTH.written: "true", WHOLE_NUMBER.written: "1"}


def check(body: str | bytes, *, by_outline: bool = False) -> None:
    data = body.encode() if isinstance(body, str) else body
    run_unsliced(checking(data, run_unsliced(outline_in_slices(data)) if by_outline else None))


def refused(body: str | bytes, **options: bool) -> str | None:
    """Return the field that a refusal names; None: the body passes."""
    refusal = None
    try:
        check(body, **options)
    except Refusal as error:
        refusal = error
    if refusal is None:
        return None
    assert (refusal.status, refusal.code) == (400, AMBIGUOUS_REQUEST)
    assert refusal.message.startswith(f"`{refusal.param}` ")
    return refusal.param


# Two servers that differ as much as known ones do


class Object(list[tuple[str, Any]]):
    """The members of an object, as they are written."""


def first_wins(body: bytes) -> dict[str, Any]:
    """Read the fields as a server that matches names exactly, takes the first of two values, and converts none."""
    fields: dict[str, Any] = {}
    for name, value in json.loads(body, object_pairs_hook=Object):
        if name in FIELDS:
            fields.setdefault(name, first_inside(name, value) if isinstance(value, Object) else strictly(name, value))
    return fields


def first_inside(outer: str, value: Object) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, one in value:
        if name in INSIDE.get(outer, ()):
            fields.setdefault(name, strictly(name, one))
    return fields


def last_wins(body: bytes) -> dict[str, Any]:
    """Read the fields as Go does, without case and the last value, and convert them as pydantic does."""
    fields: dict[str, Any] = {}
    for name, value in json.loads(body, object_pairs_hook=Object):
        folded = as_go_folds(name)
        if folded in FIELDS:
            fields[folded] = last_inside(folded, value) if isinstance(value, Object) else leniently(folded, value)
    return fields


def last_inside(outer: str, value: Object) -> dict[str, Any]:
    folded = [(as_go_folds(name), one) for name, one in value]
    return {name: leniently(name, one) for name, one in folded if name in INSIDE.get(outer, ())}


def as_go_folds(name: str) -> str:
    """Fold as Go's `foldName` does for names in ASCII: the only others that fold to a letter of it are these two."""
    return name.replace(LONG_S, "s").replace(KELVIN, "k").lower()


INSIDE = {"options": {"num_predict"}, "stream_options": {"include_usage"}}
TRUTHS = {"stream", "background", "include_usage"}
TEXTS = {"model", "service_tier", "previous_response_id"}


def strictly(name: str, value: Any) -> Any:
    """Return the value as it is written; nothing if the field has another type."""
    types = {**dict.fromkeys(NUMBERS, int), **dict.fromkeys(TRUTHS, bool), **dict.fromkeys(TEXTS, str)}
    wanted = types.get(name, object)
    return value if wanted is object or type(value) is wanted else None


def leniently(name: str, value: Any) -> Any:
    """Return the value converted to the type of the field, by a server that computes with floating point."""
    if value is None:
        return None
    if name in NUMBERS:
        return (
            int(float(1 if value is True else value))
            if not isinstance(value, list) and re.fullmatch(r"-?\d.*|True", str(value))
            else value
        )
    if name in TRUTHS:
        return {"true": True, "1": True}.get(str(value).lower(), False)
    return str(value) if name in TEXTS else value


names = st.sampled_from(
    [
        *FIELDS,
        *("MODEL", "Model", "max_toKens", "Max_Tokens", "N", "be\u017ft_of", "keep_alive".upper(), "OPTIONS", "other"),
        f"max_to{KELVIN}ens",
        f"be{LONG_S}t_of",
        f"mode\u0131l{KELVIN}",
    ]
)
scalars = st.sampled_from(["small", "big", "100", "100.0", "true", 1, 100, 100.0, 1e2, 10**20, True, None, [1]])
inner = st.lists(st.tuples(st.sampled_from(["num_predict", "NUM_PREDICT", "include_usage", "x"]), scalars), max_size=3)
outer = st.sampled_from(["options", "OPTIONS", "stream_options"])
members = st.lists(
    st.tuples(names, scalars) | st.tuples(names, scalars) | st.tuples(outer, inner.map(Object)), max_size=6
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Write an object with some of its names in escapes, with blanks or without them."""
    blank = draw(st.sampled_from(["", " ", "\n\t"]))

    def written(value: Any) -> str:
        if not isinstance(value, Object):
            return json.dumps(value)
        return "{" + f"{blank},".join(f"{named(name)}{blank}:{blank}{written(one)}" for name, one in value) + "}"

    def named(name: str) -> str:
        if not draw(st.booleans()):
            return json.dumps(name, ensure_ascii=draw(st.booleans()))
        return '"' + "".join(f"\\u{ord(letter):04x}" for letter in name) + '"'

    return (blank + written(Object(draw(members))) + blank).encode()


@given(bodies())
@example(b'{"model":"small","MODEL":"big"}')
@example(b'{"model":"small","\\u006dodel":"big"}')
@example(b'{"options":{"num_predict":1,"num_predict":100}}')
@example(b'{"n":"100"}')
def test_what_passes_is_read_alike(body):
    """A strict server and a lenient one agree on each field of a body that is not refused."""
    if refused(body) is None:
        assert first_wins(body) == last_wins(body)


@given(bodies())
def test_all_ways_to_read_a_body_refuse_the_same(body):
    refusal = refused(body)
    assert refused(body, by_outline=True) == refusal
    quick = quick_outline(body)
    if quick is not None:
        assert quick == run_unsliced(outline_in_slices(body))


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_is_repeated_is_refused(name):
    value = VALUES.get(FIELDS[name].written, "{}")
    assert refused(f'{{"a":1,"{name}":{value}}}') is None
    assert refused(f'{{"{name}":{value},"a":1,"{name}":{value}}}') == name
    for spelled in {name.upper(), name.title(), name.replace("s", LONG_S), name.replace("k", KELVIN)} - {name}:
        assert refused(f'{{"{spelled}":{value}}}') == name
        assert refused(f'{{"{name}":{value},"{spelled}":{value}}}') == name


@pytest.mark.parametrize("name", [*MOST, "options.num_predict"])
@pytest.mark.parametrize(
    "value", ['"100"', "100.0", "1e2", "-1.5", "true", "[100]", "{}", '"x"', "1" + "0" * 15, '" 100"']
)
def test_a_number_that_servers_may_read_otherwise_is_refused(name, value):
    def body(number: str) -> str:
        outer, _, field = name.rpartition(".")
        return f'{{"{outer}":{{"{field}":{number}}}}}' if outer else f'{{"{field}":{number}}}'

    assert refused(body(value)) == name
    for clear in ("100", "0", "-1", "null", "9" * 15):
        assert refused(body(clear)) is None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ('{"model":7}', "model"),
        ('{"models":"x"}', "models"),
        ('{"stream":"true"}', "stream"),
        ('{"background":1}', "background"),
        ('{"stream_options":{"include_usage":"false"}}', "stream_options.include_usage"),
        ('{"stream_options":{"include_usage":true,"include_usage":false}}', "stream_options.include_usage"),
        ('{"options":{"num_predict":1,"NUM_PREDICT":2}}', "options.num_predict"),
    ],
)
def test_other_values_that_servers_may_read_otherwise_are_refused(body, field):
    assert refused(body) == field


@pytest.mark.parametrize(
    "body",
    [
        '{"a":1,"a":2,"model":"x"}',
        '{"A":1,"a":2,"model":"x"}',
        '{"model":"x","tools":[{"model":1,"MODEL":2,"n":"3"}],"messages":[{"n":1,"n":2}]}',
        '{"model":"x","options":[1],"keep_alive":"5m","temperature":"0.5"}',
        "{}",
        " { } ",
    ],
)
def test_what_does_not_decide_is_free(body):
    assert refused(body) is None


def test_an_error_does_not_quote_a_long_name():
    with pytest.raises(Refusal) as caught:
        check(b'{"model":"x","\\u006dODEL":"y"}')
    assert caught.value.message == (
        "`model` is spelled 'mODEL', which some servers read and others do not: write `model`."
    )


def test_too_many_repeated_names_are_refused():
    body = b'{"model":"x"%b}' % (b',"a":1' * (MAX_REPEATED + 2))
    with pytest.raises(Refusal) as caught:
        check(body)
    assert (caught.value.status, caught.value.code) == (413, "request_too_large")


def test_a_name_that_is_no_text_is_refused():
    with pytest.raises(Refusal) as caught:
        check(b'{"model":"x","a\\ud800":1}')
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "part",
    [b'"a%d":1,', b'"a":%d,', b'"messages":[%b1],' % (b'{"a":"b"},' * 40), b'"a%d":"\\u0061\\"",'],
    ids=["names", "a repeated name", "long values", "escapes"],
)
def test_the_check_is_linear(part):
    def body(size: int) -> bytes:
        parts = (part % number if b"%d" in part else part for number in range(size))
        return b'{%b"model":"x"}' % b"".join(parts)

    assert max(doublings(check, [body(100 << power) for power in range(4)], most=3)) <= 3  # 4 if it were quadratic


@pytest.mark.unmeasured
@pytest.mark.parametrize("body", READ_WHOLE.values(), ids=READ_WHOLE)
def test_no_slice_of_the_check_takes_50_ms_of_cpu(body):
    assert longest_slice_ms(checking(body)) < 50


@pytest.mark.unmeasured
@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_no_slice_of_an_outline_and_its_check_takes_50_ms_of_cpu(body):
    def work():
        top = yield from outline_of(body[: 4 << 20])
        yield from checking(body[: 4 << 20], top)

    assert longest_slice_ms(work()) < 50


@pytest.mark.parametrize("text", [b"x" * (30 << 20), b'\\"' * (15 << 20)], ids=["an image", "escapes"])
def test_the_check_of_a_huge_body_copies_nothing_of_it(text):
    body = b'{"model":"m","messages":[{"content":"%b"}],"n":1,"options":{"num_predict":1}}' % text
    tracemalloc.start()
    try:
        top = run_unsliced(outline_of(body))
        run_unsliced(checking(body, top))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_names_fold_as_they_do_in_go():
    assert [field_of(name) for name in ("model", "MODEL", "best_of", f"be{LONG_S}t_of", f"max_to{KELVIN}ens", "x")] == [
        "model", "model", "best_of", "best_of", "max_tokens", None,
    ]  # fmt: skip
    assert msgspec.json.decode(b'"\\u212a"') == KELVIN
