"""From records to figures. docs/figures.md holds the table of what is counted where; this is its only implementation.

Every fold here is commutative, so the order in which the journals of several workers are read never shows. Counts are
sums. A moving average depends on order by nature; its state is therefore the last WINDOW samples ordered by completion,
merged as a set: any order, any grouping, even twice, gives the same bits. What lies further back would weigh
0.8 ** 128 = 4e-13 of its own size.
"""

import logging
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import cached_property, lru_cache
from operator import attrgetter, itemgetter
from typing import TypeVar
from zoneinfo import ZoneInfo

import msgspec

from gateway import record
from gateway.kinds import GENERATING
from gateway.record import Entry, RequestRecord, Unrecorded
from metrics import histogram
from metrics.histogram import Histogram

log = logging.getLogger(__name__)

ALPHA = 0.2
MAX_TOKENS = 1 << 40
MAX_DURATION_US = 365 * 86_400_000_000
MAX_COMPLETED_US = 4_102_444_800_000_000  # 2100-01-01
CLOCK_SLACK_US = 60_000_000
WINDOW = 128

NO_ENDPOINT = "00000000-0000-0000-0000-000000000000"
MINUTE_US = 60_000_000

# Names in metric_totals; refusals add one each under "rejected:" and their code.
REQUESTS_OK, REQUESTS_FAILED, REQUESTS_CANCELLED = "requests_ok", "requests_failed", "requests_cancelled"
INPUT_TOKENS, OUTPUT_TOKENS = "input_tokens", "output_tokens"
UNRECORDED, DAMAGED = "unrecorded", "damaged_bytes"
REJECTED = "rejected:"
# Answers by their duration, each under the power of two (µs) that it is below, and the sum of their durations.
ANSWERS_BELOW, ANSWERS_US = "answers_below_us:", "answers_us"
BELOW_LOW, BELOW_HIGH = 13, 29  # 8 ms, 9 min: the powers; under the second stands what takes longer, too
# Beside them, what they were at the adoption, and what went from adopted rows into day roll-ups since: with these two,
# a total can be computed again from the roll-ups.
ADOPTED, PRUNED_ADOPTED = "adopted:", "pruned_adopted:"

_AS_ZERO = bytes.maketrans(b"123456789abcdef", b"0" * 15)
_ZERO_ID = NO_ENDPOINT.encode()

Sample = tuple[int, int, float]  # completed_us, tie-break from the id, tokens per second
SpeedKey = tuple[str, str, str]  # endpoint, model, kind
CellKey = tuple[int, str, str, str, str]  # minute, endpoint, model, kind, API key
DayKey = tuple[str, str, str, str, str]  # local date, endpoint, model, kind, API key
DailyKey = tuple[str, str, str, str]  # endpoint, model, local date, kind
ClientKey = tuple[int, str, str, str]  # hour since 1970, UTC; client's address, API key, model
Alike = tuple[int, str, str, str, str, str | None]  # minute, endpoint, model, kind, API key, client's address


