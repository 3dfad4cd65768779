"""Changes of the endpoints: every fault of the simulator, drains, edits, deletions."""

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from benchmarks.simulator import FAULTS

PAUSE_SECONDS = (0.05, 0.4)
FAULTS_THAT_REST = ("hang", "slow_loris", "mid_hang", "headers_then_hang")  # half as often: they hold their clients


@dataclass
class Fleet:
    """The endpoints: ports of the simulated servers and the ids under which they are registered."""

    api: aiohttp.ClientSession
    control: aiohttp.ClientSession
    ids: dict[int, str] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)  # changes that the API refused
    rng: random.Random = field(default_factory=random.Random)

    async def register(self, port: int) -> None:
        body = {"name": f"storm {port} {self.rng.random():.6f}", "base_url": f"http://127.0.0.1:{port}"}
        response = await self._call("POST", "/api/endpoints", {**body, "inference_timeout_secs": 5})
        if response is not None:
            self.ids[port] = response["id"]
            await self._call("POST", f"/api/endpoints/{response['id']}/sync", None)

    async def trouble(self, until: float) -> None:
        """Make one change after the other."""
        usual = (self.fail, self.fail, self.fail, self.heal, self.heal, self.edit, self.drain, self.disable)
        deeds = (*usual, *usual, self.renew)
        while time.monotonic() < until:
            deed = self.rng.choice(deeds)
            await deed(self.rng.choice(sorted(self.ids)))
            self.done[deed.__name__] = self.done.get(deed.__name__, 0) + 1
            await asyncio.sleep(self.rng.uniform(*PAUSE_SECONDS))

    async def calm(self) -> None:
        """Heal and enable all endpoints."""
        for port, endpoint_id in list(self.ids.items()):
            await self.heal(port)
            await self._call("POST", f"/api/endpoints/{endpoint_id}/enable", None)

    async def fail(self, port: int) -> None:
        fault = self.rng.choice(FAULTS)
        if fault in FAULTS_THAT_REST and self.rng.random() < 0.5:
            fault = "500"
        await self._simulate(port, fault=fault, fault_rate=self.rng.choice((0.3, 1.0)))

    async def heal(self, port: int) -> None:
        await self._simulate(port, fault="")

    async def edit(self, port: int) -> None:
        change = self.rng.choice(
            (
                {"max_concurrency": self.rng.choice((None, 2, 8, 30))},
                {"notes": f"edited {time.time():.3f}"},
                {"idle_timeout_secs": self.rng.choice((None, 2, 5))},
            )
        )
        await self._call("PATCH", f"/api/endpoints/{self.ids[port]}", change)

    async def drain(self, port: int) -> None:
        await self._call("POST", f"/api/endpoints/{self.ids[port]}/drain", {"deadline_secs": self.rng.choice((0, 1))})
        await asyncio.sleep(self.rng.uniform(0.5, 1.5))
        await self._call("POST", f"/api/endpoints/{self.ids[port]}/enable", None)

    async def disable(self, port: int) -> None:
        await self._call("POST", f"/api/endpoints/{self.ids[port]}/disable", None)
        await asyncio.sleep(self.rng.uniform(0.1, 0.5))
        await self._call("POST", f"/api/endpoints/{self.ids[port]}/enable", None)

    async def renew(self, port: int) -> None:
        """Delete the endpoint and register it again. The endpoint must respond for that."""
        await self.heal(port)
        await self._call("DELETE", f"/api/endpoints/{self.ids.pop(port)}", None)
        while port not in self.ids:
            await self.register(port)
            await asyncio.sleep(0.1)

    async def _simulate(self, port: int, **changes: Any) -> None:
        async with self.control.patch(f"/{port}", json=changes) as response:
            response.raise_for_status()

    async def _call(self, method: str, path: str, body: Any) -> Any:
        async with self.api.request(method, path, json=body) as response:
            if response.status >= 500 and not (response.status in (502, 503) and path.startswith("/api/endpoints")):
                self.refused.append(f"{method} {path}: {response.status} {await response.text()}")
            return await response.json() if response.status in (200, 201) else None
