"""Fleets of simulated servers: those that the policy was tuned on, and others that it never was.

Speeds are orders of magnitude: a step of a batch takes as long as reading the model's weights (bytes ÷ memory
bandwidth), reading a prompt takes its floating-point operations ÷ the device's. Only ratios between servers matter.
"""

from dataclasses import dataclass, replace

from benchmarks.routing.server import Shape


def _vllm(a: float, b: float, c: float, p: float, memory: int, slots: int = 256) -> Shape:
    return Shape("vllm", a, b, c, p, slots, memory, budget=2048, paged=True)


def _llamacpp(a: float, b: float, c: float, p: float, memory: int, slots: int = 4, rtt: float = 1.0) -> Shape:
    return Shape("llamacpp", a, b, c, p, slots, memory, rtt=rtt, tells_slots=True)


SHAPES = {
    "h100": _vllm(7.0, 0.020, 0.040, 0.040, 450_000),
    "a100": _vllm(11.0, 0.040, 0.065, 0.080, 400_000),
    "a10": _vllm(28.0, 0.100, 0.220, 0.200, 30_000, 128),
    "l4": _vllm(55.0, 0.150, 0.450, 0.350, 40_000, 128),
    "rtx4090": _llamacpp(7.5, 1.20, 0.13, 0.15, 32_768),
    "rtx3090": _llamacpp(9.5, 1.60, 0.15, 0.25, 32_768),
    "rtx3060": _llamacpp(18.0, 3.50, 0.40, 0.55, 16_384),
    "m2max": _llamacpp(16.0, 5.00, 0.35, 1.60, 32_768, rtt=2.0),
    "m1": _llamacpp(60.0, 25.0, 1.00, 8.00, 16_384, 2, 2.0),
    "cpu": _llamacpp(25.0, 45.0, 2.00, 12.0, 8_192, 2, 2.0),
    # Their names are tokens per second, alone. They do not tell how many requests they serve at a time.
    "t120": replace(_vllm(7.5, 0.75, 0.05, 0.10, 100_000, 16), budget=512),
    "t60": replace(_vllm(15.0, 1.60, 0.10, 0.20, 50_000, 8), budget=512),
    "t40": replace(_vllm(22.0, 2.50, 0.10, 0.40, 30_000, 4), budget=512),
    "t15": replace(_vllm(65.0, 8.00, 0.30, 1.50, 20_000, 4), budget=512),
}


@dataclass(frozen=True)
class Mix:
    """Shares of the requests, in percent, by what they are for."""

    chat: float = 0
    rag: float = 0
    agents: float = 0
    short: float = 0
    embeddings: float = 0
    batch: float = 0
    scale: float = 1.0  # of prompts
    hot: float = 0.25  # share of the agents that have the first system prompt
    prompts: int = 4  # system prompts of agents


@dataclass(frozen=True)
class Fleet:
    name: str
    shapes: tuple[Shape, ...]
    mix: Mix
    # Requests per second: `python -m benchmarks.routing.simulate --saturation`. Of fleets that swap models, somewhat
    # less: requests that are all there at once can be sorted by model.
    saturation: float
    loads: tuple[float, ...] = ()  # seconds to load each model; () is one model that all have


def _of(**counts: int) -> tuple[Shape, ...]:
    return tuple(SHAPES[name] for name, count in counts.items() for _ in range(count))


def _ollama(*names: str) -> tuple[Shape, ...]:
    """Servers with one model in memory, which do not tell their slots."""
    return tuple(replace(SHAPES[name], kind="ollama", slots=4, tells_slots=False, one_model=True) for name in names)


OPEN = (
    Fleet("F1 home", _of(rtx4090=1, m2max=1, rtx3060=1, cpu=1), Mix(70, 10, 0, 20), 2.32),
    Fleet("F2 four speeds", _of(t120=1, t60=1, t40=1, t15=1), Mix(100), 4.12),
    Fleet("F3 equal", _of(a100=4), Mix(50, 20, 20, 10), 48.7),
    Fleet("F4 three tiers", _of(h100=2, a100=2, l4=2), Mix(45, 15, 25, 10, 0, 5), 60.3),
    Fleet("F5 hot agents", _of(a100=6), Mix(10, 0, 90, hot=0.6), 44.8),
    Fleet(
        "F6 swapping",
        _ollama("rtx4090", "rtx3090", "rtx3090", "rtx3060", "m2max"),
        Mix(70, 10, 0, 20),
        1.25,
        (12, 20, 8, 30),
    ),
    Fleet("F7 forty", _of(h100=4, a100=8, a10=12, l4=8, rtx4090=8), Mix(50, 10, 20, 15, 0, 5), 179.5),
    Fleet("F8 long documents", _of(a100=3, rtx4090=2), Mix(10, 80, 0, 10, scale=1.6), 11.3),
    Fleet("F9 one GPU", _of(rtx4090=1, cpu=6), Mix(60, 5, 0, 35), 1.97),
    Fleet("F10 everything", _of(a100=2, a10=2, rtx3090=2, m2max=2), Mix(35, 10, 15, 15, 20, 5), 31.1),
)

# Never look at these while changing the policy.
HELD_BACK = (
    Fleet("K1 office", _of(rtx3090=2, rtx3060=2, m1=1), Mix(55, 25, 0, 15, 5), 3.17),
    Fleet("K2 two tiers", _of(h100=1, a10=5), Mix(40, 10, 30, 15, 0, 5), 33.2),
    Fleet("K3 swapping", _ollama("rtx4090", "rtx3090", "rtx3090", "rtx3060", "m2max", "m2max"), Mix(80, 0, 0, 20), 1.25,
          (9, 15, 25, 6, 18)),
    Fleet("K4 mixed engines", _of(a100=1, t60=2, rtx4090=1, t15=1, cpu=1), Mix(45, 20, 10, 20, 5), 22.1),
)  # fmt: skip
BY_NAME = {fleet.name.split()[0]: fleet for fleet in OPEN + HELD_BACK}
