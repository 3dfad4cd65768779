"""A SQLite database as llmlb 5.7.1 leaves it, with traffic in it, and its expected figures.

    python -m tests.reference.make_reference_db OUT.sqlite3 [--seed N] [--requests N]

writes OUT.sqlite3 and OUT.expected.json; `make` does it for tests. The tables come from routerdash's list of facts.
"""

import argparse
import hashlib
import json
import random
import sqlite3
import string
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

from tests.slices import module_of_slice

CHECKS = {
    "users": ["role IN ('admin','viewer')"],
    "invitation_keys": ["role IN ('admin','viewer')", "is_used IN (0,1)"],
}
PASSWORD = "correct horse battery staple"
BCRYPT = "$2b$12$KcjRCsnOgw7JlhC/x.WCfO9pqzQaLoalj/23IE.6gQbt41vSPmsKK"  # of PASSWORD, cost 12
KINDS = {"Chat": "chat_completions", "Generate": "completions"}

OPS = ["openai.inference", "openai.models.read", "endpoints.read", "endpoints.manage", "metrics.read"]
NOTEBOOK = ["openai.inference", "openai.models.read"]

LLAMA, GEMMA = "meta-llama/Llama-3.3-70B-Instruct", "google/gemma-3-27b-it"


@dataclass(frozen=True)
class Server:
    name: str
    port: int
    status: str
    latency_ms: int | None
    kind: str
    secret: str | None = None
    models: tuple[tuple[str, str | None], ...] = ()


SERVERS = (
    Server("gpu-box 1", 18181, "online", 100, "vllm", "sk-upstream-secret", ((LLAMA, None), ("tiny-random", None))),
    Server("mac-studio", 18182, "online", 200, "ollama", None, (("llama3.3:70b", LLAMA),)),
    Server("古いサーバー", 18183, "offline", 120, "llamacpp", None, (("gemma3:27b", GEMMA),)),
    Server("never measured", 18184, "pending", None, "openai_compatible"),
)

EXTRA = """
CREATE VIRTUAL TABLE audit_log_fts USING fts5(request_path, actor_id, actor_username, client_ip, detail,
 content=audit_log_entries, content_rowid=id);
CREATE TRIGGER audit_log_fts_insert AFTER INSERT ON audit_log_entries BEGIN
 INSERT INTO audit_log_fts(rowid, request_path, actor_id, actor_username, client_ip, detail)
 VALUES (new.id, new.request_path, new.actor_id, new.actor_username, new.client_ip, new.detail); END;
CREATE TRIGGER audit_log_fts_delete AFTER DELETE ON audit_log_entries BEGIN
 INSERT INTO audit_log_fts(audit_log_fts, rowid, request_path, actor_id, actor_username, client_ip, detail)
 VALUES ('delete', old.id, old.request_path, old.actor_id, old.actor_username, old.client_ip, old.detail); END;
CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL, installed_on TIMESTAMP NOT NULL
 DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL, checksum BLOB NOT NULL, execution_time BIGINT NOT NULL);
CREATE TRIGGER trg_api_keys_reject_duplicate_name_insert BEFORE INSERT ON api_keys FOR EACH ROW
 WHEN EXISTS (SELECT 1 FROM api_keys WHERE created_by = NEW.created_by AND name = NEW.name)
 BEGIN SELECT RAISE(ABORT, 'API key name already exists for this user'); END;
CREATE TRIGGER trg_api_keys_reject_duplicate_name_update BEFORE UPDATE OF name, created_by ON api_keys FOR EACH ROW
 WHEN (NEW.created_by IS NOT OLD.created_by OR NEW.name IS NOT OLD.name) AND EXISTS
 (SELECT 1 FROM api_keys WHERE created_by = NEW.created_by AND name = NEW.name AND id <> OLD.id)
 BEGIN SELECT RAISE(ABORT, 'API key name already exists for this user'); END;
"""


