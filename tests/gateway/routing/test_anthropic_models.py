"""The model list as Anthropic's clients request it."""

import json

import pytest

from gateway.base.errors import Refusal
from gateway.loop.time_slices import run_unsliced
from gateway.registry.schema import Model, ModelName, Step, Target
from gateway.registry.writer import Changes
from gateway.routing.anthropic_models import Listed, get_page, listing
from tests.gateway.samples import make_endpoint

CHAT = ("chat",)


@pytest.fixture
def listed(control, roster):
    def make(*models):
        control.publish(make_endpoint("e", *models))
        assert roster.refresh()
        return run_unsliced(listing(roster))

    return make


def page(listed, query=b""):
    return json.loads(get_page(listed, query))


def ids(listed, query):
    models_page = page(listed, query)
    names = [entry["id"] for entry in models_page["data"]]
    assert [models_page["first_id"], models_page["last_id"]] == ([names[0], names[-1]] if names else [None, None])
    return names, models_page["has_more"]


def test_an_entry(listed):
    models_page = page(listed(Model("tiny", capabilities=CHAT, max_tokens=4096, max_output_tokens=512)))
    assert models_page == {
        "data": [
            {
                "type": "model",
                "id": "tiny",
                "display_name": "tiny",
                "created_at": "1970-01-01T00:00:00Z",
                "lifecycle": "active",
                "max_input_tokens": 4096,
                "max_tokens": 512,
            }
        ],
        "has_more": False,
        "first_id": "tiny",
        "last_id": "tiny",
    }


def test_limits_that_are_not_known_are_null(listed):
    (entry,) = page(listed(Model("tiny", capabilities=CHAT, max_tokens=4096), Model("new")))["data"][1:]
    assert (entry["max_input_tokens"], entry["max_tokens"]) == (4096, None)


def test_a_model_without_messages_is_left_out(listed):
    assert ids(listed(Model("embed", capabilities=("embeddings",)), Model("unknown")), b"")[0] == ["unknown"]


def test_a_model_name_has_its_date(listed, control, roster):
    listed(Model("tiny", capabilities=CHAT))
    name = ModelName(id="n", name="claude-local", steps=(Step((Target("tiny"),)),), created=1_700_000_000.5)
    control.registry.writer.apply(Changes(model_names={"n": name}))
    assert roster.refresh()
    entry = page(run_unsliced(listing(roster)))["data"][0]
    assert (entry["id"], entry["created_at"]) == ("claude-local", "2023-11-14T22:13:20Z")


NAMES = [f"m{number}" for number in range(5)]
FIVE = Listed(NAMES, [b'{"id":"%b"}' % name.encode() for name in NAMES])


@pytest.mark.parametrize(
    ("query", "expected", "has_more"),
    [
        (b"limit=1000", NAMES, False),
        (b"limit=2", ["m0", "m1"], True),
        (b"limit=2&after_id=m1", ["m2", "m3"], True),
        (b"limit=2&after_id=m2", ["m3", "m4"], False),
        (b"limit=2&after_id=m4", [], False),
        (b"limit=2&before_id=m4", ["m2", "m3"], True),
        (b"limit=2&before_id=m2", ["m0", "m1"], False),
        (b"limit=2&before_id=m0", [], False),
        (b"limit=2&after_id=m1%2Fgone", ["m2", "m3"], True),
        (b"beta=true&limit=1&unknown=1", ["m0"], True),
    ],
)
def test_pages(query, expected, has_more):
    assert ids(FIVE, query) == (expected, has_more)


def test_a_page_has_20_entries_unless_the_client_wants_others():
    many = Listed([f"{n:02}" for n in range(30)], [b'{"id":"%02d"}' % n for n in range(30)])
    names, has_more = ids(many, b"")
    assert (len(names), has_more) == (20, True)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        (b"limit=0", "limit"),
        (b"limit=1001", "limit"),
        (b"limit=-1", "limit"),
        (b"limit=ten", "limit"),
        (b"limit=%D9%A1", "limit"),
        (b"limit=" + b"9" * 5000, "limit"),
        (b"after_id=a&before_id=b", "before_id"),
        (b"a=1&" * 30 + b"limit=1", None),
    ],
)
def test_a_bad_query_is_refused(query, param):
    with pytest.raises(Refusal) as caught:
        get_page(FIVE, query)
    assert (caught.value.status, caught.value.param) == (400, param)
