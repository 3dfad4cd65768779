"""Flow control of one connection."""

import asyncio
from typing import cast

from gateway.loop.flow_control import FlowControl
from tests.gateway.client import in_loop


class Transport:
    def __init__(self) -> None:
        self.steps: list[str] = []

    def pause_reading(self) -> None:
        self.steps.append("pause")

    def resume_reading(self) -> None:
        self.steps.append("resume")


def test_reading_is_paused_and_resumed_once() -> None:
    transport = Transport()
    flow = FlowControl(cast(asyncio.Transport, transport))
    for change in (flow.resume_reading, flow.pause_reading, flow.pause_reading, flow.resume_reading):
        change()
    assert transport.steps == ["pause", "resume"]


@in_loop
async def test_drain_waits_until_the_peer_has_read():
    flow = FlowControl(cast(asyncio.Transport, Transport()))
    await flow.drain()  # does not wait
    for _ in range(2):  # the second wait finds an event that the first has created
        flow.pause_writing()
        waiting = [asyncio.ensure_future(flow.drain()) for _ in range(2)]
        for _ in range(3):
            await asyncio.sleep(0)
        assert not any(wait.done() for wait in waiting)
        flow.resume_writing()
        await asyncio.wait_for(asyncio.gather(*waiting), 5)
