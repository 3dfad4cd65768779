"""Clients and llama.cpp servers in virtual time: `python -m benchmarks.routing.few_clients`.

Two llama.cpp servers of four slots each, the second one four times slower, each slot with the prefix of its last
request. Six clients have one conversation after another, and send a turn about a second after the last response. So
the number of requests depends on the policy, and a slot that a client leaves for a second may be taken by another one.
"""

import argparse
from dataclasses import replace
from random import Random
from statistics import mean

from benchmarks.routing.fleets import Fleet, Mix
from benchmarks.routing.policies import POLICIES
from benchmarks.routing.server import Job, Shape
from benchmarks.routing.virtual import Policy, Request, Run, View, percentile
from benchmarks.routing.workloads import CHAT, Session, Turn, contexts

CLIENTS, SECONDS, WARM = 6, 180.0, 0.3
SYSTEM_PROMPTS, SYSTEM_TOKENS, TURNS, NEW, OUTPUT = 3, 170, 4, 45, 24
CONVERSATIONS = 200  # of each client; more than it has time for
# About SmolLM2-135M on one core: a step takes 10 to 35 ms with 1 to 4 requests, and a prompt token 4.5 ms.
QUICK = Shape("llamacpp", 5.0, 6.0, 19.0, 4.5, 4, 4096, tells_slots=True)
SLOW = replace(QUICK, a=20.0, b=24.0, c=76.0, p=18.0)
FLEET = Fleet("two llama.cpp servers", (QUICK, SLOW), Mix(chat=100), 1.0)


class FewClients(Run):
    """A run whose clients begin a new conversation when the last one has ended. No turn begins after the end."""

    def __init__(self, policy: Policy, name: str, seed: int = 1) -> None:
        super().__init__(FLEET, policy, name, load=0.5, requests=1, seed=seed)
        random = Random(f"{seed} clients")
        self._conversations = [
            [_session(client * CONVERSATIONS + number, random) for number in range(CONVERSATIONS)]
            for client in range(CLIENTS)
        ]
        everything = [session for of_client in self._conversations for session in of_client]
        self._turns = {session.number: list(contexts(session)) for session in everything}
        self.sessions = [of_client[0] for of_client in self._conversations]
        self.length = SECONDS

    def _arrive(self, arrival: tuple[Session, int]) -> None:
        if self.now < SECONDS:
            super()._arrive(arrival)

    def _ended(self, job: Job, view: View, later: float) -> None:
        request = self._of_job.get(job)
        super()._ended(job, view, later)
        if request is not None and request.turn + 1 == TURNS:
            client, number = divmod(request.session.number, CONVERSATIONS)
            following = self._conversations[client][number + 1]
            self.begin(following, self.now + following.turns[0].think)

    def served(self) -> list[Request]:
        """Return the requests that ended in time."""
        return [request for request in self._started if 0 < request.ended <= SECONDS]


def _session(number: int, random: Random) -> Session:
    system = random.randrange(SYSTEM_PROMPTS)
    turns = tuple([Turn(NEW, OUTPUT, random.expovariate(1.0)) for _ in range(TURNS)])
    start = random.random()
    return Session(number, CHAT, "m0", start, f"s{system}", SYSTEM_TOKENS, f"c{number}", turns)


def figures(policy: str, seed: int) -> tuple[float, ...]:
    """Return the requests served in time; of those after the first 30 % the median and the p95 of the ms per token,
    the share of cached prompt tokens, and that of the slow server.
    """
    run = FewClients(POLICIES[policy](seed), policy, seed)
    run.run()
    served = run.served()
    measured = [request for request in served if request.arrived >= WARM * SECONDS]
    tokens = sorted((request.ended - request.arrived) / request.job.output for request in measured)
    cached = sum(request.job.cached for request in measured) / sum(request.job.prompt for request in measured)
    slow = sum(request.view is run.views[1] for request in measured) / len(measured)
    return len(served), 1e3 * percentile(tokens, 0.5), 1e3 * percentile(tokens, 0.95), cached, slow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", nargs="+", default=["least_inflight", "oracle", "oracle_social", "adaptive"])
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    print("| policy | requests | per token: median, ms | p95, ms | cached share | slow server |")
    print("|---|--:|--:|--:|--:|--:|")
    for policy in options.policies:
        runs = [figures(policy, seed) for seed in range(1, options.seeds + 1)]
        served, middle, high, cached, slow = (mean(values) for values in zip(*runs, strict=True))
        print(f"| {policy} | {served:.0f} | {middle:.0f} | {high:.0f} | {cached:.2f} | {slow:.0%} |", flush=True)


if __name__ == "__main__":
    main()
