"""L3: roll-ups by client are the requests of the history, by their client addresses."""

import ipaddress
import json

from metrics import sql
from metrics.reconcile.comparison import Comparison, Query
from metrics.reconcile.history import counted
from metrics.reconcile.scope import Scope, sqlite
from metrics.reconcile.tables import CLIENT, CLIENT_DAY, CLIENT_HOUR, OUTCOMES


def hours(scope: Scope) -> Comparison | None:
    """Express L3: hours of clients are the requests of the history, from the first whole hour on that counted them."""
    return _clients(scope, "rollup_client_hours", CLIENT_HOUR, 60)


def days(scope: Scope) -> Comparison | None:
    """Express L3: days (UTC) of clients, by API key and model, are the requests of the history."""
    return _clients(scope, "rollup_client_days", CLIENT_DAY, 24 * 60)


def _clients(scope: Scope, table: str, keys: tuple[str, ...], minutes: int) -> Comparison | None:
    if scope.clients_since is None:
        return None
    span = keys[0]
    first = -(-max(scope.history_since, scope.clients_since) // minutes)  # the next whole hour or day
    columns = [f"minute / {minutes} AS {span}", "client_ip", "api_key_id", "model", *OUTCOMES]
    requests = counted(scope, first * minutes).select(
        [*columns, "input_tokens", "output_tokens"], where="client_ip IS NOT NULL"
    )
    return Comparison(
        law="L3",
        table=table,
        source="request_history",
        keys=keys,
        columns=CLIENT if scope.every_row else ("requests_failed", "requests_cancelled"),
        expected=requests,
        found=Query(sql.select("*", table, where=f"{span} >= %s"), (first,)),
    )


def all_clients(scope: Scope) -> Comparison:
    """Express L3: the hour of all clients is the sum over clients, and over requests whose addresses were removed."""
    return Comparison(
        law="L3",
        table="rollup_all_clients",
        source="rollup_client_hours",
        keys=("hour",),
        columns=CLIENT,
        expected=Query("SELECT * FROM rollup_client_hours"),
        found=Query("SELECT * FROM rollup_all_clients"),
    )


def different_clients(scope: Scope) -> Comparison:
    """Express L3: the number of different clients in each hour of the last days.

    An IPv6 /64 is one client, which SQL cannot count.
    """
    first = -(-scope.minutes_since // 60)
    by_hour: dict[int, set[str]] = {}
    addresses = Query("SELECT hour, client_ip FROM rollup_client_hours WHERE hour >= %s AND client_ip <> ''", (first,))
    for hour, address in addresses.rows():
        by_hour.setdefault(int(hour), set()).add(_client(address))
    counts = json.dumps({hour: len(clients) for hour, clients in by_hour.items()})
    if sqlite():
        expected = Query("SELECT CAST(key AS INTEGER) AS hour, value AS clients FROM json_each(%s)", (counts,))
    else:
        expected = Query(
            "SELECT CAST(key AS bigint) AS hour, CAST(value AS bigint) AS clients "
            "FROM json_each_text(CAST(%s AS json)) AS counted (key, value)",
            (counts,),
        )
    return Comparison(
        law="L3",
        table="rollup_all_clients",
        source="rollup_client_hours",
        keys=("hour",),
        columns=("clients",),
        expected=expected,
        found=Query("SELECT * FROM rollup_all_clients WHERE hour >= %s", (first,)),
    )


def _client(address: str) -> str:
    try:
        parsed = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    if parsed.is_loopback or parsed.ipv4_mapped is not None:
        return address
    return f"{int(parsed) >> 64:x}::/64"
