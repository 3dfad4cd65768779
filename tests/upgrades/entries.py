"""What an administrator enters in the installation of an archive: model names, prices, rates of hardware, limits.

`enter` uses the JSON API. `stored` reads all of it back, with the figures that follow from it.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.router import RouterDash

PRICED_FROM = "2020-01-01T00:00:00Z"  # so that all requests of the archive have their price
FAR_AWAY = "2090-01-01T00:00:00Z"

# Names that requests of the archive use. Their first steps lead to the disabled endpoint or to other names.
MODEL_NAMES: dict[str, dict[str, Any]] = {
    "fast": {
        "steps": [
            {"targets": [{"model": "retired", "weight": 1}], "if_full_secs": 2.5, "if_too_long": False},
            {"targets": [{"model": "tiny", "weight": 90, "tag": "gpu"}, {"model": "tiny", "weight": 10}]},
        ],
        "defaults": {"temperature": 0.2},
        "overrides": {"max_tokens": 64},
        "dropped": ["logit_bias"],
        "note": "Chat of the house. 家",
    },
    "claude-*": {"steps": [{"targets": [{"model": "fast"}], "if_failed": False}], "echo_served": True},
    "reliable": {
        "steps": [
            {"targets": [{"model": "broken"}]},
            {"targets": [{"model": "shared"}], "if_unavailable": False},
            {"targets": [{"model": "tiny"}]},
        ],
        "external": True,
    },
    "vectors": {"steps": [{"targets": [{"model": "bge-m3"}]}], "same_vectors": True},
    "off": {"steps": [{"targets": [{"model": "tiny"}]}], "enabled": False},
}

# A rule of each kind: by name, pattern, endpoint, type of endpoint, size of prompt, service tier, hours, and period.
PRICES: tuple[dict[str, Any], ...] = (
    {
        "pattern": "tiny", "currency": "USD", "input": "0.15", "cached": "0.075", "write_short": "0.2",
        "write_long": "0.3", "output": "0.6", "reasoning": "0.9", "request": "0.01", "note": "Exact name",
    },
    {"pattern": "tiny", "currency": "USD", "min_prompt": 1000, "input": "0.3", "output": "1.2"},
    {"pattern": "tiny", "currency": "USD", "tier": "batch", "input": "0.07", "output": "0.3"},
    {
        "pattern": "tiny", "currency": "USD", "window_start": 0, "window_end": 1, "weekdays": 1,
        "valid_from": "2021-01-01T00:00:00Z", "input": "9", "output": "9",
    },
    {"pattern": "tiny", "currency": "USD", "valid_from": FAR_AWAY, "input": "1", "output": "1"},
    {"pattern": "llama3.3*", "currency": "EUR", "input": "0.000000001", "output": "123.456789012"},
    {"pattern": "*", "endpoint_id": "shed", "currency": "JPY", "request": "1000", "image": "5", "minute": "6"},
    {"pattern": "bge-*", "endpoint_type": "vllm", "currency": "EUR", "valid_until": FAR_AWAY, "input": "0.02"},
    {"pattern": "slow", "currency": "USD", "input": "0", "output": "0"},
)  # fmt: skip
CURRENCY_RATES: tuple[dict[str, Any], ...] = (
    {"currency": "EUR", "rate": "1.0875", "valid_from": PRICED_FROM},
    {"currency": "EUR", "rate": "1.2", "valid_from": FAR_AWAY},
)  # JPY has none: such costs are listed apart

# Of each endpoint. Those without a start begin in the next minute of the first day of the archive; the one that counts
# ends a day before the last day, so that all of its hours are counted when the archive is made.
HARDWARE_RATES: tuple[dict[str, Any], ...] = (
    {"endpoint_id": "basement", "currency": "EUR", "per_hour": "0.4", "valid_until": "the end", "note": "Rent"},
    {
        "endpoint_id": "attic", "currency": "USD", "per_hour": "0.1", "idle_watts": "60", "busy_watts": "350",
        "per_kwh": "0.31", "valid_until": "the end",
    },
    {"endpoint_id": "basement", "currency": "EUR", "per_hour": "0.5", "valid_from": FAR_AWAY},
)  # fmt: skip

# Limits that the traffic of the archive stays below, except that of the key "spent".
LIMITS: dict[str, dict[str, Any]] = {
    "key/laptop": {
        "concurrency": 200, "requests": 100_000, "tokens": 100_000_000, "waiting": ["concurrency", "tokens"],
        "budgets": [
            {"unit": "money", "period": "total", "amount": "1000.000000001", "instead": "reliable"},
            {"unit": "tokens", "period": "month", "amount": 10_000_000_000, "hard": True},
        ],
    },
    "key/spent": {"budgets": [{"unit": "tokens", "period": "total", "amount": 60}]},
    "user/vera": {"requests": 600, "budgets": [{"unit": "money", "period": "week", "amount": "2.5"}]},
    "everyone": {
        "concurrency": 1000,
        "budgets": [{"unit": "money", "period": "day", "amount": "5000", "refuses_unpriced": False}],
    },
}  # fmt: skip


def enter(router: RouterDash, endpoints: Mapping[str, str], subjects: Mapping[str, str], end: datetime) -> None:
    """Enter everything by the API, with an API key that may. `endpoints` and `subjects` map names to ids, those of API
    keys and users as in LIMITS; rates of hardware end at `end`.
    """
    for name, document in MODEL_NAMES.items():
        _created(router, "/api/model-names", {"name": name, **document})
    for document in PRICES:
        _created(router, "/api/prices", {"valid_from": PRICED_FROM, **_at_endpoint(document, endpoints)})
    for document in CURRENCY_RATES:
        _created(router, "/api/currency-rates", document)
    for document in HARDWARE_RATES:
        ending = {"valid_until": f"{end:%Y-%m-%dT%H:00:00Z}"} if "valid_until" in document else {}
        _created(router, "/api/hardware-rates", _at_endpoint(document, endpoints) | ending)
    for subject, document in LIMITS.items():
        response = router.request("PUT", f"/api/limits/{_subject_path(subject, subjects)}", document)
        assert response.status == 200, response


def stored(router: RouterDash, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that was entered, as the API reports it, and the figures that are made from it: costs of own
    hardware by month, and what is learned.
    """
    limits = router.get("/api/limits").json()["limits"]
    return {
        "model_names": router.get("/api/model-names").json()["model_names"],
        "prices": _by_id(router.get("/api/prices?limit=1000").json()["prices"]),
        "currency_rates": _by_id(router.get("/api/currency-rates").json()["rates"]),
        "hardware_rates": _by_id(router.get("/api/hardware-rates").json()["rates"]),
        "limits": sorted(limits, key=lambda document: (document["level"], document["subject"])),
        "hardware": {month: _whole_month(router, month) for month in _months(manifest)},
        "learned": learned(router),
        "spent": {f"{document['level']}/{document['name']}": _spent(router, document) for document in limits},
    }


