"""llmlb serves with a database that RouterDash has adopted: the effects of its SQL on the file."""

import json
import random
import sqlite3
import uuid
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

HISTORY = (
    "INSERT INTO request_history (id, timestamp, request_type, model, endpoint_id, endpoint_name, endpoint_ip, "
    "client_ip, request_body, response_body, duration_ms, status, error_message, completed_at, input_tokens, "
    "output_tokens, total_tokens, api_key_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
COUNTERS = (
    "UPDATE endpoints SET total_requests = total_requests + 1, successful_requests = successful_requests + ?, "
    "failed_requests = failed_requests + ? WHERE id = ?"
)
DAILY = (
    "INSERT INTO endpoint_daily_stats (endpoint_id, model_id, date, total_requests, successful_requests, "
    "failed_requests, total_output_tokens, total_duration_ms, api_kind) VALUES (?, ?, ?, 1, ?, ?, ?, ?, ?) "
    "ON CONFLICT(endpoint_id, model_id, date, api_kind) DO UPDATE SET total_requests = total_requests + 1, "
    "successful_requests = successful_requests + excluded.successful_requests, failed_requests = failed_requests + "
    "excluded.failed_requests, total_output_tokens = total_output_tokens + excluded.total_output_tokens, "
    "total_duration_ms = total_duration_ms + excluded.total_duration_ms"
)
# The type of a request, and the kind of its daily row: embeddings have none of their own.
KINDS = {
    "Chat": "chat_completions",
    "Generate": "completions",
    "Embeddings": "chat_completions",
    "AnthropicMessages": "chat_completions",
}
NIL = "00000000-0000-0000-0000-000000000000"


@dataclass
class Served:
    """The results. `counted` is in the counters of endpoints, the others are in the history."""

    counted: Counter[str] = field(default_factory=Counter)  # ok and failed
    endpoints: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    clients: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    minutes: Counter[str] = field(default_factory=Counter)


def serve_again(path: Path, requests: int, *, seed: int = 7, moment: datetime | None = None) -> Served:
    """Endpoints respond, some requests fail; one in ten is a response, which llmlb counts and keeps no history of, and
    one in twenty finds no endpoint, which it keeps in the history and counts nowhere else.
    """
    rng, served = random.Random(seed), Served()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA foreign_keys=ON")
        endpoints = db.execute(
            "SELECT id, name, model_id FROM endpoints JOIN endpoint_models ON endpoint_id = id ORDER BY 1, 3"
        ).fetchall()
        keys = [key for (key,) in db.execute("SELECT id FROM api_keys ORDER BY 1")]
        for number in range(requests):
            done = (moment or datetime.now(UTC)) - timedelta(milliseconds=requests - number)
            _serve(db, rng, served, rng.choice(endpoints), rng.choice(keys), done)
        db.commit()
    return served


def _serve(
    db: sqlite3.Connection,
    rng: random.Random,
    served: Served,
    endpoint: tuple[str, str, str],
    key: str,
    done: datetime,
) -> None:
    endpoint_id, _, model = endpoint
    ok, tokens, ms = rng.random() < 0.9, rng.randrange(1, 500), rng.randrange(20, 9000)
    what = rng.random()
    if what < 0.05:
        _history(db, rng, served, (NIL, "N/A", model), "Chat", key, done, ok=False, tokens=0, ms=1)
        return
    kind = "responses"
    if what > 0.15:
        request_type = rng.choice(list(KINDS))
        kind = KINDS[request_type]
        _history(db, rng, served, endpoint, request_type, key, done, ok=ok, tokens=tokens, ms=ms)
    db.execute(COUNTERS, (int(ok), int(not ok), endpoint_id))
    date = done.strftime("%Y-%m-%d")
    db.execute(DAILY, (endpoint_id, model, date, int(ok), int(not ok), tokens * ok, ms * ok, kind))
    served.counted["ok" if ok else "failed"] += 1
    served.endpoints[endpoint_id] += 1


def _history(
    db: sqlite3.Connection,
    rng: random.Random,
    served: Served,
    endpoint: tuple[str, str, str],
    request_type: str,
    key: str,
    done: datetime,
    *,
    ok: bool,
    tokens: int,
    ms: int,
) -> None:
    client, stamp = (
        f"10.9.8.{rng.randrange(1, 30)}",
        f"{done.strftime('%Y-%m-%dT%H:%M:%S.%f')}{rng.randrange(1000):03d}+00:00",
    )
    body = json.dumps({"model": endpoint[2]})
    usage = (11, tokens, 11 + tokens) if ok else (None, None, None)
    db.execute(
        HISTORY,
        (
            str(uuid.UUID(int=rng.getrandbits(128), version=4)), stamp, request_type, endpoint[2], *endpoint[:2],
            "0.0.0.0", client, body, None, ms, "success" if ok else "error", None if ok else "HTTP 500", stamp, *usage,
            key,
        ),
    )  # fmt: skip
    served.rows += 1
    served.input_tokens += usage[0] or 0
    served.output_tokens += usage[1] or 0
    served.clients[client] += 1
    served.models[endpoint[2]] += 1
    served.minutes[done.strftime("%Y-%m-%dT%H:%M:00Z")] += 1


def change_endpoints(path: Path, *, deleted: str, added: Mapping[str, str]) -> None:
    """Delete an endpoint by its ID and add others (ID to name)."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA foreign_keys=ON")
        db.execute("DELETE FROM endpoints WHERE id = ?", (deleted,))
        for endpoint_id, name in added.items():
            db.execute(
                "INSERT INTO endpoints (id, name, base_url, registered_at) VALUES (?, ?, ?, ?)",
                (endpoint_id, name, f"http://{name}.invalid", datetime.now(UTC).isoformat()),
            )
            db.execute("INSERT INTO endpoint_models (endpoint_id, model_id) VALUES (?, 'new-model')", (endpoint_id,))
        db.commit()
