"""What the engine of an endpoint last reported about itself, as the API returns it."""

from typing import Annotated, TypedDict

from endpoints.engine_reports import EngineReading
from endpoints.openapi.payload_fields import Help, TimeText
from metrics.times import json_time


class EnginePayload(TypedDict):
    """What an endpoint's engine last reported about itself. Null: it does not report that."""

    loaded_models: Annotated[
        list[str] | None, Help("Ids of the models in memory, least recently used first where the engine reports that.")
    ]
    loading_models: Annotated[list[str] | None, Help("Ids of models that are being loaded.")]
    other_requests: Annotated[int | None, Help("Requests that run or wait there and are not RouterDash's.")]
    read_at: Annotated[TimeText | None, Help("When it was last read.")]


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
