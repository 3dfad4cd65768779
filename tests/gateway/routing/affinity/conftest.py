from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.base.config import AFFINITY_AUTO
from gateway.dialects.prompt_fields import decode_prompt
from gateway.routing.affinity.affinity import Affinity, Prefix
from gateway.routing.affinity.table import MarkTable, open_table

SECRET, OTHER_SECRET = b"s" * 32, b"o" * 32


@dataclass
class Facts:
    slot: int
    base_url: str = "http://a"


@dataclass
class FakeEndpoint:
    id: str
    facts: Facts


@dataclass
class Fleet:
    """Endpoints with their clocks, and the affinity of one process."""

    table: MarkTable
    setting: str = AFFINITY_AUTO
    secret: bytes = SECRET
    endpoints: list[FakeEndpoint] = field(default_factory=list)
    clocks: dict[int, int] = field(default_factory=dict)
    has_prints: bool = False

    def __post_init__(self) -> None:
        self.affinity = Affinity(
            self.setting,
            self.secret,
            self.table,
            self,
            lambda: {endpoint.id: endpoint for endpoint in self.endpoints},
        )

    def read_tokens(self, slot: int) -> int:
        return self.clocks.get(slot, 0)

    @property
    def by_id(self) -> dict[str, FakeEndpoint]:
        return {endpoint.id: endpoint for endpoint in self.endpoints}

    def add(self, name: str, slot: int, base_url: str = "http://a") -> FakeEndpoint:
        endpoint = FakeEndpoint(name, Facts(slot, base_url))
        self.endpoints.append(endpoint)
        self.has_prints = False
        return endpoint

    def remove(self, endpoint: FakeEndpoint) -> None:
        self.endpoints.remove(endpoint)
        self.has_prints = False

    def read(self, body: bytes, session: bytes | None = None, key: str | None = "key", model: str = "m") -> Prefix:
        prefix = self.affinity.read(decode_prompt(body), session, key, model, len(body))
        assert prefix is not None
        return prefix

    def sizes(self, body: bytes, **of: Any) -> dict[str, int]:
        """Return the bytes of a body that each endpoint should have."""
        return {name: kept.size for name, kept in self.affinity.find(self.read(body, **of), self).items()}

    def age(self, body: bytes, name: str) -> int:
        return self.affinity.find(self.read(body), self)[name].age

    def send(self, body: bytes, endpoint: FakeEndpoint, **of: Any) -> Prefix:
        prefix = self.read(body, **of)
        self.affinity.find(prefix, self)
        self.affinity.store(prefix, endpoint)
        return prefix


def chat(*texts: str, **fields: Any) -> bytes:
    """Return the body of a chat: system prompt, then user and assistant in turn."""
    roles = ["system", *["user", "assistant"] * len(texts)]
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return msgspec.json.encode({"model": "m", "messages": messages, **fields})


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    """The table, and the file that is locked while it is created."""
    (tmp_path / "key").touch()
    return tmp_path / "affinity", tmp_path / "key"


@pytest.fixture
def table(paths: tuple[Path, Path]) -> MarkTable:
    return open_table(*paths)


@pytest.fixture
def fleet(table: MarkTable) -> Fleet:
    return Fleet(table)
