"""Restrictions and rotation of API keys, from the JSON API to the gateways and through a restart."""

from typing import Any

import pytest

from benchmarks.simulator import Simulator
from tests.router import RouterDash
from tests.withdrawals import OwnKeys, chat

pytestmark = pytest.mark.every_database


def test_a_changed_key_is_in_effect_at_once_and_after_a_restart(router: RouterDash, sim: Simulator) -> None:
    router.add(sim.add())
    keys = OwnKeys(router)
    key_id, secret = keys.create()

    def status(value: str = secret) -> tuple[int, str]:
        response = chat(router, value)
        return response.status, "" if response.status == 200 else response.json()["error"]["code"]

    def change(**fields: Any) -> None:
        name = f"/{key_id}"
        assert keys.call("PUT", name, {"name": "restricted", **fields})[0] == 200

    assert status() == (200, "")
    change(rules={"models": ["other"]})
    assert status() == (403, "model_not_allowed")
    change(rules={"models": ["ti*"]}, enabled=False)
    assert status() == (401, "key_disabled")
    change(enabled=True)
    assert status() == (200, "")
    code, rotated = keys.call("POST", f"/{key_id}/rotate", {"overlap_secs": 3600})
    assert (code, rotated["id"]) == (200, key_id)
    assert [status(value) for value in (secret, rotated["key"])] == [(200, "")] * 2
    router.stop()
    router.start()
    assert [status(value) for value in (secret, rotated["key"])] == [(200, "")] * 2
    assert keys.call("DELETE", f"/{key_id}")[0] == 204
    assert [status(value)[0] for value in (secret, rotated["key"])] == [401, 401]
