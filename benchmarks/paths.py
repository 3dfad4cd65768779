"""The measured pages, lists, forms and API responses of RouterDash, by name."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from benchmarks import filled

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


def paths(it: Known) -> dict[str, str]:
    return pages(it) | api(it) | requests(it) | admin(it)


def pages(it: Known) -> dict[str, str]:
    endpoint, client = f"/endpoints/{it.endpoint}", f"/clients/{quote(it.client)}"
    spans = {f"usage by {by}, 90 days": f"/usage?range=90d&by={by}" for by in ("day", "month", "endpoint", "key")}
    return {
        "overview": "/",
        "overview, what needs attention": "/?part=attention",
        "overview, its endpoints": "/?part=endpoints",
        "overview, its marks": "/?part=marks",
        "endpoints": "/endpoints",
        "endpoints by attempts": "/endpoints?sort=-attempts",
        "endpoints of a status and kind": "/endpoints?status=online&type=openai_compatible",
        "endpoints of a model": f"/endpoints?model={it.model}",
        "endpoints sought": "/endpoints?q=server-1",
        "endpoint": endpoint,
        "endpoint, a day": f"{endpoint}?days=1",
        "endpoint, 90 days": f"{endpoint}?days=90",
        "endpoint to be added": "/endpoints/add",
        "conversations": "/conversations",
        "conversations, second page": "/conversations" + (f"?cursor={it.conversations}" if it.conversations else ""),
        "conversations of a model": f"/conversations?model={it.model}",
        "conversations of an endpoint": f"/conversations?endpoint_id={it.endpoint}",
        "conversation": f"/conversations/{it.conversation}",
        "models": "/models",
        "models by requests": "/models?sort=requests",
        "models by speed, a later page": "/models?sort=speed&page=5",
        "models sought": "/models?q=model-1&state=ready",
        "model": f"/models/{it.model}",
        "model name": f"/model-names/{filled.NAME_ID}",
        "model name, a week": f"/model-names/{filled.NAME_ID}?step=1&range=7d",
        "live": "/live",
        "playground": "/playground",
        "replay": "/replay",
        "usage by day": "/usage",
        **spans,
        "usage by model, 7 days": "/usage?range=7d&by=model",
        "usage by model, 30 days": "/usage?by=model",
        "usage by model, 90 days": "/usage?range=90d&by=model",
        "usage by user, this month": "/usage?range=month&by=user&measure=requests",
        "usage of a model by endpoint": f"/usage?range=90d&by=endpoint&model={it.model}",
        "usage of an endpoint by day": f"/usage?range=90d&endpoint_id={it.endpoint}",
        "clients": "/clients",
        "clients, 7 days": "/clients?range=7d",
        "clients, 30 days": "/clients?range=30d",
        "clients by tokens, sought": "/clients?sort=tokens&ip=10.0.1",
        "client": client,
        "client, 30 days": f"{client}?range=30d",
        "prices": "/prices",
        "prices sought": "/prices?q=model-1",
        "own hardware": "/hardware",
        "own hardware, compared": "/hardware?cloud=openai&model=gpt-4o-mini",
        "keys": "/keys",
        "connect": "/keys/clients",
        "search for an endpoint": "/search?q=server-1",
        "search for a request": f"/search?q={it.request}",
        "API's documentation": "/api/docs/",
        "account": "/account",
        "password": "/account/password",
    }


def api(it: Known) -> dict[str, str]:
    endpoint, dashboard = f"/api/endpoints/{it.endpoint}", "/api/dashboard"
    client = f"{dashboard}/clients/{quote(it.client)}"
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
        "API: model": f"{dashboard}/models/{it.model}",
        "API: checks of an endpoint": f"{dashboard}/metrics/{it.endpoint}",
        "API: threshold": f"{dashboard}/settings/ip_alert_threshold",
        "API: list of endpoints": "/api/endpoints",
        "API: endpoint": endpoint,
        "API: prices": "/api/prices",
        "API: price": f"/api/prices/{filled.PRICE_ID}",
        "API: prices in effect": "/api/prices/in-effect",
        "API: currency rates": "/api/currency-rates",
        "API: own hardware": "/api/hardware",
        "API: rates of own hardware": "/api/hardware-rates",
        "API: rate of own hardware": f"/api/hardware-rates/{filled.PRICE_ID}",
        "API: model names": "/api/model-names",
        "API: model name": f"/api/model-names/{filled.NAME_ID}",
        "API: model name, its state": f"/api/model-names/{filled.NAME_ID}/state",
        "API: model name, comparison": f"/api/model-names/{filled.NAME_ID}/comparison",
        **{f"API: endpoint, {name}": f"{endpoint}/{name}" for name in names},
        "API: endpoint, a model": f"{endpoint}/models/{it.model}/info",
        "API: all models": "/api/models",
        "API: request-responses": f"{dashboard}/request-responses",
        "API: request-responses of an endpoint": f"{dashboard}/request-responses?endpoint_id={it.endpoint}",
        "API: request-responses of a model": f"{dashboard}/request-responses?model={it.model}",
        "API: request-response": f"{dashboard}/request-responses/{it.request}",
        "API: route": f"/api/route?model={it.model}",
        "API: conversations": "/api/conversations",
        "API: conversations, most": "/api/conversations?limit=50",
        "API: conversation": f"/api/conversations/{it.conversation}",
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


def requests(it: Known) -> dict[str, str]:
    day = (datetime.now(UTC) - timedelta(days=3)).strftime("%Y-%m-%dT%H:%M:%SZ")
    filters = {
        "three days ago": f"until={day}",
        "of an endpoint": f"endpoint_id={it.endpoint}",
        "failed": "outcome=failed",
        "not ok": "outcome=error",
        "cancelled (none)": "outcome=cancelled",
        "ok": "outcome=ok",
        "of a model": f"model={it.model}",
        "of no model": "model=none",
        "of a key": f"api_key_id={filled.key_of(it.model)}",
        "of a client": f"client_ip={quote(it.client)}",
        "not streamed": "streamed=false",
        "slow": "min_duration_ms=1040",
        "of an endpoint, failed": f"endpoint_id={it.endpoint}&outcome=failed",
        "of a status (none)": "status_code=418",
        "retried (none)": "retried=true",
        "of many tokens (none)": "min_tokens=1000000",
        "of a client's id (none)": "request_id=none",
        "of a conversation": f"conversation={it.conversation}",
        "second page": f"cursor={it.cursor}",
        "newer": f"cursor={it.newer}",
        "of no model, further": "model=none" + (f"&cursor={it.sought}" if it.sought else ""),
    }
    return {
        "requests": "/requests",
        **{f"requests {name}": f"/requests?{query}" for name, query in filters.items()},
        "requests, new rows": f"/requests?part=rows&after={day}",
        "requests, drawer": f"/requests?part=drawer&id={it.request}",
        "request": f"/requests/{it.request}",
        "request that failed": f"/requests/{it.failed}",
        "request, its bodies": f"/requests/{it.request}/bodies",
        "API: requests": API,
        **{f"API: requests {name}": f"{API}?{query}" for name, query in filters.items()},
        "API: request": f"{API}/{it.request}",
        "API: request, its bodies": f"{API}/{it.request}/bodies",
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


def admin(it: Known) -> dict[str, str]:
    key, user = filled.key_of(it.model), filled.user(0)
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
        "admin endpoint": f"{endpoints}{it.endpoint}/change/",
        "admin endpoint, its edits": f"{endpoints}{it.endpoint}/history/",
        "admin endpoint to be added": f"{endpoints}add/",
        "admin endpoint to be deleted": f"{endpoints}{it.endpoint}/delete/",
        **{
            f"admin {unit}": f"/admin/metrics/{unit.replace(' ', '')}rollup/"
            for unit in ("minute", "day", "month", "client hour", "client day", "all clients")
        },
        "admin models": models,
        "admin models, a later page": f"{models}?p=9",
        "admin models sought": f"{models}?q=model-1",
        "admin models of an endpoint": f"{models}?endpoint={it.endpoint}",
        "admin model names": names,
        "admin model names sought": f"{names}?q=fast",
        "admin model name": f"{names}{filled.NAME_ID}/change/",
        "admin model name, its edits": f"{names}{filled.NAME_ID}/history/",
        "admin model name to be added": f"{names}add/",
        "admin model name to be deleted": f"{names}{filled.NAME_ID}/delete/",
        **_admin_rows("price", "/admin/metrics/pricerow/"),
        **_admin_rows("rate", "/admin/metrics/currencyrate/"),
        **_admin_rows("hardware rate", "/admin/metrics/hardwareraterow/"),
        "admin prices that count": "/admin/metrics/pricerow/?validity=now",
        "admin prices sought": "/admin/metrics/pricerow/?q=model-1",
        "admin checks": checks,
        "admin checks of an endpoint": f"{checks}?endpoint={it.endpoint}",
        "admin changes of status": f"{checks}?changes=1",
        "admin days": days,
        "admin days of an endpoint": f"{days}?endpoint={it.endpoint}",
        "admin requests": ADMIN_REQUESTS,
        "admin requests, older": ADMIN_REQUESTS + it.older,
        "admin requests failed": f"{ADMIN_REQUESTS}?outcome=failed",
        "admin requests sought": f"{ADMIN_REQUESTS}?q=none",
        "admin request": f"{ADMIN_REQUESTS}{it.request}/change/",
        "admin users": users,
        "admin users sought": f"{users}?q=person-1",
        "admin user": f"{users}{user}/change/",
        "admin user, its edits": f"{users}{user}/history/",
        "admin user to be added": f"{users}add/",
        "admin user to be deleted": f"{users}{user}/delete/",
        "admin keys": keys,
        "admin keys sought": f"{keys}?q=key-1",
        "admin key": f"{keys}{key}/change/",
        "admin key to be added": f"{keys}add/",
        "admin key to be deleted": f"{keys}{key}/delete/",
        "admin log": log,
        "admin log sought": f"{log}?q=server-1",
    }
