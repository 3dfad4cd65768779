"""Requests of the history in one common form, from RouterDash or llmlb: the base that figures are compared with."""

from metrics import sql
from metrics.reconcile.comparison import Query
from metrics.reconcile.scope import Adopted, Scope, bound, exact, sqlite

NIL = "00000000-0000-0000-0000-000000000000"
_UUID = "-".join("[0-9a-f]" * count for count in (8, 4, 4, 4, 12))
_SECOND = "%%Y-%%m-%%dT%%H:%%M:%%S"
MAX_DURATION_MS = 365 * 86_400 * 1000
REQUEST_TYPES = {
    "Chat": "chat_completions",
    "Generate": "completions",
    "Embeddings": "embeddings",
    "Transcription": "audio_transcriptions",
    "Speech": "audio_speech",
    "ImageGeneration": "image_generations",
    "ImageEdit": "image_edits",
    "ImageVariation": "image_variations",
    "AnthropicMessages": "messages",
}
_GENERATING = "'chat_completions', 'completions', 'responses', 'messages', 'ollama_chat', 'ollama_generate'"
HAS_SPEED = f"outcome = 'ok' AND kind IN ({_GENERATING}) AND output_tokens > 0"


def last_duration() -> str:
    """Return an expression of the duration of the last attempt, in µs."""
    return last_attempt("duration_us", "bigint")


def last_attempt(name: str, kind: str) -> str:
    """Return an expression of a field of the last attempt. `kind` is its type in PostgreSQL."""
    if sqlite():
        return f"CASE WHEN json_valid(attempts) THEN json_extract(attempts, '$[#-1].{name}') END"
    return f"CAST(attempts->-1->>'{name}' AS {kind})"


def minute_of() -> str:
    """Return an expression of the minute since 1970 in which a request completed."""
    if sqlite():
        return "CAST(strftime('%%s', substr(completed_at, 1, 19)) AS INTEGER) / 60"
    return "CAST(floor(extract(epoch FROM completed_at) / 60) AS bigint)"


def readable() -> str:
    """Return a condition for llmlb's rows that can be counted: readable moment, duration, type and model."""
    if not sqlite():
        return f"outcome IS NULL AND duration_ms BETWEEN 0 AND {MAX_DURATION_MS}"
    return (
        "outcome IS NULL AND typeof(completed_at) = 'text' "
        f"AND strftime('{_SECOND}', substr(completed_at, 1, 19)) = substr(completed_at, 1, 19) "
        f"AND typeof(duration_ms) = 'integer' AND duration_ms BETWEEN 0 AND {MAX_DURATION_MS} "
        "AND typeof(request_type) = 'text' AND typeof(model) = 'text'"
    )


def counted(scope: Scope, since: int) -> Query:
    """Return a row for each request that counts, from a minute on, of RouterDash and of llmlb."""
    parts = [_ours(since)]
    if scope.adopted is not None:
        parts.append(of_llmlb(scope.adopted, since))
    return Query.union(parts)


def _ours(since: int) -> Query:
    columns = [
        f"{minute_of()} AS minute", "endpoint_id", "model", "kind", f"{text('api_key_id')} AS api_key_id",
        "client_ip", "outcome", "duration_us", "first_token_us", "COALESCE(input_tokens, 0) AS input_tokens",
        "COALESCE(output_tokens, 0) AS output_tokens",
    ]  # fmt: skip
    where = ["outcome IS NOT NULL", "completed_at >= %s"]
    return Query(sql.select(columns, "request_history", where=where), (bound(since),))


def of_llmlb(adopted: Adopted, since: int) -> Query:
    """Return a row for each request of llmlb that is counted, from a minute on."""
    kinds = " ".join(f"WHEN '{name}' THEN '{kind}'" for name, kind in REQUEST_TYPES.items())
    client = "CASE WHEN typeof(client_ip) = 'text' AND client_ip <> '' THEN client_ip END" if sqlite() else "client_ip"
    columns = [
        f"{minute_of()} AS minute",
        f"{_id('endpoint_id', NIL)} AS endpoint_id",
        "model",
        f"CASE request_type {kinds} ELSE lower(request_type) END AS kind",
        f"{_id('api_key_id', '')} AS api_key_id",
        f"{client} AS client_ip",
        "CASE WHEN status = 'success' THEN 'ok' ELSE 'failed' END AS outcome",
        "duration_ms * 1000 AS duration_us",
        "CAST(NULL AS bigint) AS first_token_us",
        f"{_tokens('input_tokens')} AS input_tokens",
        f"{_tokens('output_tokens')} AS output_tokens",
    ]
    where = [readable(), "completed_at >= %s", "completed_at < %s"]
    return Query(sql.select(columns, "request_history", where=where), (bound(since), exact(adopted.counted_us)))


def text(column: str) -> str:
    """Return an expression of an id as text; empty for none."""
    return f"COALESCE(CAST({column} AS text), '')"


def _id(column: str, otherwise: str) -> str:
    """Return an expression of an id in a row of llmlb, or `otherwise` if it is no id."""
    if sqlite():
        return f"CASE WHEN typeof({column}) = 'text' AND {column} GLOB '{_UUID}' THEN {column} ELSE '{otherwise}' END"
    return column if otherwise else text(column)


def _tokens(column: str) -> str:
    whole = f"typeof({column}) = 'integer' AND " if sqlite() else ""
    return f"CASE WHEN {whole}{column} BETWEEN 0 AND {1 << 40} THEN {column} ELSE 0 END"


def cell_key(endpoint: str) -> str:
    """Return the columns that decide the minute roll-up of a history row."""
    return f"{minute_of()} AS minute, {endpoint} AS endpoint_id, model, kind, {text('api_key_id')} AS api_key_id"
