"""The sums that each record of a fold is added to (metrics.counting.fold).

Control may run this module compiled: it takes a tenth of the CPU time that control has for each record.
"""

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

from gateway.base.request_kinds import GENERATING
from gateway.ipc import record
from gateway.ipc.record import AttemptRecord, Entry, RequestRecord, Unrecorded
from gateway.prices.counts import MAX_TOKENS, plausible
from metrics.counting import choices, histogram
from metrics.counting.cells import (
    MINUTE_US,
    Cell,
    CellKey,
    ClientCell,
    ClientKey,
    DailyKey,
    ServedKey,
    SpeedSums,
    all_milliseconds,
    local_date,
)
from metrics.counting.plausibility import MAX_COMPLETED_US, MAX_DURATION_US, NO_ENDPOINT, are_ids, is_countable
from metrics.counting.token_details import details_of, has_details
from metrics.counting.totals import REJECTED, UNRECORDED

log = logging.getLogger(__name__)

# Minute, endpoint, model, kind, API key, client address; then the attempt's served model, canonical name and step.
GroupKey = tuple[int, str, str, str, str, str | None, str | None, str | None, int]
# Requests of one key. If there are several: the sums of their input and output tokens, unless one reported details.
Group = tuple[GroupKey, list[RequestRecord], tuple[int, int] | None]


class _Run:
    """The group of an endpoint that was added to last."""

    __slots__ = ("end_us", "entries", "first", "only", "start_us")

    def __init__(
        self, start_us: int, end_us: int, first: RequestRecord, only: AttemptRecord, entries: list[RequestRecord]
    ) -> None:
        """`start_us`, `end_us`: of its minute. `first`, `only`: a request of it, and its attempt."""
        self.start_us = start_us
        self.end_us = end_us
        self.first = first
        self.only = only
        self.entries = entries


