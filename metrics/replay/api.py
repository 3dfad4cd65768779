"""Views of replays, which compute in a process of their own (metrics.replay.jobs)."""

import uuid
from typing import Annotated, Any, TypedDict

from rest_framework.exceptions import APIException, NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from endpoints.openapi.descriptions import extend_schema
from endpoints.openapi.payload_fields import Choices, Help, TimeText, UuidText
from metrics.exports.downloads import RETRY_SECONDS
from metrics.replay.jobs import MAX_AT_ONCE, REPLAY_STATES, Replay, TooManyReplays, replays
from metrics.replay.payload import ReplayAnswerPayload
from metrics.replay.serializers import ReplayQuestionSerializer
from metrics.times import json_time

NO_REPLAY = "None of the last replays has this id."


class ReplayPayload(TypedDict):
    id: UuidText
    state: Annotated[str, Choices(REPLAY_STATES)]
    progress: Annotated[float, Help("Share of the work that is done.")]
    since: TimeText
    until: TimeText
    unknown_endpoint: Annotated[
        str | None, Help("A name in the question that no endpoint with requests in this time has.")
    ]
    answer: ReplayAnswerPayload | None


def replay_payload(replay: Replay) -> ReplayPayload:
    return {
        "id": replay.id,
        "state": replay.state,
        "progress": replay.progress,
        "since": json_time(replay.since),
        "until": json_time(replay.until),
        "unknown_endpoint": replay.unknown_endpoint,
        "answer": replay.answer,
    }


class ReplayLimitReached(APIException):
    """Too many replays run. Sent with `Retry-After`."""

    status_code = 429
    wait = RETRY_SECONDS
    default_detail = f"There are {MAX_AT_ONCE} replays running, which is the limit; try again in a moment."


class ReplayList(APIView):
    @extend_schema(request=ReplayQuestionSerializer, responses={202: ReplayPayload})
    def post(self, request: Request) -> Response:
        """Start a replay of recorded requests under another balancer or on another fleet. Read its answer by its id."""
        question = ReplayQuestionSerializer(data=request.data)
        question.is_valid(raise_exception=True)
        try:
            return Response(replay_payload(question.start()), status=202)
        except TooManyReplays:
            raise ReplayLimitReached from None


class ReplayDetail(APIView):
    @extend_schema(operation_id="replay_retrieve", responses=ReplayPayload)
    def get(self, request: Request, replay_id: uuid.UUID) -> Response:
        """Return the progress of a replay, and its answer once it is done. The last fifty are available."""
        return Response(replay_payload(_replay_of(replay_id)))

    @extend_schema(operation_id="replay_destroy", responses={204: None})
    def delete(self, request: Request, replay_id: uuid.UUID) -> Response:
        """Stop a replay that is running."""
        replays.stop(_replay_of(replay_id).id)
        return Response(status=204)


def _replay_of(replay_id: uuid.UUID) -> Replay:
    one = replays.get(str(replay_id))
    if one is None:
        raise NotFound(NO_REPLAY)
    return one


URLS: list[tuple[str, Any, str]] = [
    ("api/replays", ReplayList, "api-replays"),
    ("api/replays/<uuid:replay_id>", ReplayDetail, "api-replay"),
]
