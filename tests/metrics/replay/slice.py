"""Rules for the page of replays, and its addresses."""

import re

from metrics.replay.headroom import FIRST_TOKEN_SECONDS
from metrics.replay.history import MOST_REQUESTS
from tests.displayed_figures import Place
from tests.expected_figures import ABSENT, Reported, Shown
from tests.router import until
from tests.sample_installation import Busy
from tests.slices import SliceTests


def replay(_: Shown) -> Reported:
    return {Place("question"): [MOST_REQUESTS, FIRST_TOKEN_SECONDS]}


def refused_replay(shown: Shown) -> Reported:
    """A replay without a prediction. Its sentence has the figures that are the reason."""
    answer = shown.api(f"/api/replays/{shown.known['replay_id']}")["answer"]
    (reason,) = answer["sentences"]
    return replay(shown) | {
        Place("result"): [
            *map(int, re.findall(r"\d+", reason)),
            answer["requests"],
            answer["sessions"],
            answer["failed_requests"] or ABSENT,
        ]
    }


def replayed(busy: Busy) -> str:
    """Replay the requests of the last 24 hours, which are too few for a prediction, and return the replay's id."""
    replay = busy.change("POST", "/api/replays", {"policy": "least_inflight"})
    until(lambda: busy.api(f"/api/replays/{replay['id']}")["state"] != "running", 60)
    replay_id: str = replay["id"]
    return replay_id


SLICE_TESTS = SliceTests(
    pages={"replay": [("", replay), ("id={replay_id}", refused_replay)]},
    examples={"replay_id": lambda busy: [replayed(busy)]},
    measured={"replay": "/replay"},
    unmeasured={"api-replays", "api-replay"},
)