@dataclass
class FoldSums:
    """Sums of a batch of entries. Filled once by `count_all`, then read-only, possibly by several readers.

    Each record is counted in one or two cells only, because this is the part that runs for every record.
    """

    zone: ZoneInfo
    cells: dict[CellKey, Cell] = field(default_factory=dict)
    speed_sums: dict[DailyKey, SpeedSums] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)  # totals that no cells add up to
    refused_connections: set[str] = field(default_factory=set)  # endpoints whose health is checked at once
    unknown_models: set[str] = field(default_factory=set)  # endpoints whose models are read again
    counted: list[RequestRecord] = field(default_factory=list)
    clients: dict[ClientKey, ClientCell] = field(default_factory=dict)  # requests in the history, by client
    served: dict[ServedKey, Cell] = field(default_factory=dict)  # requests of which the asked name says too little
    # The counted requests again, for their costs: successful ones with one attempt in groups, and all other ones.
    groups: list[Group] = field(default_factory=list, compare=False)
    ungrouped: list[RequestRecord] = field(default_factory=list, compare=False)

    def count_all(self, entries: Iterable[Entry]) -> None:
        """Count the entries. Successful requests with one attempt are counted in groups."""
        requests: list[RequestRecord] = []
        for entry in entries:
            if isinstance(entry, RequestRecord):
                requests.append(entry)
            elif isinstance(entry, Unrecorded):
                self.others[UNRECORDED] += entry.count
        before, few = len(self.ungrouped), list[RequestRecord]()
        for group_key, group in self._grouped(requests).items():
            tokens = None
            if len(group) == 1:
                self._add(group[0])
            else:
                tokens = self._add_group(group_key, group)
            if len(group) < choices.MANY:
                few += group
            else:
                choices.count_successes(self.others, group)
            self.groups.append((group_key, group, tokens))
        choices.count(self.others, [*few, *self.ungrouped[before:]])

    def _grouped(self, requests: list[RequestRecord]) -> dict[GroupKey, list[RequestRecord]]:
        """Note countable requests, count all but the successful ones with one attempt, and return these in groups."""
        groups: dict[GroupKey, list[RequestRecord]] = {}
        runs: dict[str, _Run] = {}
        have_ids, set_aside = are_ids([entry.id for entry in requests]), set[int]()
        for entry in requests:
            attempts, completed_us, first_us = entry.attempts, entry.completed_us, entry.first_token_us
            if (
                entry.outcome == record.OK
                and len(attempts) == 1
                and (only := attempts[0]).outcome == record.OK
                # With the one below, stricter than `is_countable`, which takes a call for each entry.
                and have_ids
                and 0 <= only.duration_us <= entry.duration_us <= MAX_DURATION_US
                and (first_us is None or 0 <= first_us <= MAX_DURATION_US)
            ):
                # Most requests are like the one before at their endpoint. Comparing them costs half of a GroupKey.
                run = runs.get(only.endpoint_id)
                if (
                    run is not None
                    and run.start_us <= completed_us < run.end_us
                    and (like := run.first).model == entry.model
                    and like.kind == entry.kind
                    and like.api_key_id == entry.api_key_id
                    and like.client_ip == entry.client_ip
                    and (tried := run.only).served == only.served
                    and tried.canonical == only.canonical
                    and tried.step == only.step
                ):
                    run.entries.append(entry)
                    continue
                if 0 <= completed_us < MAX_COMPLETED_US:
                    minute = completed_us // MINUTE_US
                    key = (
                        minute, only.endpoint_id, entry.model, entry.kind, entry.api_key_id or "", entry.client_ip,
                        only.served, only.canonical, only.step,
                    )  # fmt: skip
                    group = groups.get(key)
                    if group is None:
                        group = groups[key] = []
                    group.append(entry)
                    start_us = minute * MINUTE_US
                    runs[only.endpoint_id] = _Run(start_us, start_us + MINUTE_US, entry, only, group)
                    continue
            if is_countable(entry):
                self.ungrouped.append(entry)
                self._add(entry)
            else:
                log.error("record %r has impossible values and is set aside", entry.id[:40])
                self.others[UNRECORDED] += 1
                set_aside.add(id(entry))
        self.counted += [entry for entry in requests if id(entry) not in set_aside] if set_aside else requests
        return groups

    def _add_group(self, key: GroupKey, entries: list[RequestRecord]) -> tuple[int, int] | None:
        """Count successful requests of one key at once, with the same result as `_add` for each of them.

        Returns the sums of input and output tokens; None if one of the requests reported details.

        The histograms of duration and of time to first token, both in µs, each get all values in one call.
        """
        minute, endpoint_id, model, kind, api_key_id, client_ip, served, canonical, step = key
        cell = self._cell((minute, endpoint_id, model, kind, api_key_id))
        durations = [entry.duration_us for entry in entries]
        first_tokens = [first for entry in entries if (first := entry.first_token_us) is not None]
        # The condition of `plausible`, without a call for each entry.
        tokens_in = sum([tokens for entry in entries if (tokens := entry.input_tokens) and 0 < tokens <= MAX_TOKENS])
        with_output = [entry for entry in entries if (tokens := entry.output_tokens) and 0 < tokens <= MAX_TOKENS]
        tokens_out = sum([entry.output_tokens or 0 for entry in with_output])
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
        if with_output and kind in GENERATING:
            self._add_speeds(minute, endpoint_id, model, kind, with_output)
        # The condition of `has_details`, without a call for each entry.
        reported = [
            entry
            for entry in entries
            if entry.cached_tokens is not None
            or entry.reasoning_tokens is not None
            or entry.cache_write_tokens is not None
        ]
        if reported and (details := details_of(reported)) is not None:
            cell.add_details(details)
        if served is not None or canonical is not None or step:
            for entry in entries:
                self._add_served(entry, minute, api_key_id)
        return None if reported else (tokens_in, tokens_out)

    def _add(self, entry: RequestRecord) -> None:
        outcome, minute, api_key_id = entry.outcome, entry.completed_us // MINUTE_US, entry.api_key_id or ""
        if outcome == record.REJECTED:
            self.others[REJECTED + (entry.error or "")] += 1
            # The key has no model, because clients can invent any number of names.
            self._cell((minute, NO_ENDPOINT, "", "", api_key_id)).requests_rejected += 1
            return
        cell = self._add_attempts(entry, minute, api_key_id)
        tokens_in, tokens_out = plausible(entry.input_tokens) or 0, plausible(entry.output_tokens) or 0
        if outcome == record.OK:
            cell.add_success(entry.duration_us, entry.first_token_us)
            if tokens_out and entry.attempts and entry.kind in GENERATING:
                self._add_speeds(minute, entry.attempts[-1].endpoint_id, entry.model, entry.kind, [entry])
        elif outcome == record.CANCELLED:
            cell.requests_cancelled += 1
        else:
            cell.requests_failed += 1
        cell.input_tokens += tokens_in
        cell.output_tokens += tokens_out
        if has_details(entry) and (details := details_of((entry,))) is not None:
            cell.add_details(details)
        if entry.attempts and outcome != record.QUEUE:
            last = entry.attempts[-1]
            if last.served is not None or last.canonical is not None or last.step:
                self._add_served(entry, minute, api_key_id)
        if entry.client_ip is not None:
            client = self._client(minute // 60, entry.client_ip, api_key_id, entry.model)
            client.add_request(outcome, tokens_in, tokens_out, entry.completed_us)

    def _add_attempts(self, entry: RequestRecord, minute: int, api_key_id: str) -> Cell:
        """Count the attempts, and return the cell of the endpoint that the request itself counts under."""
        model, kind = entry.model, entry.kind
        for attempt in entry.attempts:
            cell = self._cell((minute, attempt.endpoint_id, model, kind, api_key_id))
            if attempt.outcome == record.OK:
                cell.attempts_ok += 1
            elif attempt.outcome != record.CANCELLED:
                cell.attempts_failed += 1
                if attempt.status == 0 and attempt.error == record.CONNECTION_REFUSED:
                    self.refused_connections.add(attempt.endpoint_id)
                elif attempt.error == record.MODEL_UNKNOWN:
                    self.unknown_models.add(attempt.endpoint_id)
        if not entry.attempts or entry.outcome == record.QUEUE:
            cell = self._cell((minute, NO_ENDPOINT, model, kind, api_key_id))
        return cell

    def _add_served(self, entry: RequestRecord, minute: int, api_key_id: str) -> None:
        """Count a request by the model that its last attempt reached, unless that is the asked name at step 0."""
        attempt, model = entry.attempts[-1], entry.model
        served = model if attempt.served is None else attempt.served
        canonical = served if attempt.canonical is None else attempt.canonical
        if served == model == canonical and not attempt.step:
            return
        key = (
            local_date(minute, self.zone), attempt.endpoint_id, model, entry.kind, api_key_id, served, canonical,
            attempt.step,
        )  # fmt: skip
        cell = self.served.get(key)
        if cell is None:
            cell = self.served[key] = Cell()
        if entry.outcome == record.OK:
            cell.requests_ok += 1
            cell.ok_duration_us += entry.duration_us
        elif entry.outcome == record.CANCELLED:
            cell.requests_cancelled += 1
        else:
            cell.requests_failed += 1
        cell.input_tokens += plausible(entry.input_tokens) or 0
        cell.output_tokens += plausible(entry.output_tokens) or 0
        if has_details(entry) and (details := details_of((entry,))) is not None:
            cell.add_details(details)

    def _cell(self, key: CellKey) -> Cell:
        cell = self.cells.get(key)
        if cell is None:
            cell = self.cells[key] = Cell()
        return cell

    def _client(self, hour: int, client_ip: str, api_key_id: str, model: str) -> ClientCell:
        key = (hour, client_ip, api_key_id, model)
        client = self.clients.get(key)
        if client is None:
            client = self.clients[key] = ClientCell()
        return client

    def _add_speeds(self, minute: int, endpoint_id: str, model: str, kind: str, entries: list[RequestRecord]) -> None:
        """Count output tokens and the whole duration of the successful attempts, except attempts without a duration."""
        durations = [entry.attempts[-1].duration_us for entry in entries]
        if 0 in durations:
            entries = [entry for entry in entries if entry.attempts[-1].duration_us]
            durations = [duration_us for duration_us in durations if duration_us]
            if not durations:
                return
        key = (endpoint_id, model, local_date(minute, self.zone), kind)
        sums = self.speed_sums.get(key)
        if sums is None:
            sums = self.speed_sums[key] = SpeedSums()
        sums.output_tokens += sum([entry.output_tokens or 0 for entry in entries])
        sums.duration_ms += sum(all_milliseconds(durations))
        sums.entries += entries
