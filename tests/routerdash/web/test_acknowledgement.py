"""The middleware that waits for gateways, with an installation whose gateways confirm late or never."""

from collections.abc import Iterator

import pytest

from endpoints.models import Endpoint
from routerdash.web import acknowledgement
from tests.access.people import Api
from tests.metrics.records import A
from tests.metrics.world import add_endpoint, fake_installation

pytestmark = pytest.mark.django_db(transaction=True)


class Gateways:
    """Gateways that confirm a change after so many looks of the middleware; None: never."""

    def __init__(self, looks: int | None) -> None:
        self.looks = looks
        self.seen = 0
        self.revisions: Iterator[int] = iter(range(100))
        installation = fake_installation()
        installation.revision = lambda: next(self.revisions)
        installation.is_pending = self._is_pending
        installation.pending_reason = lambda: "gateway 7 sleeps" if self._late else None

    @property
    def _late(self) -> bool:
        return self.looks is None or self.seen < self.looks

    def _is_pending(self) -> bool:
        late = self._late
        self.seen += 1
        return late


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that only sleeping moves."""
    now = [1000.0]

    class Time:
        @staticmethod
        def monotonic() -> float:
            return now[0]

        @staticmethod
        def sleep(seconds: float) -> None:
            now[0] += seconds

    monkeypatch.setattr(acknowledgement, "time", Time)
    return now


@pytest.fixture
def endpoint() -> str:
    add_endpoint(A, "a")
    return A


def test_a_change_is_acknowledged_when_all_gateways_confirm_it(
    as_admin: Api, endpoint: str, clock: list[float]
) -> None:
    gateways = Gateways(looks=5)
    response = as_admin.call("POST", f"/api/endpoints/{endpoint}/disable")
    assert (response.status_code, response.json()["operator_state"]) == (200, "disabled")
    assert "pending" not in response.json()
    assert gateways.seen >= 5
    assert clock[0] == pytest.approx(1000 + 5 * acknowledgement.STEP_SECONDS)


def test_after_a_second_the_reason_is_given(as_admin: Api, endpoint: str, clock: list[float]) -> None:
    Gateways(looks=None)
    response = as_admin.call("POST", f"/api/endpoints/{endpoint}/disable")
    assert (response.status_code, response.json()["operator_state"]) == (202, "disabled")
    assert response.json()["pending"] == "gateway 7 sleeps"
    assert clock[0] == pytest.approx(1000 + acknowledgement.WAIT_SECONDS, abs=0.01)


def test_a_response_without_a_body_gets_one(as_admin: Api, endpoint: str) -> None:
    Gateways(looks=None)
    response = as_admin.call("DELETE", f"/api/endpoints/{endpoint}")
    assert (response.status_code, response.json()) == (202, {"pending": "gateway 7 sleeps"})
    assert response["Content-Type"] == "application/json"
    assert not Endpoint.objects.exists()


def test_reading_does_not_wait(as_admin: Api, endpoint: str) -> None:
    gateways = Gateways(looks=None)
    assert as_admin.call("GET", f"/api/endpoints/{endpoint}").status_code == 200
    assert gateways.seen == 0


def test_an_error_does_not_wait(as_admin: Api, endpoint: str) -> None:
    gateways = Gateways(looks=None)
    assert as_admin.call("PATCH", f"/api/endpoints/{endpoint}", {"name": ""}).status_code == 400
    assert gateways.seen == 0


def test_a_request_that_publishes_nothing_does_not_wait(as_admin: Api, endpoint: str) -> None:
    gateways = Gateways(looks=None)
    fake_installation().revision = lambda: 3
    assert as_admin.call("POST", f"/api/endpoints/{endpoint}/disable").status_code == 200
    assert gateways.seen == 0


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "The change is stored, but it is not in effect everywhere yet: gateway 7 sleeps."),
        ("ja", "変更は保存されましたが、まだすべてのゲートウェイには反映されていません（gateway 7 sleeps）。"),
    ],
)
def test_a_page_shows_the_reason(as_admin: Api, endpoint: str, language: str, text: str) -> None:
    Gateways(looks=None)
    given = as_admin.post(
        "/endpoints/act", {"action": "enable", "endpoint": endpoint}, follow=True, headers={"accept-language": language}
    )
    assert text in given.content.decode()
