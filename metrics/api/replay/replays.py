"""Views of replays, which compute in a process of their own (metrics.replay.jobs)."""

import uuid
from typing import Any, TypedDict

from rest_framework.exceptions import APIException, NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from endpoints.openapi.descriptions import extend_schema
from metrics.api.replay.serializers import ReplayQuestionSerializer, ReplaySerializer
from metrics.exports.downloads import RETRY_SECONDS
from metrics.replay.jobs import MAX_AT_ONCE, Replay, TooManyReplays, replays
from metrics.replay.payload import AnswerPayload
from metrics.times import json_time

NO_REPLAY = "None of the last replays has this id."


class ReplayPayload(TypedDict):
    id: str
    state: str
    progress: float
    since: str
    until: str
    unknown_endpoint: str | None
    answer: AnswerPayload | None


def replay_payload(it: Replay) -> ReplayPayload:
    return {
        "id": it.id,
        "state": it.state,
        "progress": it.progress,
        "since": json_time(it.since),
        "until": json_time(it.until),
        "unknown_endpoint": it.unknown_endpoint,
        "answer": it.answer,
    }


class ReplayLimitReached(APIException):
    """Too many replays run. Sent with `Retry-After`."""

    status_code = 429
    wait = RETRY_SECONDS
    default_detail = f"There are {MAX_AT_ONCE} replays running, which is the limit; try again in a moment."


class ReplayList(APIView):
    @extend_schema(request=ReplayQuestionSerializer, responses={202: ReplaySerializer})
    def post(self, request: Request) -> Response:
        """Start a replay of recorded requests under another balancer or on another fleet. Read its answer by its id."""
        question = ReplayQuestionSerializer(data=request.data)
        question.is_valid(raise_exception=True)
        try:
            return Response(replay_payload(question.start()), status=202)
        except TooManyReplays:
            raise ReplayLimitReached from None


class ReplayDetail(APIView):
    @extend_schema(operation_id="replay_retrieve", responses=ReplaySerializer)
    def get(self, request: Request, replay_id: uuid.UUID) -> Response:
        """Return the progress of a replay, and its answer once it is done. The last fifty are available."""
        return Response(replay_payload(_found(replay_id)))

    @extend_schema(operation_id="replay_destroy", responses={204: None})
    def delete(self, request: Request, replay_id: uuid.UUID) -> Response:
        """Stop a replay that is running."""
        replays.stop(_found(replay_id).id)
        return Response(status=204)


def _found(replay_id: uuid.UUID) -> Replay:
    one = replays.get(str(replay_id))
    if one is None:
        raise NotFound(NO_REPLAY)
    return one


URLS: list[tuple[str, Any, str]] = [
    ("api/replays", ReplayList, "api-replays"),
    ("api/replays/<uuid:replay_id>", ReplayDetail, "api-replay"),
]
