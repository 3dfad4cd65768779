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
from gateway.ipc.record import Entry, RequestRecord, Unrecorded
from gateway.prices.counts import plausible
from metrics.counting import choices
from metrics.counting.cells import (
    MINUTE_US,
    Cell,
    CellKey,
    ClientCell,
    ClientKey,
    DailyKey,
    ServedKey,
    SpeedSums,
    local_date,
    milliseconds,
)
from metrics.counting.plausibility import NO_ENDPOINT, is_countable
from metrics.counting.token_details import TokenDetails, details_of
from metrics.counting.totals import REJECTED, UNRECORDED

log = logging.getLogger(__name__)


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

    def count_all(self, entries: Iterable[Entry]) -> None:
        """Count the entries. Requests with impossible values are set aside as unrecorded ones."""
        for entry in entries:
            if isinstance(entry, RequestRecord):
                if is_countable(entry):
                    self.counted.append(entry)
                    self._add(entry)
                else:
                    log.error("record %r has impossible values and is set aside", entry.id[:40])
                    self.others[UNRECORDED] += 1
            elif isinstance(entry, Unrecorded):
                self.others[UNRECORDED] += entry.count

    def _add(self, entry: RequestRecord) -> None:
        outcome, minute, api_key_id = entry.outcome, entry.completed_us // MINUTE_US, entry.api_key_id or ""
        if outcome == record.REJECTED:
            self.others[REJECTED + (entry.error or "")] += entry.count
            # The key has no model, because clients can invent any number of names.
            self._cell((minute, NO_ENDPOINT, "", "", api_key_id)).requests_rejected += entry.count
            return
        cell = self._add_attempts(entry, minute, api_key_id)
        tokens_in, tokens_out = plausible(entry.input_tokens) or 0, plausible(entry.output_tokens) or 0
        if outcome == record.OK:
            cell.add_success(entry.duration_us, entry.first_token_us)
            if tokens_out and entry.attempts and entry.kind in GENERATING:
                self._add_speed(entry, minute, tokens_out)
        elif outcome == record.CANCELLED:
            cell.requests_cancelled += 1
        else:
            cell.requests_failed += 1
        cell.input_tokens += tokens_in
        cell.output_tokens += tokens_out
        details = details_of(entry)
        if details is not None:
            cell.add_details(details)
        if entry.attempts and outcome != record.QUEUE:
            last = entry.attempts[-1]
            if last.served is not None or last.canonical is not None or last.step:
                self._add_served(entry, minute, api_key_id, details)
        if entry.client_ip is not None:
            client = self._client(minute // 60, entry.client_ip, api_key_id, entry.model)
            client.add_request(outcome, tokens_in, tokens_out, entry.completed_us)
        choices.count(self.others, entry)

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

    def _add_served(self, entry: RequestRecord, minute: int, api_key_id: str, details: TokenDetails | None) -> None:
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
        if details is not None:
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

    def _add_speed(self, entry: RequestRecord, minute: int, tokens_out: int) -> None:
        """Count output tokens and the whole duration of the successful attempt, unless it has no duration."""
        last = entry.attempts[-1]
        if not last.duration_us:
            return
        key = (last.endpoint_id, entry.model, local_date(minute, self.zone), entry.kind)
        sums = self.speed_sums.get(key)
        if sums is None:
            sums = self.speed_sums[key] = SpeedSums()
        sums.output_tokens += tokens_out
        sums.duration_ms += milliseconds(last.duration_us)
        sums.entries.append(entry)
