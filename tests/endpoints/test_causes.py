"""Every stored error cause has a text on pages, in both languages."""

import ast
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.utils import translation
from hypothesis import given, settings
from hypothesis import strategies as st

from endpoints import causes
from gateway.base.causes import CODES, CONNECTION_REFUSED, pattern_of, read
from gateway.base.earlier_causes import EARLIER
from gateway.ipc import error_texts

ROOT = Path(__file__).parent.parent.parent
# Calls that take a cause, with the position of that argument.
PLACES = {
    "Unreachable": 0,
    "SyncFailed": 0,
    "Unsupported": 0,
    "KeyRequired": 0,
    "NoChatCompletion": 0,
    "end_early": 0,
    "UpstreamError": 1,
    "QueueRefusal": 2,
    "Ending": 3,
}


def written_in_place() -> Iterator[str]:
    """Yield the causes that code writes as a literal."""
    for folder in ("endpoints", "gateway"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for call in ast.walk(ast.parse(path.read_text())):
                if isinstance(call, ast.Call):
                    place = PLACES.get(getattr(call.func, "id", getattr(call.func, "attr", "")))
                    given = call.args[place] if place is not None and len(call.args) > place else None
                    if isinstance(given, ast.Constant | ast.JoinedStr):
                        yield f"{path}: {ast.unparse(call)}"


def test_all_causes_are_defined_in_one_place() -> None:
    assert list(written_in_place()) == []


def texts_of(template: str) -> st.SearchStrategy[str]:
    """Generate stored texts of a cause. One within another is a plain one."""
    return st.from_regex(pattern_of(template.replace("{cause}", CONNECTION_REFUSED)), fullmatch=True)


@pytest.mark.parametrize("code", sorted({*CODES.values(), *EARLIER.values()}))
def test_every_cause_has_a_text(code: str) -> None:
    assert code in causes.TEXTS


def test_no_text_is_without_a_cause() -> None:
    assert causes.TEXTS.keys() == {*CODES.values(), *EARLIER.values()}


@pytest.mark.parametrize(("template", "code"), [*CODES.items(), *EARLIER.items()])
@settings(max_examples=20)  # of each of many texts, which take long to generate
@given(data=st.data())
def test_a_stored_text_is_read_and_shown(template: str, code: str, data: st.DataObject) -> None:
    stored = data.draw(texts_of(template))
    cause = read(stored)
    assert cause is not None
    assert cause.code == code
    assert causes.shown(stored).count("%") <= stored.count(
        "%"
    )  # no placeholder is left; a model may have one in its name
    public = error_texts.is_own_text(stored)
    assert public is not ("{model}" in template or "{path}" in template)


def test_codes_are_unique() -> None:
    assert len(set(CODES.values())) == len(CODES)


def test_the_wording_of_earlier_releases_is_frozen() -> None:
    digest = hashlib.sha256(repr(sorted(EARLIER.items())).encode()).hexdigest()
    assert digest == "363a4ad40ef46db182d0c58d0ba73bf601d4239631887585e59aa8e32f051095"


@pytest.mark.parametrize(
    ("stored", "english", "japanese"),
    [
        ("connection refused", "connection refused", "接続拒否"),
        ("no answer within 0.5 s", "no response within 0.5 s", "0.5 秒以内に応答なし"),
        ("HTTP 503 (overloaded_error)", "HTTP 503 (overloaded_error)", "HTTP 503 (overloaded_error)"),
        ("The endpoint failed: timed out.", "The endpoint failed: timeout", "エンドポイントのエラー: タイムアウト"),
        ("a server's own words", "a server's own words", "a server's own words"),
        ("", "", ""),
    ],
)
def test_a_cause_is_shown_in_the_language_of_the_page(stored: str, english: str, japanese: str) -> None:
    with translation.override("en"):
        assert causes.shown(stored) == english
    with translation.override("ja"):
        assert causes.shown(stored) == japanese


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("an error in its answer (server_error)", "an error in its response (server_error)"),
        ("its answer has more than 64 MiB to be translated", "its response has more than 64 MiB to be translated"),
        ("the stream ended before its answer did", "the stream ended before its response was complete"),
        ("an empty answer", "an empty response"),
        ("a web page instead of an answer", "a web page instead of a response"),
        ("it tells no tokens", "it reports no token counts"),
        (
            "the endpoint's answer is no chat completion: it has no message",
            "the endpoint's response is not a chat completion: it has no message",
        ),
        ("it refuses the key that RouterDash has for it", "it rejects the API key that RouterDash sends"),
        ("RouterDash failed; its log says why", "an internal error of RouterDash; see its log"),
        ("The endpoint did not answer in time.", "The endpoint did not respond in time."),
        (
            "No endpoint that has the model 'm' can be asked now.",
            "No endpoint that has the model 'm' is available now.",
        ),
    ],
)
def test_the_wording_of_earlier_releases_is_shown_as_the_present_one(old: str, new: str) -> None:
    with translation.override("ja"):
        assert causes.shown(old) == causes.shown(new) != new


def test_every_cause_but_a_status_has_a_japanese_text() -> None:
    with translation.override("ja"):
        bare = {code for code, text in causes.TEXTS.items() if not re.search("[ぁ-んァ-ヶ一-龠]", str(text))}
    assert bare == {"status", "status_words"}