def statements(name: str, table: dict[str, Any]) -> Iterator[str]:
    """CREATE TABLE and its indexes."""
    keys = [column["name"] for column in sorted(table["columns"], key=lambda column: column["pk"]) if column["pk"]]
    lines = [_column(column, table, alone=len(keys) == 1) for column in table["columns"]]
    if len(keys) > 1:
        lines.append(f"PRIMARY KEY ({_quoted(keys)})")
    lines += [f"UNIQUE ({_quoted(columns)})" for columns in table["unique"]]
    lines += [
        f'FOREIGN KEY ("{foreign_key["column"]}") REFERENCES "{foreign_key["table"]}" ("{foreign_key["to"]}") '
        f"ON DELETE {foreign_key['on_delete']}"
        for foreign_key in table["foreign_keys"]
    ]
    lines += [f"CHECK ({check})" for check in CHECKS.get(name, ())]
    yield f'CREATE TABLE "{name}" (\n  ' + ",\n  ".join(lines) + "\n)"
    for index in table["indexes"]:
        columns = ", ".join(
            f'"{column.removesuffix(" DESC")}"{" DESC" if column.endswith(" DESC") else ""}'
            for column in index["columns"]
        )
        where = f" WHERE {index['where']}" if index["where"] else ""
        yield f'CREATE {"UNIQUE " if index["unique"] else ""}INDEX "{index["name"]}" ON "{name}" ({columns}){where}'


def _column(column: dict[str, Any], table: dict[str, Any], *, alone: bool) -> str:
    line = f'"{column["name"]}" {column["type"]}'
    if alone and column["pk"]:
        line += " PRIMARY KEY" + (" AUTOINCREMENT" if table["autoincrement"] else "")
    if column["notnull"]:
        line += " NOT NULL"
    if column["default"] is not None:
        line += f" DEFAULT ({column['default']})"
    return line


