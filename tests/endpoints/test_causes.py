"""Every stored error cause has a text on pages, in both languages."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.utils import translation
from hypothesis import given
from hypothesis import strategies as st

from endpoints import causes
from endpoints.models import REMARKS
from gateway.base.destinations import LINK_LOCAL, OUTSIDE
from gateway.ipc import error_texts, record

ROOT = Path(__file__).parent.parent.parent
FOLDERS = ("endpoints", "gateway/upstream", "gateway/inference", "gateway/http", "gateway/dialects")
# Calls that take a cause, with the position of that argument.
PLACES = {
    "Unreachable": 0,
    "SyncFailed": 0,
    "Unsupported": 0,
    "KeyRequired": 0,
    "_fail": 0,
    "end_early": 0,
    "UpstreamError": 1,
    "QueueRefusal": 2,
    "Ending": 3,
}
KEYWORDS = {"finish": "error"}
RETURNED_BY = {"_reason", "_unusable_reason", "_cancel_reason"}  # functions that return a cause


def text_of(node: ast.AST) -> str | None:
    """Return the text of a literal; values of an f-string become 5."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "5" for part in node.values)
    return None


def stored_texts() -> Iterator[str]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text())
            for function in ast.walk(tree):
                if isinstance(function, ast.FunctionDef) and function.name in RETURNED_BY:
                    found = [node.value for node in ast.walk(function) if isinstance(node, ast.Return) and node.value]
                    yield from (text for node in found for part in ast.walk(node) if (text := text_of(part)))
            for call in ast.walk(tree):
                if not isinstance(call, ast.Call):
                    continue
                name = getattr(call.func, "id", getattr(call.func, "attr", ""))
                given = [keyword.value for keyword in call.keywords if keyword.arg == KEYWORDS.get(name)]
                if name in PLACES and len(call.args) > PLACES[name]:
                    given.append(call.args[PLACES[name]])
                yield from (text for node in given if (text := text_of(node)) is not None)


STORED = sorted(
    {*stored_texts(), *REMARKS, LINK_LOCAL, OUTSIDE, error_texts.HIDDEN_ERROR, record.CONNECTION_REFUSED, "HTTP 500"}
)


def is_known(stored: str) -> bool:
    return any(known.match(stored) for known in causes.CAUSES)


def test_the_texts_of_the_code_are_found() -> None:
    assert {"connection refused", "no answer within 5 s", "an operator cancelled it", "the client left"} <= set(STORED)
    assert len(STORED) > 35


@pytest.mark.parametrize("stored", STORED)
def test_a_stored_text_is_in_the_table(stored: str) -> None:
    assert is_known(stored) or is_known(stored.replace("5", ""))


@given(st.from_regex(error_texts._OWN_TEXT, fullmatch=True))
def test_every_text_of_a_failed_request_is_in_the_table(stored: str) -> None:
    assert is_known(stored)


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
        bare = [known.stored for known in causes.CAUSES if not re.search("[ぁ-んァ-ヶ一-龠]", str(known.text))]
    assert len(bare) == 2
    assert all("HTTP" in stored for stored in bare)