@dataclass(slots=True)
class Cell:
    """What is summed over any span of time, endpoint, model, kind and key: the columns of a roll-up."""

    requests_ok: int = 0
    requests_failed: int = 0
    requests_cancelled: int = 0
    attempts_ok: int = 0
    attempts_failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    ok_duration_us: int = 0
    requests_rejected: int = 0
    first_token_us: int = 0  # the sum over the answered streams
    durations: Histogram = field(default_factory=dict)  # of the answered requests, in µs
    first_tokens: Histogram = field(default_factory=dict)

    def add(self, other: "Cell") -> None:
        self.requests_ok += other.requests_ok
        self.requests_failed += other.requests_failed
        self.requests_cancelled += other.requests_cancelled
        self.attempts_ok += other.attempts_ok
        self.attempts_failed += other.attempts_failed
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.ok_duration_us += other.ok_duration_us
        self.requests_rejected += other.requests_rejected
        self.first_token_us += other.first_token_us
        histogram.add(self.durations, other.durations)
        histogram.add(self.first_tokens, other.first_tokens)

    def __add__(self, other: "Cell") -> "Cell":
        made = self.copy()
        made.add(other)
        return made

    def copy(self) -> "Cell":
        made = Cell()
        made.add(self)
        return made

    def subtract(self, other: "Cell") -> None:
        """Take away what was added before."""
        for name in CELL_COLUMNS:
            setattr(self, name, getattr(self, name) - getattr(other, name))
        histogram.subtract(self.durations, other.durations)
        histogram.subtract(self.first_tokens, other.first_tokens)

    def answered(self, duration_us: int, first_token_us: int | None) -> None:
        """One whole answer."""
        self.requests_ok += 1
        self.ok_duration_us += duration_us
        histogram.count(self.durations, (duration_us,))
        if first_token_us is not None:
            self.first_token_us += first_token_us
            histogram.count(self.first_tokens, (first_token_us,))

    @property
    def average_ms(self) -> float | None:
        """Mean duration of the answered requests."""
        return self.ok_duration_us / self.requests_ok / 1000 if self.requests_ok else None


# The sums; histograms are added in another way.
CELL_COLUMNS = tuple(item.name for item in fields(Cell) if item.name not in ("durations", "first_tokens"))


@dataclass(slots=True)
class Daily:
    """Columns of endpoint_daily_stats: attempts; tokens and time of those that had a speed."""

    total: int = 0
    successful: int = 0
    failed: int = 0
    output_tokens: int = 0
    duration_ms: int = 0

    @property
    def has_speed(self) -> bool:
        """Rows with no tokens or no time say nothing of speed (scenarios, S4)."""
        return self.output_tokens > 0 and self.duration_ms > 0

    def add(self, other: "Daily") -> None:
        self.total += other.total
        self.successful += other.successful
        self.failed += other.failed
        self.output_tokens += other.output_tokens
        self.duration_ms += other.duration_ms


@dataclass(slots=True)
class Counters:
    """An endpoint's attempts over all time. Those of clients who left are in `cancelled` alone."""

    total: int = 0
    successful: int = 0
    failed: int = 0
    cancelled: int = 0

    def add(self, other: "Counters") -> None:
        self.total += other.total
        self.successful += other.successful
        self.failed += other.failed
        self.cancelled += other.cancelled


@dataclass(slots=True)
class Usage:
    """What an endpoint answered, over all time: the sums of its day roll-ups."""

    answers: int = 0
    duration_us: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, other: "Usage") -> None:
        self.answers += other.answers
        self.duration_us += other.duration_us
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens


@dataclass(slots=True)
class Spoken:
    """Answers with a speed, of one model and kind on one endpoint on one day."""

    output_tokens: int = 0
    duration_ms: int = 0
    entries: list[RequestRecord] = field(default_factory=list)

    def __add__(self, other: "Spoken") -> "Spoken":
        tokens, duration_ms = self.output_tokens + other.output_tokens, self.duration_ms + other.duration_ms
        return Spoken(tokens, duration_ms, [*self.entries, *other.entries])


@dataclass(slots=True)
class ClientCell:
    """What is summed over requests of a client: the columns of their roll-ups."""

    requests_ok: int = 0
    requests_failed: int = 0
    requests_cancelled: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    last_us: int = 0  # when the last of them ended

    def add(self, other: "ClientCell") -> None:
        self.requests_ok += other.requests_ok
        self.requests_failed += other.requests_failed
        self.requests_cancelled += other.requests_cancelled
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.last_us = max(self.last_us, other.last_us)

    def ended(self, outcome: str, tokens_in: int, tokens_out: int, completed_us: int) -> None:
        """One request."""
        if outcome == record.OK:
            self.requests_ok += 1
        elif outcome == record.CANCELLED:
            self.requests_cancelled += 1
        else:
            self.requests_failed += 1
        self.input_tokens += tokens_in
        self.output_tokens += tokens_out
        self.last_us = max(self.last_us, completed_us)

    def __add__(self, other: "ClientCell") -> "ClientCell":
        made = ClientCell()
        made.add(self)
        made.add(other)
        return made


