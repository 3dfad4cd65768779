"""Requests of the history as rows of one kind, whoever wrote them: what figures are compared with."""

from django.db import connection

from metrics.reconcile.comparison import Query
from metrics.reconcile.scope import Adopted, Scope, bound, exact

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


def sqlite() -> bool:
    return connection.vendor == "sqlite"


def minute_of() -> str:
    if sqlite():
        return "CAST(strftime('%%s', substr(completed_at, 1, 19)) AS INTEGER) / 60"
    return "CAST(floor(extract(epoch FROM completed_at) / 60) AS bigint)"


def readable() -> str:
    """llmlb's rows that can be counted: their moment, duration, type and model can be read."""
    if not sqlite():
        return f"outcome IS NULL AND duration_ms BETWEEN 0 AND {MAX_DURATION_MS}"
    return (
        "outcome IS NULL AND typeof(completed_at) = 'text' "
        f"AND strftime('{_SECOND}', substr(completed_at, 1, 19)) = substr(completed_at, 1, 19) "
        f"AND typeof(duration_ms) = 'integer' AND duration_ms BETWEEN 0 AND {MAX_DURATION_MS} "
        "AND typeof(request_type) = 'text' AND typeof(model) = 'text'"
    )


def counted(scope: Scope, since: int) -> Query:
    """A row for each request in the history that is to be counted, from a minute on: RouterDash's and llmlb's."""
    parts = [_of_ours(since)]
    if scope.adopted is not None:
        parts.append(of_llmlb(scope.adopted, since))
    return Query.union(parts)


def _of_ours(since: int) -> Query:
    return Query(
        f"SELECT {minute_of()} AS minute, endpoint_id, model, kind, {_text('api_key_id')} AS api_key_id, "  # noqa: S608
        "client_ip, outcome, duration_us, first_token_us, COALESCE(input_tokens, 0) AS input_tokens, "
        "COALESCE(output_tokens, 0) AS output_tokens FROM request_history "
        "WHERE outcome IS NOT NULL AND completed_at >= %s",
        (bound(since),),
    )


def of_llmlb(adopted: Adopted, since: int) -> Query:
    kinds = " ".join(f"WHEN '{name}' THEN '{kind}'" for name, kind in REQUEST_TYPES.items())
    client = "CASE WHEN typeof(client_ip) = 'text' AND client_ip <> '' THEN client_ip END" if sqlite() else "client_ip"
    return Query(
        f"SELECT {minute_of()} AS minute, {_id('endpoint_id', NIL)} AS endpoint_id, model, "  # noqa: S608
        f"CASE request_type {kinds} ELSE lower(request_type) END AS kind, {_id('api_key_id', '')} AS api_key_id, "
        f"{client} AS client_ip, CASE WHEN status = 'success' THEN 'ok' ELSE 'failed' END AS outcome, "
        "duration_ms * 1000 AS duration_us, CAST(NULL AS bigint) AS first_token_us, "
        f"{_tokens('input_tokens')} AS input_tokens, {_tokens('output_tokens')} AS output_tokens FROM request_history "
        f"WHERE {readable()} AND completed_at >= %s AND completed_at < %s",
        (bound(since), exact(adopted.counted_us)),
    )


def _text(column: str) -> str:
    return f"COALESCE(CAST({column} AS text), '')"


def _id(column: str, otherwise: str) -> str:
    """Of a row that llmlb wrote."""
    if sqlite():
        return f"CASE WHEN typeof({column}) = 'text' AND {column} GLOB '{_UUID}' THEN {column} ELSE '{otherwise}' END"
    return column if otherwise else _text(column)


def _tokens(column: str) -> str:
    whole = f"typeof({column}) = 'integer' AND " if sqlite() else ""
    return f"CASE WHEN {whole}{column} BETWEEN 0 AND {1 << 40} THEN {column} ELSE 0 END"


def cell_key(endpoint: str) -> str:
    """Columns of a history row that say to which minute's cell it belongs."""
    key = "COALESCE(CAST(api_key_id AS text), '')"
    return f"{minute_of()} AS minute, {endpoint} AS endpoint_id, model, kind, {key} AS api_key_id"
