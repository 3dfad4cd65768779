"""Endpoints without a gateway, and speeds, for tests of the choice between them."""

from dataclasses import dataclass

from gateway.registry.schema import Speeds
from gateway.routing.expected_time import Demand

FAST = Speeds(setup=0.01, read=0.0001, write=0.01, share=0.001, completions=256)
SLOW = Speeds(setup=0.01, read=0.001, write=0.05, share=0.005, completions=256)
CHAT = Demand(prompt=1000, output=200)


@dataclass
class Endpoint:
    id: str
    rank: int = 0
    tier: int = 1
    slots: int | None = None
    trial_due: float = 0.0
    in_flight: int = 0
    pending: int = 0
    recent_prompt: float = 0.0
