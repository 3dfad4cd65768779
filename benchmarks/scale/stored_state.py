"""Comparison of what each gateway does with what the database says."""

import random
from collections.abc import Iterator
from contextlib import closing

from benchmarks.scale import installation
from benchmarks.scale.connections import GatewayConnections
from benchmarks.scale.random_changes import MODEL, OwnState
from tests.router import RouterDash

NEWEST, SAMPLED = 200, 200  # keys that are tried at each gateway


def differences(router: RouterDash, state: OwnState) -> list[str]:
    """Return a text for each difference between a gateway and the database."""
    stored = StoredState(router, state)
    secrets = state.secrets[-NEWEST:]
    secrets += random.Random(len(state.secrets)).sample(state.secrets, min(SAMPLED, len(state.secrets)))
    with closing(GatewayConnections(router)) as connections:
        return [text for pid in connections.pids for text in _of_gateway(connections, pid, stored, secrets)]


class StoredState:
    """What the database says."""

    def __init__(self, router: RouterDash, state: OwnState) -> None:
        self.hashes = state.hashes()
        rows = router.query(
            "SELECT endpoints.id, name, status, COALESCE(operator_state, 'enabled') FROM endpoints "
            "LEFT JOIN endpoint_options ON endpoint_options.endpoint_id = endpoints.id"
        )
        self.serving = {
            str(row[0]): row[1] for row in rows if row[2] in ("online", "error", "pending") and row[3] == "enabled"
        }
        self.models: dict[str, set[str]] = {}
        for endpoint_id, model in router.query("SELECT endpoint_id, model_id FROM endpoint_models"):
            if str(endpoint_id) in self.serving:
                self.models.setdefault(model, set()).add(str(endpoint_id))
        self.endpoints = state.endpoints


def _of_gateway(connections: GatewayConnections, pid: int, stored: StoredState, secrets: list[str]) -> Iterator[str]:
    listed = connections.ask(pid, "GET", "/v1/models").json()["data"]
    models = {it["id"]: set(it["endpoint_ids"]) for it in listed}
    for name in sorted(models.keys() | stored.models.keys()):
        if models.get(name) != stored.models.get(name):
            yield f"gateway {pid}, model {name}: at {models.get(name)}, stored {stored.models.get(name)}"
    for number, endpoint_id in enumerate(stored.endpoints):
        answer = connections.chat(pid, MODEL.format(number))
        named = answer.headers.get("x-routerdash-endpoint") if answer.status == 200 else None
        expected = stored.serving.get(endpoint_id)
        if named != expected:
            yield f"gateway {pid}, endpoint {number}: {answer.status} from {named}, stored {expected}"
    for secret in secrets:
        status = connections.ask(pid, "GET", "/v1/models/none", key=secret).status
        if (status != 401) != (installation.hash_of(secret) in stored.hashes):
            yield f"gateway {pid}: {status} for the key …{secret[-6:]}"
