"""What will happen at a server if a request is sent there now, from its true state, parameters and lengths."""

from benchmarks.routing.server import READ_ONLY, Job, Server


class _Work:
    """Requests at a server in the order in which they will run, with the tokens that each must read and write."""

    def __init__(self, server: Server, job: Job | None, now: float) -> None:
        self.jobs: list[Job] = [*server.reading, *server.writing]
        self.read = [other.unread for other in server.reading] + [0] * len(server.writing)
        self.write = [other.output - server.written(other) for other in self.jobs]
        loaded_at = server.loading_until()
        self.delay = max(0.0, loaded_at - now) if loaded_at is not None else 0.0  # seconds to load models
        last = server.model
        for queued in [*server.waiting, *([job] if job else [])]:
            same = not server.shape.one_model or queued.model == last
            self.read.append(queued.prompt - (server.cache.match(queued) if same else 0))
            self.write.append(queued.output - queued.written)
            if not same:
                last = queued.model
                self.delay += server.load_seconds(queued.model)
            self.jobs.append(queued)


def expected_finish(server: Server, job: Job | None, now: float) -> tuple[float, float]:
    """Return the seconds until `job` ends there, and the sum of those of all the others.

    Prompts are read first, then the requests that write advance together until the shortest ends.
    """
    others, mine = 0.0, 0.0
    work = _Work(server, job, now)
    jobs, read, write, seconds = work.jobs, work.read, work.write, work.delay
    context = server.c * sum(other.prompt + other.written for other in server.writing)
    slots = server.shape.slots
    active = list(range(min(slots, len(jobs))))
    following = slots
    while active:
        unread = [position for position in active if read[position] > 0]
        writing = len(active) - len(unread)
        step = (server.a + server.b * writing + context) if writing else READ_ONLY * server.a
        if unread:
            tokens = sum(read[position] for position in unread)
            steps = max(1, -(-tokens // server.shape.budget))
            seconds += (steps * step + server.p * tokens) * server.slowdown
            clock = steps
            for index in unread:
                read[index] = 0
                write[index] -= 1 - steps  # its first token comes with the last of these steps
        else:
            clock = max(1, min(write[position] for position in active))
            seconds += clock * step * server.slowdown
        left = []
        for index in active:
            write[index] -= clock
            if write[index] > 0:
                left.append(index)
            elif jobs[index] is job:
                mine = seconds
            else:
                others += seconds
        while len(left) < slots and following < len(jobs):
            left.append(following)
            following += 1
        active = left
    return mine + server.shape.rtt / 1e3, others