def learned(router: RouterDash) -> dict[str, list[list[Any]]]:
    """Return of what something is learned: models, endpoints and kinds, by table."""
    names = {row["id"]: row["name"] for row in router.get("/api/endpoints").json()["endpoints"]}
    columns = {
        "learning_speeds": "endpoint_id, model, kind",
        "learning_loads": "endpoint_id, model",
        "learning_lengths": "'', model, api_key_id",
    }
    rows = {table: router.query(f"SELECT {selected} FROM {table}") for table, selected in columns.items()}
    return {
        table: sorted([names.get(row[0], row[0]), *row[1:]] for row in table_rows) for table, table_rows in rows.items()
    }


def _spent(router: RouterDash, document: Mapping[str, Any]) -> list[Any]:
    """Return what is spent of the budgets of a subject that have no end; others depend on the present time."""
    path = f"{document['level']}/{document['subject']}".rstrip("/")
    use = router.get(f"/api/limits/{path}/use").json()
    return [budget["spent"] for budget in use["budgets"] if budget["period"] == "total"]


def _whole_month(router: RouterDash, month: str) -> Any:
    return router.get(f"/api/hardware?month={month}").json()


def _months(manifest: Mapping[str, Any]) -> list[str]:
    """Return the months between the first and the last day of an archive, such as 2026-11."""
    first, last = (datetime.fromisoformat(manifest[name]) for name in ("first_day", "last_day"))
    days = ((first + timedelta(days=number)).replace(tzinfo=UTC) for number in range((last - first).days + 1))
    return sorted({f"{day:%Y-%m}" for day in days})


def _by_id(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: row["id"])


def _at_endpoint(document: Mapping[str, Any], endpoints: Mapping[str, str]) -> dict[str, Any]:
    name = document.get("endpoint_id")
    return {**document, **({"endpoint_id": endpoints[name]} if name else {})}


def _subject_path(subject: str, subjects: Mapping[str, str]) -> str:
    level, _, name = subject.partition("/")
    return f"{level}/{subjects[name]}" if name else level


def _created(router: RouterDash, path: str, document: Mapping[str, Any]) -> None:
    response = router.post(path, document)
    assert response.status == 201, (path, document, response)