def _quoted(names: list[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


@dataclass
class Maker:
    """A writer of one database; every choice comes from the seeded generator."""

    db: sqlite3.Connection
    now: datetime
    zone: tzinfo
    rng: random.Random
    key_ids: list[str] = field(default_factory=list)
    expected: dict[str, Any] = field(default_factory=dict)

    def tables(self) -> None:
        llmlb_schema = module_of_slice("routerdash.adoption.llmlb_schema")
        for name, table in llmlb_schema.schema().items():
            for statement in statements(name, table):
                self.db.execute(statement)
        self.db.executescript(EXTRA)
        for version in range(1, 28):
            checksum = self.rng.randbytes(48)
            self.add(
                "_sqlx_migrations",
                version=version,
                description=f"m{version}",
                success=1,
                checksum=checksum,
                execution_time=1,
            )
        updated = self.now.strftime("%Y-%m-%d %H:%M:%S")
        self.add("settings", key="ip_alert_threshold", value="100", updated_at=updated)

    def add(self, table: str, **row: Any) -> None:
        marks = ", ".join("?" * len(row))
        self.db.execute(f'INSERT INTO "{table}" ({_quoted(list(row))}) VALUES ({marks})', list(row.values()))

    def uuid(self) -> str:
        return str(uuid.UUID(int=self.rng.getrandbits(128), version=4))

    def stamp(self, moment: datetime) -> str:
        """RFC 3339, +00:00, with 0, 3, 6 or 9 digits of a second, as llmlb writes it."""
        digits = self.rng.choice([0, 3, 6, 9])
        fraction = f"{moment.microsecond:06d}{self.rng.randrange(1000):03d}"[:digits]
        return moment.strftime("%Y-%m-%dT%H:%M:%S") + (f".{fraction}" if digits else "") + "+00:00"

    def ago(self, **span: float) -> str:
        return self.stamp(self.now - timedelta(**span))

    def people(self) -> None:
        admin, viewer = self.uuid(), self.uuid()
        for user_id, name, role in ((admin, "admin", "admin"), (viewer, "hanako@example.com", "viewer")):
            self.add(
                "users",
                id=user_id,
                username=name,
                password_hash=BCRYPT,
                role=role,
                created_at=self.ago(days=90),
                last_login=None,
                must_change_password=int(role == "viewer"),
            )
        self.expected["users"] = {"admin": PASSWORD, "hanako@example.com": PASSWORD}
        self.expected["api_keys"] = {
            "ops": self._key(admin, "ops", OPS, None),
            "notebook": self._key(viewer, "notebook", NOTEBOOK, None),
            "old laptop": self._key(viewer, "old laptop", ["openai.inference"], self.ago(days=1)),
        }

    def _key(self, owner: str, name: str, permissions: list[str], expires: str | None) -> dict[str, Any]:
        key = "sk_" + "".join(self.rng.choices(string.ascii_letters + string.digits, k=32))
        self.key_ids.append(self.uuid())
        self.add(
            "api_keys",
            id=self.key_ids[-1],
            key_hash=hashlib.sha256(key.encode()).hexdigest(),
            name=name,
            created_by=owner,
            created_at=self.ago(days=30),
            expires_at=expires,
            key_prefix=key[:10],
            permissions=json.dumps(permissions),
        )
        return {"id": self.key_ids[-1], "key": key, "permissions": permissions, "expired": expires is not None}

    def servers(self) -> dict[str, Server]:
        """By their new ids."""
        servers: dict[str, Server] = {}
        for server in SERVERS:
            endpoint_id = self.uuid()
            servers[endpoint_id] = server
            self.add(
                "endpoints",
                id=endpoint_id,
                name=server.name,
                base_url=f"http://127.0.0.1:{server.port}",
                api_key_encrypted=server.secret,
                status=server.status,
                latency_ms=server.latency_ms,
                last_seen=self.ago(minutes=2) if server.latency_ms else None,
                last_error="HTTP 503" if server.status == "offline" else None,
                error_count=0,
                registered_at=self.ago(days=60),
                notes="rack 3, 床下" if server.secret else None,
                endpoint_type=server.kind,
            )
            for model, canonical in server.models:
                self.add(
                    "endpoint_models",
                    endpoint_id=endpoint_id,
                    model_id=model,
                    capabilities='["chat"]',
                    last_checked=self.ago(minutes=10),
                    max_tokens=self.rng.choice([None, 8192]),
                    canonical_name=canonical,
                )
            self._checks(endpoint_id, server)
        return servers

    def _checks(self, endpoint_id: str, server: Server) -> None:
        online = server.status == "online"
        for number in range(30):
            self.add(
                "endpoint_health_checks",
                endpoint_id=endpoint_id,
                checked_at=self.ago(seconds=30 * number),
                success=int(online),
                latency_ms=server.latency_ms if online else None,
                error_message=None if online else "HTTP 503",
                status_before=server.status,
                status_after=server.status,
            )

    def traffic(self, servers: dict[str, Server], count: int) -> None:
        totals: dict[str, list[int]] = {}
        daily: dict[tuple[str, str, str, str], list[int]] = {}
        first = (self.now - timedelta(minutes=59)).replace(second=0, microsecond=0)
        minutes = {_minute(first + timedelta(minutes=number)): [0, 0] for number in range(60)}
        serving = [(endpoint_id, server) for endpoint_id, server in servers.items() if server.models]
        for _ in range(count):
            endpoint_id, server = self.rng.choice(serving)
            model, kind = self.rng.choice(server.models)[0], self.rng.choice(["Chat", "Chat", "Chat", "Generate"])
            # A third in the last hour, the rest over five days; none in the future, none within the last second.
            recent = self.rng.random() < 0.34
            age = self.rng.uniform(1, 58 * 60) if recent else self.rng.uniform(3700, 5 * 86400)
            done, ok = self.now - timedelta(seconds=age), self.rng.random() < 0.9
            tokens, duration = self.rng.randrange(1, 900), self.rng.randrange(20, 30000)
            self._request(endpoint_id, server, model, kind, done, ok, tokens, duration)
            total = totals.setdefault(endpoint_id, [0, 0, 0])
            day = daily.setdefault((endpoint_id, model, self._date(done), KINDS[kind]), [0] * 5)
            for sums in (total, day):
                sums[0] += 1
                sums[1 if ok else 2] += 1
            if ok:
                day[3] += tokens
                day[4] += duration
            if _minute(done) in minutes:
                minutes[_minute(done)][0 if ok else 1] += 1
        self._sums(totals, daily)
        self._expect(servers, totals, daily, minutes)

    def _request(
        self, endpoint_id: str, server: Server, model: str, kind: str, done: datetime, ok: bool, tokens: int, ms: int
    ) -> None:
        body = {"model": model, "messages": [{"role": "user", "content": "こんにちは"}]}
        self.add(
            "request_history",
            id=self.uuid(),
            timestamp=self.stamp(done),
            request_type=kind,
            model=model,
            endpoint_id=endpoint_id,
            endpoint_name=server.name,
            endpoint_ip="0.0.0.0",
            client_ip=f"192.168.1.{self.rng.randrange(2, 20)}",
            request_body=json.dumps(body, ensure_ascii=False),
            response_body=None,
            duration_ms=ms,
            status="success" if ok else "error",
            error_message=None if ok else "HTTP 500",
            completed_at=self.stamp(done),
            input_tokens=30 if ok else None,
            output_tokens=tokens if ok else None,
            total_tokens=30 + tokens if ok else None,
            api_key_id=self.rng.choice(self.key_ids),
        )

    def _sums(self, totals: dict[str, list[int]], daily: dict[tuple[str, str, str, str], list[int]]) -> None:
        for endpoint_id, sums in totals.items():
            self.db.execute(
                "UPDATE endpoints SET total_requests = ?, successful_requests = ?, failed_requests = ? WHERE id = ?",
                (*sums, endpoint_id),
            )
        names = (
            "total_requests",
            "successful_requests",
            "failed_requests",
            "total_output_tokens",
            "total_duration_ms",
        )
        for (endpoint_id, model, date, kind), sums in daily.items():
            key = {"endpoint_id": endpoint_id, "model_id": model, "date": date, "api_kind": kind}
            self.add("endpoint_daily_stats", **key, **dict(zip(names, sums, strict=True)))
        # An endpoint deleted long ago: its daily rows stay.
        ghost = {"endpoint_id": self.uuid(), "model_id": "gone", "date": self._date(self.now - timedelta(days=20))}
        self.add("endpoint_daily_stats", **ghost, **dict(zip(names, (7, 6, 1, 600, 9000), strict=True)))
        self.expected["deleted_endpoint"] = {"id": ghost["endpoint_id"], "total_requests": 7}

    def _expect(
        self,
        servers: dict[str, Server],
        totals: dict[str, list[int]],
        daily: dict[tuple[str, str, str, str], list[int]],
        minutes: dict[str, list[int]],
    ) -> None:
        today = self._date(self.now)
        self.expected["endpoints"] = {
            server.name: {
                "id": endpoint_id,
                "total_requests": totals.get(endpoint_id, [0, 0, 0])[0],
                "successful_requests": totals.get(endpoint_id, [0, 0, 0])[1],
                "failed_requests": totals.get(endpoint_id, [0, 0, 0])[2],
                "latency_ms": server.latency_ms,
            }
            for endpoint_id, server in servers.items()
        }
        self.expected["tps_today"] = [
            {"endpoint_id": endpoint_id, "model_id": model, "api_kind": kind, "tps": sums[3] / (sums[4] / 1000)}
            for (endpoint_id, model, date, kind), sums in sorted(daily.items())
            if date == today and sums[3] > 0 and sums[4] > 0
        ]
        self.expected["minutes"] = {
            minute: {"success": ok, "error": failed} for minute, (ok, failed) in minutes.items()
        }
        self.expected["today"] = today

    def _date(self, moment: datetime) -> str:
        return moment.astimezone(self.zone).strftime("%Y-%m-%d")


def _minute(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:00Z")


def make(
    path: Path, *, seed: int = 1, requests: int = 2000, now: datetime | None = None, zone: tzinfo = UTC
) -> dict[str, Any]:
    """Write the database; return its expected figures. `zone` is the server's, for the dates of daily rows."""
    now = now or datetime.now(UTC)
    db = sqlite3.connect(path)
    maker = Maker(db, now, zone, random.Random(seed))
    maker.expected["now"] = now.isoformat()
    maker.tables()
    maker.people()
    maker.traffic(maker.servers(), requests)
    db.commit()
    db.close()
    return maker.expected


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--requests", type=int, default=2000)
    options = parser.parse_args()
    if options.out.exists():
        sys.exit(f"{options.out} exists already; name a new file")
    expected = make(options.out, seed=options.seed, requests=options.requests)
    options.out.with_suffix(".expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