@dataclass
class Fold:
    """The figures of a batch of entries. Added to once; then only read, perhaps by several.

    What every record goes through is short: it is counted in a cell or two. All other sums are those of cells.
    """

    zone: ZoneInfo
    cells: dict[CellKey, Cell] = field(default_factory=dict)
    spoken: dict[DailyKey, Spoken] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)  # totals that no cells sum up to
    refused_connections: set[str] = field(default_factory=set)  # endpoints to look at now
    counted: list[RequestRecord] = field(default_factory=list)
    clients: dict[ClientKey, ClientCell] = field(default_factory=dict)  # what the history has, by whoever sent it

    def __add__(self, other: "Fold") -> "Fold":
        """The figures of both, which stay as they are."""
        return Fold(
            self.zone,
            _joined(self.cells, other.cells),
            _joined(self.spoken, other.spoken),
            Counter(
                {name: self.others[name] + other.others[name] for name in self.others.keys() | other.others.keys()}
            ),
            self.refused_connections | other.refused_connections,
            [*self.counted, *other.counted],
            _joined(self.clients, other.clients),
        )

    def add_all(self, entries: Iterable[Entry]) -> "Fold":
        alike: dict[Alike, list[RequestRecord]] = {}
        for entry in entries:
            if isinstance(entry, RequestRecord):
                if not sound(entry):
                    log.error("record %r makes no sense and is set aside", entry.id[:40])
                    self.others[UNRECORDED] += 1
                    continue
                self.counted.append(entry)
                attempts = entry.attempts
                if entry.outcome == record.OK and len(attempts) == 1 and attempts[0].outcome == record.OK:
                    minute, key_id = entry.completed_us // MINUTE_US, entry.api_key_id or ""
                    key = (minute, attempts[0].endpoint_id, entry.model, entry.kind, key_id, entry.client_ip)
                    known = alike.get(key)
                    if known is None:
                        alike[key] = [entry]
                    else:
                        known.append(entry)
                else:
                    self._add(entry)
            elif isinstance(entry, Unrecorded):
                self.others[UNRECORDED] += entry.count
        for key, answered in alike.items():
            if len(answered) == 1:
                self._add(answered[0])
            else:
                self._add_answered(key, answered)
        return self

    def _add_answered(self, key: Alike, entries: list[RequestRecord]) -> None:
        """As `_add`, of those that the first endpoint answered: nearly all there are, many at once."""
        minute, endpoint_id, model, kind, api_key_id, client_ip = key
        cell = self._cell((minute, endpoint_id, model, kind, api_key_id))
        durations = [entry.duration_us for entry in entries]
        first_tokens = [first for entry in entries if (first := entry.first_token_us) is not None]
        # As `plausible` has it, without a call for each.
        tokens_in = sum([tokens for entry in entries if (tokens := entry.input_tokens) and 0 < tokens <= MAX_TOKENS])
        told = [entry for entry in entries if (tokens := entry.output_tokens) and 0 < tokens <= MAX_TOKENS]
        tokens_out = sum([entry.output_tokens or 0 for entry in told])
        cell.attempts_ok += len(entries)
        cell.requests_ok += len(entries)
        cell.input_tokens += tokens_in
        cell.output_tokens += tokens_out
        cell.ok_duration_us += sum(durations)
        histogram.count(cell.durations, durations)
        cell.first_token_us += sum(first_tokens)
        histogram.count(cell.first_tokens, first_tokens)
        if client_ip is not None:
            client = self._client(minute // 60, client_ip, api_key_id, model)
            client.requests_ok += len(entries)
            client.input_tokens += tokens_in
            client.output_tokens += tokens_out
            client.last_us = max(client.last_us, max([entry.completed_us for entry in entries]))
        if told and kind in GENERATING:
            self._add_speeds(minute, endpoint_id, model, kind, told)

    def _add(self, entry: RequestRecord) -> None:
        outcome, minute, api_key_id = entry.outcome, entry.completed_us // MINUTE_US, entry.api_key_id or ""
        if outcome == record.REJECTED:
            self.others[REJECTED + (entry.error or "")] += 1
            # Not by model: anybody can make up names.
            self._cell((minute, NO_ENDPOINT, "", "", api_key_id)).requests_rejected += 1
            return
        cell = self._add_attempts(entry, minute, api_key_id)
        tokens_in, tokens_out = plausible(entry.input_tokens) or 0, plausible(entry.output_tokens) or 0
        if outcome == record.OK:
            cell.answered(entry.duration_us, entry.first_token_us)
            if tokens_out and entry.attempts and entry.kind in GENERATING:
                self._add_speeds(minute, entry.attempts[-1].endpoint_id, entry.model, entry.kind, [entry])
        elif outcome == record.CANCELLED:
            cell.requests_cancelled += 1
        else:
            cell.requests_failed += 1
        cell.input_tokens += tokens_in
        cell.output_tokens += tokens_out
        if entry.client_ip is not None:
            client = self._client(minute // 60, entry.client_ip, api_key_id, entry.model)
            client.ended(outcome, tokens_in, tokens_out, entry.completed_us)

    def _add_attempts(self, entry: RequestRecord, minute: int, api_key_id: str) -> Cell:
        """The cell of the endpoint which made the answer."""
        model, kind = entry.model, entry.kind
        for attempt in entry.attempts:
            cell = self._cell((minute, attempt.endpoint_id, model, kind, api_key_id))
            if attempt.outcome == record.OK:
                cell.attempts_ok += 1
            elif attempt.outcome != record.CANCELLED:
                cell.attempts_failed += 1
                if attempt.status == 0 and attempt.error == record.CONNECTION_REFUSED:
                    self.refused_connections.add(attempt.endpoint_id)
        if not entry.attempts or entry.outcome == record.QUEUE:
            cell = self._cell((minute, NO_ENDPOINT, model, kind, api_key_id))
        return cell

    def _cell(self, key: CellKey) -> Cell:
        cell = self.cells.get(key)
        if cell is None:
            cell = self.cells[key] = Cell()
        return cell

    def _client(self, *key: *ClientKey) -> ClientCell:
        client = self.clients.get(key)
        if client is None:
            client = self.clients[key] = ClientCell()
        return client

    def _add_speeds(self, minute: int, endpoint_id: str, model: str, kind: str, entries: list[RequestRecord]) -> None:
        """Output tokens over the whole duration of the attempts that made them, where that is any."""
        spent = [entry.attempts[-1].duration_us for entry in entries]
        if 0 in spent:
            entries = [entry for entry in entries if entry.attempts[-1].duration_us]
            spent = [duration_us for duration_us in spent if duration_us]
            if not spent:
                return
        key = (endpoint_id, model, local_date(minute, self.zone), kind)
        spoken = self.spoken.get(key)
        if spoken is None:
            spoken = self.spoken[key] = Spoken()
        spoken.output_tokens += sum([entry.output_tokens or 0 for entry in entries])
        spoken.duration_ms += sum([round(duration_us / 1000) or 1 for duration_us in spent])  # as `milliseconds`
        spoken.entries += entries

    @cached_property
    def endpoints(self) -> dict[str, Counters]:
        found: dict[str, Counters] = {}
        for (_, endpoint_id, *_), cell in self.cells.items():
            if endpoint_id == NO_ENDPOINT:
                continue
            attempts = cell.attempts_ok + cell.attempts_failed
            counters = Counters(attempts, cell.attempts_ok, cell.attempts_failed, cell.requests_cancelled)
            found.setdefault(endpoint_id, Counters()).add(counters)
        return found

    @cached_property
    def usage(self) -> dict[str, Usage]:
        found: dict[str, Usage] = {}
        for (_, endpoint_id, *_), cell in self.cells.items():
            if endpoint_id != NO_ENDPOINT:
                usage = Usage(cell.requests_ok, cell.ok_duration_us, cell.input_tokens, cell.output_tokens)
                found.setdefault(endpoint_id, Usage()).add(usage)
        return found

    @cached_property
    def daily(self) -> dict[DailyKey, Daily]:
        found: dict[DailyKey, Daily] = {}
        for (minute, endpoint_id, model, kind, _), cell in self.cells.items():
            if attempts := cell.attempts_ok + cell.attempts_failed:
                key = (endpoint_id, model, local_date(minute, self.zone), kind)
                found.setdefault(key, Daily()).add(Daily(attempts, cell.attempts_ok, cell.attempts_failed))
        for key, spoken in self.spoken.items():
            found[key].add(Daily(output_tokens=spoken.output_tokens, duration_ms=spoken.duration_ms))
        return found

    @cached_property
    def samples(self) -> dict[SpeedKey, list[Sample]]:
        """Sorted, and no more of them than a moving average is made of."""
        entries: dict[SpeedKey, list[RequestRecord]] = {}
        for (endpoint_id, model, _, kind), spoken in self.spoken.items():
            entries.setdefault((endpoint_id, model, kind), []).extend(spoken.entries)
        now = time.time()
        return {key: window(sorted(map(_sample, _latest(found, now))), now) for key, found in entries.items()}

    @cached_property
    def totals(self) -> Counter[str]:
        """None of them zero."""
        found = Counter(self.others)
        for cell in self.cells.values():
            found[REQUESTS_OK] += cell.requests_ok
            found[REQUESTS_FAILED] += cell.requests_failed
            found[REQUESTS_CANCELLED] += cell.requests_cancelled
            found[INPUT_TOKENS] += cell.input_tokens
            found[OUTPUT_TOKENS] += cell.output_tokens
            found[ANSWERS_US] += cell.ok_duration_us
            for index, count in cell.durations.items():
                found[_below(index)] += count
        return Counter({name: value for name, value in found.items() if value})

    @cached_property
    def days(self) -> dict[DayKey, Cell]:
        """The cells summed by local date."""
        found: dict[DayKey, Cell] = {}
        for (minute, endpoint_id, model, kind, key), cell in self.cells.items():
            day = (local_date(minute, self.zone), endpoint_id, model, kind, key)
            if day in found:
                found[day].add(cell)
            else:
                found[day] = cell.copy()
        return found


@lru_cache(maxsize=1024)
def _below(index: int) -> str:
    """The total that the answers of a bucket are counted in. No bucket holds a power of two but as its first value."""
    power = histogram.bounds(index)[0].bit_length()
    return f"{ANSWERS_BELOW}{min(BELOW_HIGH, max(BELOW_LOW, power))}"


_Key = TypeVar("_Key")
_Sum = TypeVar("_Sum", Cell, Spoken, ClientCell)


def _joined(one: dict[_Key, _Sum], other: dict[_Key, _Sum]) -> dict[_Key, _Sum]:
    joined = dict(one)
    for key, value in other.items():
        joined[key] = joined[key] + value if key in joined else value
    return joined


def sound(entry: RequestRecord) -> bool:
    """Can it be counted? One that cannot (a damaged or hand-made journal) must not take its neighbours along."""
    for attempt in entry.attempts:
        if not 0 <= attempt.duration_us <= MAX_DURATION_US:
            return False
    return (
        0 <= entry.duration_us <= MAX_DURATION_US
        and (entry.first_token_us is None or 0 <= entry.first_token_us <= MAX_DURATION_US)
        and 0 <= entry.completed_us < MAX_COMPLETED_US
        and entry.id.encode("ascii", "replace").translate(_AS_ZERO) == _ZERO_ID  # half as dear as a pattern
    )


def _latest(entries: list[RequestRecord], now: float) -> list[RequestRecord]:
    """The only ones that a window of samples can be made of, and few more: of many, most need not be looked at."""
    if len(entries) <= WINDOW:
        return entries
    entries = sorted(entries, key=_completed_us)
    come = bisect_right(entries, _horizon(now), key=_completed_us)
    first = max(0, come - WINDOW)
    while first and entries[first - 1].completed_us == entries[first].completed_us:
        first -= 1  # which of those that ended at one moment is the last is for their samples to say
    return entries[first:]


def _sample(entry: RequestRecord) -> Sample:
    attempt = entry.attempts[-1]
    assert entry.output_tokens is not None
    return entry.completed_us, int(entry.id[-12:], 16), entry.output_tokens / (attempt.duration_us / 1e6)


_completed_us = attrgetter("completed_us")


def plausible(tokens: int | None) -> int | None:
    """A count of tokens as an upstream told it; None for what no answer can have had."""
    return tokens if tokens is not None and 0 <= tokens <= MAX_TOKENS else None


def milliseconds(microseconds: int) -> int:
    """As the reference's integer columns hold a duration: never 0."""
    return round(microseconds / 1000) or 1


@lru_cache(maxsize=4096)
def local_date(minute: int, zone: ZoneInfo) -> str:
    """The date at a minute since 1970. Offsets are whole minutes, so a minute never spans two dates."""
    return datetime.fromtimestamp(minute * 60, zone).date().isoformat()


def merge_samples(kept: list[Sample], new: list[Sample]) -> list[Sample]:
    """The last WINDOW of both; `kept` is sorted, as this returns it.

    What a clock that ran ahead left behind is kept beside them, for the time when its moment has come. It takes no
    place from those whose moment is now, and never depends on when it was merged.
    """
    new = sorted({*new})
    after = kept and new and new[0] > kept[-1]  # nearly always
    return window([*kept, *new] if after else sorted({*kept, *new}), time.time())


def window(samples: list[Sample], now: float) -> list[Sample]:
    """The last WINDOW of sorted samples, and beside these of what runs ahead."""
    if not runs_ahead(samples, now):
        return samples[-WINDOW:]
    come = _come(samples, now)
    return [*come[-WINDOW:], *samples[len(come) :][-WINDOW:]]


def runs_ahead(samples: list[Sample], now: float) -> bool:
    return bool(samples) and samples[-1][0] > _horizon(now)


def _come(samples: list[Sample], now: float) -> list[Sample]:
    return samples[: bisect_right(samples, _horizon(now), key=itemgetter(0))]


def _horizon(now: float) -> int:
    return round(now * 1e6) + CLOCK_SLACK_US


def learned_speed(samples: list[Sample], now: float) -> float | None:
    """The moving average of those whose moment has come; of what a clock that ran ahead left, if there is no other."""
    return moving_average((_come(samples, now) or samples)[-WINDOW:])


def moving_average(samples: list[Sample]) -> float | None:
    """Exponential, first sample as it is (contract: α = 0.2)."""
    if not samples:
        return None
    value, old = samples[0][2], 1 - ALPHA
    for _, _, speed in samples[1:]:
        value = ALPHA * speed + old * value
    return value


pack_samples = msgspec.msgpack.Encoder().encode
_decode_samples = msgspec.msgpack.Decoder(list[Sample]).decode


def unpack_samples(packed: bytes) -> list[Sample]:
    """Damaged ones are none: a speed is learned again sooner than a batch is written without its average."""
    try:
        return _decode_samples(packed)
    except msgspec.DecodeError as error:
        log.error("a moving average in the database is damaged and begins anew: %s", error)
        return []
