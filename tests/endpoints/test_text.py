from typing import Any

import pytest
from django.core.exceptions import ValidationError

from access.models import ApiKey, User
from endpoints.models import Endpoint
from endpoints.text import validate_line, validate_text
from tests.access.people import Api
from tests.endpoints.conftest import make_endpoint

FORGED = "x\n2026-11-27 00:00:00,000 control INFO access.audit: FORGED"
NEVER = ["\x00", "\x07", "\x1b", "\x7f", "\x85", "\x9b", "\u2028", "\u2029", "\u202e", "\u2066"]
ONLY_IN_TEXT = ["\n", "\r\n", "\t"]


@pytest.mark.parametrize("text", ["", "gpu-box 3", "GPU サーバー（2号機）", "ÄÖÜ/ß-_.:@#", "👩\u200d💻"])
def test_normal_texts_are_accepted(text: str) -> None:
    validate_line(text)
    validate_text(text)


@pytest.mark.parametrize("character", NEVER)
def test_control_characters_are_refused_everywhere(character: str) -> None:
    for validate in (validate_line, validate_text):
        with pytest.raises(ValidationError):
            validate(f"a{character}b")


@pytest.mark.parametrize("character", ONLY_IN_TEXT)
def test_notes_may_have_lines_and_names_may_not(character: str) -> None:
    validate_text(f"a{character}b")
    with pytest.raises(ValidationError):
        validate_line(f"a{character}b")


@pytest.mark.parametrize(
    "fields",
    [{"name": FORGED}, {"tags": ["rack\x1b1"]}, {"notes": "a\x00b"}, {"notes": "\x9b31m"}, {"name": "\u202ebox"}],
)
def test_the_api_refuses_control_characters(manager: Api, fields: dict[str, Any]) -> None:
    path = f"/api/endpoints/{make_endpoint().pk}"
    response = manager.call("PATCH", path, fields)
    assert response.status_code == 400
    text = response.content.decode().lower()
    assert "control characters" in text or "null characters" in text
    assert Endpoint.objects.get().name == "gpu-box"


def test_an_address_with_a_line_break_is_refused(manager: Api) -> None:
    response = manager.call("PATCH", f"/api/endpoints/{make_endpoint().pk}", {"base_url": "http://a.invalid/\nx"})
    assert response.status_code == 400


def test_notes_of_several_lines_are_accepted(manager: Api) -> None:
    response = manager.call("PATCH", f"/api/endpoints/{make_endpoint().pk}", {"notes": "one\n\ttwo\r\n"})
    assert response.status_code == 200


@pytest.mark.parametrize("fields", [{"name": FORGED}, {"notes": "\x1b[2J"}])
def test_the_admin_refuses_control_characters(db: None, fields: dict[str, str]) -> None:
    endpoint = make_endpoint()
    for name, value in fields.items():
        setattr(endpoint, name, value)
    with pytest.raises(ValidationError) as refused:
        endpoint.full_clean()
    assert list(refused.value.message_dict) == list(fields)


def test_names_of_users_and_keys_have_one_line(db: None) -> None:
    with pytest.raises(ValidationError, match="control characters"):
        User(username=FORGED, password="x").full_clean()
    with pytest.raises(ValidationError, match="control characters"):
        ApiKey(name=FORGED).full_clean(exclude=["created_by", "key_hash"])
