"""Run simulated clouds:

    python -m benchmarks.providers --control 9800 --cloud '{"provider": "openai", "port": 9801, "requests_limit": 60}'

and while they run `curl -X PATCH 127.0.0.1:9800/9801 -d '{"fault": "overloaded"}'`, `curl 127.0.0.1:9800`.
"""

import argparse
import asyncio
import json
from typing import Any

from benchmarks.providers import DIALECTS, start
from benchmarks.simulator import Simulator


async def run(control: int, clouds: list[dict[str, Any]]) -> None:
    simulator = Simulator()
    for behaviour in clouds:
        cloud = await start(simulator, behaviour.pop("provider"), behaviour.pop("port", 0), behaviour)
        print(f"{cloud.dialect.name} {cloud.base_url} key {cloud.key}: {', '.join(cloud.behaviour.models)}", flush=True)
    await simulator.serve_control(control)
    print(f"control: http://127.0.0.1:{control}", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--control", type=int, default=9800, help="port of the control API")
    parser.add_argument(
        "--cloud", action="append", type=json.loads, default=[], help="a cloud's provider and behaviour, as JSON"
    )
    options = parser.parse_args()
    try:
        asyncio.run(run(options.control, options.cloud or [{"provider": name} for name in DIALECTS]))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
