"""Simulated clouds: ten providers' dialects, with their errors, limits, streams and usage, and without a network.

In tests: `with Simulator() as simulator: cloud = add(simulator, "anthropic", reasoning=4)`, then `cloud.base_url`,
`cloud.key`, `cloud.set(fault="overloaded")`, `cloud.seen`, `cloud.tally`. As a program, see `python -m
benchmarks.providers --help`.
"""

from typing import Any

from benchmarks.providers.anthropic import Anthropic
from benchmarks.providers.azure import Azure
from benchmarks.providers.cloud import Cloud
from benchmarks.providers.deepseek import DeepSeek
from benchmarks.providers.dialect import Dialect
from benchmarks.providers.gemini import Gemini
from benchmarks.providers.groq import Groq
from benchmarks.providers.mistral import Mistral
from benchmarks.providers.openai import OpenAI
from benchmarks.providers.openrouter import OpenRouter
from benchmarks.providers.together import Together
from benchmarks.providers.xai import XAI
from benchmarks.simulator import Simulator

DIALECTS: dict[str, type[Dialect]] = {
    dialect.name: dialect
    for dialect in (OpenAI, Anthropic, Gemini, Azure, OpenRouter, Groq, Mistral, DeepSeek, XAI, Together)
}

__all__ = ["DIALECTS", "Cloud", "add", "start"]


def add(simulator: Simulator, provider: str, port: int = 0, **behaviour: Any) -> Cloud:
    """Open a cloud in the simulator's thread."""
    cloud: Cloud = simulator.run(start(simulator, provider, port, behaviour))
    return cloud


async def start(simulator: Simulator, provider: str, port: int, behaviour: dict[str, Any]) -> Cloud:
    """Open a cloud in the simulator's event loop. Raises KeyError for an unknown provider."""
    return await simulator.open(Cloud(simulator, DIALECTS[provider](), port), behaviour)
