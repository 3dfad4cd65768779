"""Claude Code, Codex and OpenCode complete tool loops at real llama.cpp servers: `python -m benchmarks.agents`.

The agents come from npm; llama.cpp and SmolLM2-135M come from the package index, as in the tests. So small a model has
to be shown what to do: the chat template (tests/llamacpp/agents.jinja) has three examples with the agent's own shell,
and shortens the agent's prompts. The model writes the call by itself; llama.cpp renders, generates, parses the call,
streams it and counts the tokens.

Each agent has one session of two turns. Between them, the server that served the first turn is disabled, so that the
session moves. All runs once with llama.cpp's own Messages and Responses, and once with servers that have chat
completions alone, so that RouterDash translates.

A proxy in front of each server keeps the usage that it reports. Every request's record, the conversations, the totals
and what the agents print must be equal to that, to the token; otherwise it exits with 1.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.agents.programs import AGENTS, Agent, Turn
from benchmarks.agents.tap import OWN_PATHS, Served, Tap, tapped
from tests import llamacpp
from tests.router import RouterDash, until

MODEL = "smollm2"
CONTEXT = 8192  # of the four slots of a server
WORDS = ("cherry", "garden")  # one for each turn
WAYS: Mapping[str, Sequence[str]] = {"own": (), "translated": OWN_PATHS}  # what the servers lack


class Result(NamedTuple):
    """A session of two turns."""

    agent: str
    way: str
    served: Sequence[Served]
    moves: int
    seconds: float


class Installation:
    """RouterDash in front of two servers."""

    def __init__(self, router: RouterDash, taps: Sequence[Tap]) -> None:
        self.router, self.taps = router, taps
        self.ids = {self._add(f"server{number}", tap.url): tap for number, tap in enumerate(taps)}
        until(lambda: self._usable() == set(self.ids), 60)

    def _add(self, name: str, url: str) -> str:
        response = self.router.post("/api/endpoints", {"name": name, "base_url": url})
        assert response.status == 201, response
        endpoint_id: str = response.json()["id"]
        return endpoint_id

    def _usable(self) -> set[str]:
        return {
            endpoint_id
            for model in self.router.get("/v1/models").json()["data"]
            for endpoint_id in model["endpoint_ids"]
        }

    @contextmanager
    def without(self, endpoint_id: str) -> Iterator[None]:
        """Disable an endpoint until the end."""
        for state, usable in (("disabled", set(self.ids) - {endpoint_id}), ("enabled", set(self.ids))):
            response = self.router.request("PUT", f"/api/endpoints/{endpoint_id}", {"operator_state": state})
            assert response.status == 200, response
            until(lambda usable=usable: self._usable() == usable, 60)
            if state == "disabled":
                yield

    def served(self) -> dict[str, Served]:
        return self.taps[0].served | self.taps[1].served

    def rows(self, wanted: set[str]) -> dict[str, Any]:
        """Return the records of these requests, once all are there."""

        def recorded() -> dict[str, Any]:
            rows = self.router.get("/api/requests?limit=200").json()["requests"]
            return {row["id"]: row for row in rows if row["id"] in wanted}

        until(lambda: recorded().keys() == wanted, 30)
        return recorded()

    def session(self, agent: Agent, way: str) -> Result:
        """Let an agent run both turns, and compare all figures."""
        begun, before = time.monotonic(), set(self.served())
        first = agent.turn(prompt(WORDS[0]))
        made = {name: served for name, served in self.served().items() if name not in before}
        check_turn(agent, first, WORDS[0], list(made.values()))
        used = Counter(row["endpoint_id"] for row in self.rows(set(made)).values())
        with self.without(used.most_common(1)[0][0]):
            second = agent.turn(prompt(WORDS[1]), first.session)
        later = {name: response for name, response in self.served().items() if name not in before and name not in made}
        check_turn(agent, second, WORDS[1], list(later.values()))
        made |= later
        moves = self.check_records(made)
        return Result(agent.name, way, list(made.values()), moves, time.monotonic() - begun)

    def check_records(self, made: Mapping[str, Served]) -> int:
        """Compare the records and the conversation of a session with its usage. Return how often it moved."""
        rows = self.rows(set(made))
        for request_id, served in made.items():
            row = rows[request_id]
            recorded = row["outcome"], row["input_tokens"], row["output_tokens"], row["cached_tokens"]
            same(f"request {request_id}", recorded, ("ok", served.input, served.output, served.cached))
            same(f"request {request_id}", row["tokens_estimated"], False)
        (key,) = {row["conversation"] for row in rows.values()}
        shown = self.router.get(f"/api/conversations/{key}").json()
        figures = [shown[name] for name in ("turns", "input_tokens", "output_tokens", "cached_tokens", "cached_share")]
        sums = [sum(getattr(response, name) for response in made.values()) for name in ("input", "output", "cached")]
        same("conversation", figures, [len(made), *sums, sums[2] / sums[0]])
        moves: int = shown["moves"]
        if moves < 1:
            raise AssertionError("the session did not move to the other server")
        return moves

    def check_totals(self) -> None:
        """Compare the totals since the start, and those of the usage page, with the usage of all responses."""
        served = self.served().values()
        wanted = [
            len(served),
            *(sum(getattr(response, name) for response in served) for name in ("input", "output", "cached")),
        ]
        stats, usage = self.router.stats(), self.router.get("/api/usage").json()["total"]
        names = ("successful_requests", "total_input_tokens", "total_output_tokens")
        same("totals", [stats[name] for name in names], wanted[:3])
        names_of_usage = ("successful_requests", "input_tokens", "output_tokens", "cached_tokens")
        same("usage", [usage[name] for name in names_of_usage], wanted)


def prompt(word: str) -> str:
    return f"Print the word {word} with the shell."


def check_turn(agent: Agent, turn: Turn, word: str, served: Sequence[Served]) -> None:
    """The model called the shell and used its result, and the agent counts what the server reported."""
    if f"The word is {word}." not in turn.text:
        raise AssertionError(f"{agent.name} ended with {turn.text!r}")
    steps = [response for response in served if response.tools]  # the title of a session is not in the agent's sum
    same(agent.name, (turn.input, turn.output), (sum(step.input for step in steps), sum(step.output for step in steps)))


def same(name: str, actual: object, wanted: object) -> None:
    if actual != wanted:
        raise AssertionError(f"{name}: {actual} instead of {wanted}")


def run(way: str, urls: Sequence[str], agents: Sequence[type[Agent]]) -> list[Result]:
    """Run a session of each agent in a new installation."""
    with ExitStack() as ends:
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="routerdash-agents-")))
        taps = [ends.enter_context(tapped(url, WAYS[way])) for url in urls]
        router = RouterDash(folder, ROUTERDASH_LOG_LEVEL="warning")
        ends.callback(router.end)
        installation = Installation(router.start(), taps)
        made = [
            installation.session(agent(folder / agent.name.lower().replace(" ", "-"), router.url, MODEL), way)
            for agent in agents
        ]
        installation.check_totals()
        for path, status in (refusal for tap in taps for refusal in tap.refused):
            if path not in WAYS[way]:
                raise AssertionError(f"{path} ended with {status}")
    return made


def row(result: Result) -> str:
    served = result.served
    paths = ", ".join(sorted({response.path.removeprefix("/v1/") for response in served}))
    sums = (sum(getattr(response, name) for response in served) for name in ("input", "cached", "output"))
    tokens = " | ".join(f"{total:,}" for total in sums)
    return f"| {result.agent} | {paths} | {len(served)} | {tokens} | {result.moves} | {result.seconds:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--agents", nargs="+", choices=[agent.name for agent in AGENTS])
    options = parser.parse_args()
    agents = [agent for agent in AGENTS if not options.agents or agent.name in options.agents]
    print("| agent | API of the server | requests | input tokens | of these cached | output | moves | s |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    with ExitStack() as ends:
        model = llamacpp.real_model()
        started = [llamacpp.llama_server(model, MODEL, template="agents.jinja", context=CONTEXT) for _ in range(2)]
        urls = [ends.enter_context(server) for server in started]
        for way in options.ways:
            try:
                for result in run(way, urls, agents):
                    print(row(result), flush=True)
            except (AssertionError, RuntimeError) as error:
                sys.exit(f"{way}: {error}")


if __name__ == "__main__":
    main()
