"""Makes the catalogue of prices (gateway/prices/data) from a wheel of genai-prices. Nothing of the wheel is executed.

    pip download --no-deps genai-prices
    python -m benchmarks.price_catalogue genai_prices-0.2.3-py3-none-any.whl

Rows keep their numbers: a row of the former files that the wheel no longer has ends today, and a price that differs
from that of the former files begins today.
"""

import argparse
import hashlib
import sys
import zipfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email import message_from_bytes
from pathlib import Path

import msgspec

from benchmarks.price_source import Draft, Key, Problems, providers, rows_of
from gateway.prices.catalogue import DATA, CatalogueRow, Manifest, manifest, read
from gateway.providers.table import PROVIDERS

SOURCE = "https://github.com/pydantic/genai-prices"
# Endpoint types, and the providers of the wheel that have their prices
TYPES = {cloud.kind: cloud.price_sources for cloud in PROVIDERS.values() if cloud.price_sources}


def main(wheel: Path, target: Path = DATA, date: str = "") -> Problems:
    """Write the files, and return what of the wheel they do not contain."""
    date = date or datetime.now(UTC).strftime("%Y-%m-%d")
    today = int(datetime.fromisoformat(date).replace(tzinfo=UTC).timestamp())
    with zipfile.ZipFile(wheel) as archive:
        (info,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(archive.read(info))
        licence = archive.read(info.replace("METADATA", "licenses/LICENSE"))
        source = archive.read("genai_prices/data.py").decode()
    problems = Problems()
    providers_by_id = {provider.id: provider for provider in providers(source)}
    former = {kind: read(kind) for kind in TYPES} if (target / "manifest.json").exists() else {}
    number = max((row.number for rows in former.values() for row in rows), default=0)
    target.mkdir(exist_ok=True)
    contents = {"LICENSE": licence}
    for kind, names in TYPES.items():
        drafts = rows_of([providers_by_id[name] for name in names], problems)
        rows, number = merged(former.get(kind, []), drafts, today, number)
        contents[f"{kind}.json"] = text_of(rows)
    for name, content in contents.items():
        (target / name).write_bytes(content)
    made = Manifest(
        str(metadata["Name"]),
        str(metadata["Version"]),
        date,
        str(metadata["License-Expression"] or metadata["License"]),
        SOURCE,
        {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    )
    (target / "manifest.json").write_bytes(msgspec.json.format(msgspec.json.encode(made)) + b"\n")
    manifest.cache_clear()
    return problems


def merged(
    former: Iterable[CatalogueRow], drafts: Iterable[Draft], today: int, number: int
) -> tuple[list[CatalogueRow], int]:
    """Return the rows of a file, and the highest number. `number`: the highest one of all former rows.

    A former row is never changed but for its end. A new row for a key that former rows have begins today at the
    earliest, unless its end is what differs.
    """
    former = list(former)
    wanted = {(draft.key, draft.valid_from): draft for draft in drafts}
    keys = {(row.pattern, row.min_prompt, row.tier, row.window) for row in former}
    rows: list[CatalogueRow] = []
    kept: set[tuple[Key, int]] = set()
    for row in former:
        key = (row.pattern, row.min_prompt, row.tier, row.window)
        draft = wanted.get((key, row.valid_from)) or _running(wanted, key, row, today)
        if draft is not None and draft.amounts == row.amounts:
            kept.add((draft.key, draft.valid_from))
            rows.append(msgspec.structs.replace(row, valid_until=draft.valid_until))
        elif row.valid_until is None or row.valid_until > today:
            rows.append(msgspec.structs.replace(row, valid_until=max(today, row.valid_from)))
        else:
            rows.append(row)
    for (key, valid_from), draft in wanted.items():
        if (key, valid_from) in kept or (draft.valid_until is not None and key in keys and draft.valid_until <= today):
            continue
        number += 1
        start = max(valid_from, today) if key in keys else valid_from
        rows.append(CatalogueRow(number, key[0], start, draft.valid_until, *key[1:], draft.amounts))
    return rows, number


def _running(wanted: Mapping[tuple[Key, int], Draft], key: Key, row: CatalogueRow, today: int) -> Draft | None:
    """Return the wanted row of the same key that counts today, for a row that began when the catalogue was made."""
    if row.valid_from > today:
        return None
    running = [candidate for (other, start), candidate in wanted.items() if other == key and start <= today]
    return max(running, key=lambda candidate: candidate.valid_from, default=None)


def text_of(rows: Iterable[CatalogueRow]) -> bytes:
    """Return a file with one row per line."""
    return b"[\n" + b",\n".join(msgspec.json.encode(row) for row in rows) + b"\n]\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    for line in main(parser.parse_args().wheel).lines():
        print(line, file=sys.stderr)
