"""The measured pages, lists, forms and API responses of RouterDash, by name."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from urllib.parse import quote

from benchmarks import filled
from tests.slices import slice_tests

API = "/api/requests"
ADMIN_REQUESTS = "/admin/metrics/requesthistory/"


@dataclass(frozen=True, slots=True)
class Known:
    """Values for URLs: existing objects, and cursors of lists."""

    endpoint: str
    model: str
    client: str
    request: str
    failed: str  # a request
    conversation: str
    conversations: str  # cursor of the second page of conversations
    cursor: str  # of the second page of requests
    newer: str  # back from the second page
    sought: str  # of a search without results so far
    older: str  # link to the admin's second page


def look(fetch: Callable[[str], bytes], server: filled.Server) -> Known:
    """Read the values. `fetch` returns a page of an installation with this server."""
    model = server.models[0]
    first = json.loads(fetch(API))
    failed = json.loads(fetch(f"{API}?outcome=failed"))
    link = re.search(r'<p class="paginator">.*?href="([^"]*)"', fetch(ADMIN_REQUESTS).decode(), re.DOTALL)
    return Known(
        endpoint=server.id,
        model=model,
        client=filled.client_of(model, 0),
        request=first["requests"][0]["id"],
        failed=failed["requests"][0]["id"],
        conversation=first["requests"][0]["conversation"],
        conversations=json.loads(fetch("/api/conversations"))["next"] or "",
        cursor=first["next"],
        newer=json.loads(fetch(f"{API}?cursor={first['next']}"))["previous"],
        sought=json.loads(fetch(f"{API}?model=none"))["next"] or "",
        older=link[1].replace("&amp;", "&") if link else "",
    )


def paths(known: Known) -> dict[str, str]:
    of_slices = chain.from_iterable(one.measured_api.items() for one in slice_tests())
    return pages(known) | api(known) | dict(of_slices) | requests(known) | admin(known)


def pages(known: Known) -> dict[str, str]:
    endpoint, client = f"/endpoints/{known.endpoint}", f"/clients/{quote(known.client)}"
    spans = {f"usage by {by}, 90 days": f"/usage?range=90d&by={by}" for by in ("day", "month", "endpoint", "key")}
    return {
        "overview": "/",
        "overview, what needs attention": "/?part=attention",
        "overview, its endpoints": "/?part=endpoints",
        "overview, its marks": "/?part=marks",
        "endpoints": "/endpoints",
        "endpoints by attempts": "/endpoints?sort=-attempts",
        "endpoints of a status and kind": "/endpoints?status=online&type=openai_compatible",
        "endpoints of a model": f"/endpoints?model={known.model}",
        "endpoints sought": "/endpoints?q=server-1",
        "endpoint": endpoint,
        "endpoint, a day": f"{endpoint}?days=1",
        "endpoint, 90 days": f"{endpoint}?days=90",
        "endpoint to be added": "/endpoints/add",
        "conversations": "/conversations",
        "conversations, second page": "/conversations"
        + (f"?cursor={known.conversations}" if known.conversations else ""),
        "conversations of a model": f"/conversations?model={known.model}",
        "conversations of an endpoint": f"/conversations?endpoint_id={known.endpoint}",
        "conversation": f"/conversations/{known.conversation}",
        "models": "/models",
        "models by requests": "/models?sort=requests",
        "models by speed, a later page": "/models?sort=speed&page=5",
        "models sought": "/models?q=model-1&state=ready",
        "model": f"/models/{known.model}",
        "model name": f"/model-names/{filled.NAME_ID}",
        "model name, a week": f"/model-names/{filled.NAME_ID}?step=1&range=7d",
        "live": "/live",
        "playground": "/playground",
        "usage by day": "/usage",
        **spans,
        "usage by model, 7 days": "/usage?range=7d&by=model",
        "usage by model, 30 days": "/usage?by=model",
        "usage by model, 90 days": "/usage?range=90d&by=model",
        "usage by user, this month": "/usage?range=month&by=user&measure=requests",
        "usage of a model by endpoint": f"/usage?range=90d&by=endpoint&model={known.model}",
        "usage of an endpoint by day": f"/usage?range=90d&endpoint_id={known.endpoint}",
        "clients": "/clients",
        "clients, 7 days": "/clients?range=7d",
        "clients, 30 days": "/clients?range=30d",
        "clients by tokens, sought": "/clients?sort=tokens&ip=10.0.1",
        "client": client,
        "client, 30 days": f"{client}?range=30d",
        "prices": "/prices",
        "prices sought": "/prices?q=model-1",
        "keys": "/keys",
        "connect": "/keys/clients",
        "search for an endpoint": "/search?q=server-1",
        "search for a request": f"/search?q={known.request}",
        "API's documentation": "/api/docs/",
        "account": "/account",
        "password": "/account/password",
        **dict(chain.from_iterable(one.measured.items() for one in slice_tests())),
    }


def api(known: Known) -> dict[str, str]:
    endpoint, dashboard = f"/api/endpoints/{known.endpoint}", "/api/dashboard"
    client = f"{dashboard}/clients/{quote(known.client)}"
    names = (
        "today-stats",
        "daily-stats",
        "model-stats",
        "model-tps",
        "health",
        "failures",
        "edits",
        "models",
        "learned",
        "engine",
        "slowdowns",
    )
    pages = ("overview", "stats", "endpoints", "request-history", "attention", "busiest", "marks", "minutes")
    sums = ("stats/tokens", "stats/tokens/daily", "stats/tokens/monthly", "models", "model-stats")
    of_clients = ("clients", "clients/timeline", "clients/models", "clients/heatmap")
    return {
        **{f"API: {name}": f"{dashboard}/{name}" for name in (*pages, *sums, *of_clients)},
        "API: clients, 30 days": f"{dashboard}/clients?range=30d",
        **{f"API: client, {name}": f"{client}/{name}" for name in ("detail", "timeline", "api-keys")},
        "API: model": f"{dashboard}/models/{known.model}",
        "API: checks of an endpoint": f"{dashboard}/metrics/{known.endpoint}",
        "API: threshold": f"{dashboard}/settings/ip_alert_threshold",
        "API: list of endpoints": "/api/endpoints",
        "API: endpoint": endpoint,
        "API: prices": "/api/prices",
        "API: price": f"/api/prices/{filled.PRICE_ID}",
        "API: prices in effect": "/api/prices/in-effect",
        "API: currency rates": "/api/currency-rates",
        "API: model names": "/api/model-names",
        "API: model name": f"/api/model-names/{filled.NAME_ID}",
        "API: model name, its state": f"/api/model-names/{filled.NAME_ID}/state",
        "API: model name, comparison": f"/api/model-names/{filled.NAME_ID}/comparison",
        **{f"API: endpoint, {name}": f"{endpoint}/{name}" for name in names},
        "API: endpoint, a model": f"{endpoint}/models/{known.model}/info",
        "API: all models": "/api/models",
        "API: request-responses": f"{dashboard}/request-responses",
        "API: request-responses of an endpoint": f"{dashboard}/request-responses?endpoint_id={known.endpoint}",
        "API: request-responses of a model": f"{dashboard}/request-responses?model={known.model}",
        "API: request-response": f"{dashboard}/request-responses/{known.request}",
        "API: route": f"/api/route?model={known.model}",
        "API: conversations": "/api/conversations",
        "API: conversations, most": "/api/conversations?limit=50",
        "API: conversation": f"/api/conversations/{known.conversation}",
        "API: live": "/api/live",
        "API: own keys": "/api/me/api-keys",
        "API: limits": "/api/limits",
        "limits": "/limits",
        "API: search": "/api/search?q=server-1",
        "API: usage by day": "/api/usage",
        "API: usage by month": "/api/usage?by=month&since=2026-01-01",
        **{
            f"API: usage by {by}": f"/api/usage?by={by}&compare=true"
            for by in ("model", "endpoint", "external", "key", "user")
        },
        "API: usage as CSV": "/api/usage/export?by=model",
        "API: schema": "/api/schema/",
        "API: version": "/api/version",
        "Prometheus": "/metrics",
        "health": "/health",
        "ready": "/ready",
    }


def requests(known: Known) -> dict[str, str]:
    day = (datetime.now(UTC) - timedelta(days=3)).strftime("%Y-%m-%dT%H:%M:%SZ")
    filters = {
        "three days ago": f"until={day}",
        "of an endpoint": f"endpoint_id={known.endpoint}",
        "failed": "outcome=failed",
        "not ok": "outcome=error",
        "cancelled (none)": "outcome=cancelled",
        "ok": "outcome=ok",
        "of a model": f"model={known.model}",
        "of no model": "model=none",
        "of a key": f"api_key_id={filled.key_of(known.model)}",
        "of a client": f"client_ip={quote(known.client)}",
        "not streamed": "streamed=false",
        "slow": "min_duration_ms=1040",
        "of an endpoint, failed": f"endpoint_id={known.endpoint}&outcome=failed",
        "of a status (none)": "status_code=418",
        "retried (none)": "retried=true",
        "of many tokens (none)": "min_tokens=1000000",
        "of a client's id (none)": "request_id=none",
        "of a conversation": f"conversation={known.conversation}",
        "second page": f"cursor={known.cursor}",
        "newer": f"cursor={known.newer}",
        "of no model, further": "model=none" + (f"&cursor={known.sought}" if known.sought else ""),
    }
    return {
        "requests": "/requests",
        **{f"requests {name}": f"/requests?{query}" for name, query in filters.items()},
        "requests, new rows": f"/requests?part=rows&after={day}",
        "requests, drawer": f"/requests?part=drawer&id={known.request}",
        "request": f"/requests/{known.request}",
        "request that failed": f"/requests/{known.failed}",
        "request, its bodies": f"/requests/{known.request}/bodies",
        "API: requests": API,
        **{f"API: requests {name}": f"{API}?{query}" for name, query in filters.items()},
        "API: request": f"{API}/{known.request}",
        "API: request, its bodies": f"{API}/{known.request}/bodies",
    }


def _admin_rows(name: str, path: str) -> dict[str, str]:
    row = f"{path}{filled.PRICE_ID}"
    return {
        f"admin {name}s": path,
        f"admin {name}": f"{row}/change/",
        f"admin {name}, its edits": f"{row}/history/",
        f"admin {name} to be added": f"{path}add/",
        f"admin {name} to be deleted": f"{row}/delete/",
    }


def admin(known: Known) -> dict[str, str]:
    key, user = filled.key_of(known.model), filled.user(0)
    endpoints, models, names, checks, days, keys, users, log = (
        f"/admin/{name}/"
        for name in ("endpoints/endpoint", "endpoints/endpointmodel", "endpoints/namedmodel", "endpoints/healthcheck",
                     "metrics/dailystat", "access/apikey", "access/user", "admin/logentry")
    )  # fmt: skip
    return {
        "admin": "/admin/",
        "admin endpoints": endpoints,
        "admin endpoints sought": f"{endpoints}?q=server-1",
        "admin endpoints sorted": f"{endpoints}?o=-3",
        "admin endpoint": f"{endpoints}{known.endpoint}/change/",
        "admin endpoint, its edits": f"{endpoints}{known.endpoint}/history/",
        "admin endpoint to be added": f"{endpoints}add/",
        "admin endpoint to be deleted": f"{endpoints}{known.endpoint}/delete/",
        **{
            f"admin {unit}": f"/admin/metrics/{unit.replace(' ', '')}rollup/"
            for unit in ("minute", "day", "month", "client hour", "client day", "all clients")
        },
        "admin models": models,
        "admin models, a later page": f"{models}?p=9",
        "admin models sought": f"{models}?q=model-1",
        "admin models of an endpoint": f"{models}?endpoint={known.endpoint}",
        "admin model names": names,
        "admin model names sought": f"{names}?q=fast",
        "admin model name": f"{names}{filled.NAME_ID}/change/",
        "admin model name, its edits": f"{names}{filled.NAME_ID}/history/",
        "admin model name to be added": f"{names}add/",
        "admin model name to be deleted": f"{names}{filled.NAME_ID}/delete/",
        **_admin_rows("price", "/admin/metrics/pricerow/"),
        **_admin_rows("rate", "/admin/metrics/currencyrate/"),
        "admin prices that count": "/admin/metrics/pricerow/?validity=now",
        "admin prices sought": "/admin/metrics/pricerow/?q=model-1",
        "admin checks": checks,
        "admin checks of an endpoint": f"{checks}?endpoint={known.endpoint}",
        "admin changes of status": f"{checks}?changes=1",
        "admin days": days,
        "admin days of an endpoint": f"{days}?endpoint={known.endpoint}",
        "admin requests": ADMIN_REQUESTS,
        "admin requests, older": ADMIN_REQUESTS + known.older,
        "admin requests failed": f"{ADMIN_REQUESTS}?outcome=failed",
        "admin requests sought": f"{ADMIN_REQUESTS}?q=none",
        "admin request": f"{ADMIN_REQUESTS}{known.request}/change/",
        "admin users": users,
        "admin users sought": f"{users}?q=person-1",
        "admin user": f"{users}{user}/change/",
        "admin user, its edits": f"{users}{user}/history/",
        "admin user to be added": f"{users}add/",
        "admin user to be deleted": f"{users}{user}/delete/",
        "admin keys": keys,
        **dict(chain.from_iterable(one.measured_admin.items() for one in slice_tests())),
        "admin keys sought": f"{keys}?q=key-1",
        "admin key": f"{keys}{key}/change/",
        "admin key to be added": f"{keys}add/",
        "admin key to be deleted": f"{keys}{key}/delete/",
        "admin log": log,
        "admin log sought": f"{log}?q=server-1",
    }
