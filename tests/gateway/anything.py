"""JSON of any shape, for tests of the translations with arbitrary input."""

from hypothesis import strategies as st

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
OBJECTS = st.dictionaries(st.text(max_size=5), VALUES, max_size=3)


def shape(**fields):
    """An object whose fields may be missing or have any value."""
    return st.fixed_dictionaries({}, optional={name: value | VALUES for name, value in fields.items()})


# The message of a chat completion or the delta of a chunk.
DELTA = shape(
    content=st.text(),
    reasoning=st.text(),
    refusal=st.text(),
    tool_calls=st.lists(
        shape(index=st.integers(0, 2), id=st.text(), function=shape(name=st.text(), arguments=st.text())), max_size=3
    ),
)
