"""What the engine of an endpoint last reported about itself, as the API returns it."""

from typing import TypedDict

from endpoints.engine_reports import EngineReading
from metrics.times import json_time


class EnginePayload(TypedDict):
    loaded_models: list[str] | None
    loading_models: list[str] | None
    other_requests: int | None
    read_at: str | None


def engine_payload(reading: EngineReading | None) -> EnginePayload:
    """Return a reading as a payload; all is null if nothing was read."""
    if reading is None:
        return {"loaded_models": None, "loading_models": None, "other_requests": None, "read_at": None}
    return {
        "loaded_models": None if reading.loaded is None else list(reading.loaded),
        "loading_models": None if reading.loaded is None else list(reading.loading),
        "other_requests": reading.others,
        "read_at": json_time(reading.read_at),
    }
