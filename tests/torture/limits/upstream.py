"""Simulated servers that note which requests reach them, and when these leave."""

import time
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from benchmarks.simulator import Behaviour, Endpoint, Simulator


@dataclass(slots=True)
class Arrival:
    """A request at a server. The client's number of it is in `user` of its body."""

    number: int
    arrived: float  # time.monotonic(), as is the next
    left: float = float("inf")
    cut_off: bool = False  # the gateway closed the connection before the response had ended


class WatchedEndpoint(Endpoint):
    """A server that adds its requests to a list, which several servers may share."""

    def __init__(self, simulator: Simulator, port: int, arrivals: list[Arrival]) -> None:
        super().__init__(simulator, Behaviour(), port)
        self._arrivals = arrivals

    async def _infer(self, request: web.Request, body: dict[str, Any], fault: str) -> web.StreamResponse:
        response: web.StreamResponse = await self._watched(body, super()._infer(request, body, fault))
        return response

    async def _fail(self, request: web.Request, body: dict[str, Any], fault: str) -> web.Response | None:
        if not fault.isdigit():
            return await super()._fail(request, body, fault)
        response: web.Response | None = await self._watched(body, super()._fail(request, body, fault))
        return response

    async def _watched(self, body: dict[str, Any], responding: Any) -> Any:
        arrival = Arrival(int(body.get("user") or -1), time.monotonic())
        self._arrivals.append(arrival)
        done = False
        try:
            response = await responding
            done = True
            return response
        finally:
            arrival.left, arrival.cut_off = time.monotonic(), not done


def add(simulator: Simulator, arrivals: list[Arrival], **behaviour: Any) -> WatchedEndpoint:
    """Open a server whose requests are added to `arrivals`."""
    endpoint = simulator.run(simulator.open(WatchedEndpoint(simulator, 0, arrivals), behaviour))
    assert isinstance(endpoint, WatchedEndpoint)
    return endpoint
