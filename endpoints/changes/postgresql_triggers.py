"""Triggers of the change log on PostgreSQL, which also notify processes that listen.

Inserts and deletes are logged by statement, because a model sync writes thousands of rows of one endpoint. An update is
logged by row, because its condition then costs nothing where only health or counters change.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from string import Template

from django.db import connection

from endpoints.changes.watched import LIMIT_TABLES, WATCHED

CHANNEL = "routerdash_registry"

# The functions run with the rights of their owner: other programs may lack those for the log. Equal notifications of
# one transaction arrive as one.
_BODY = Template("""
BEGIN
 IF TG_OP = 'UPDATE' THEN
  INSERT INTO $schema.registry_changes (kind, object_id) VALUES ('$kind', ($new_id)::text);
  IF $new_id IS DISTINCT FROM $old_id THEN
   INSERT INTO $schema.registry_changes (kind, object_id) VALUES ('$kind', ($old_id)::text);
  END IF;
 ELSIF TG_OP = 'TRUNCATE' THEN
  INSERT INTO $schema.registry_changes (kind, object_id) SELECT DISTINCT '$kind', ($id)::text FROM $schema.$table;
 ELSE
  INSERT INTO $schema.registry_changes (kind, object_id) SELECT DISTINCT '$kind', ($id)::text FROM changed_rows;
 END IF;
 IF FOUND THEN
  PERFORM pg_notify('$channel', '');
 END IF;
$limits$keys RETURN NULL;
END
""")
_LIMITS = Template(""" IF TG_OP = 'DELETE' THEN
  DELETE FROM $schema.$table WHERE level = '$level' AND subject_id IN (SELECT id::text FROM changed_rows);
 ELSIF TG_OP = 'TRUNCATE' THEN
  DELETE FROM $schema.$table WHERE level = '$level';
 END IF;
""")
_KEYS = {  # by table: what becomes of the deleted API keys of users
    "api_keys": Template(""" IF TG_OP = 'DELETE' THEN
  INSERT INTO $schema.deleted_keys (id, user_id) SELECT id, created_by FROM changed_rows
  WHERE created_by IN (SELECT id FROM $schema.users) ON CONFLICT (id) DO UPDATE SET user_id = EXCLUDED.user_id;
 ELSIF TG_OP = 'TRUNCATE' THEN
  INSERT INTO $schema.deleted_keys (id, user_id) SELECT id, created_by FROM $schema.api_keys
  ON CONFLICT (id) DO UPDATE SET user_id = EXCLUDED.user_id;
 END IF;
"""),
    "users": Template(""" IF TG_OP = 'DELETE' THEN
  DELETE FROM $schema.deleted_keys WHERE user_id IN (SELECT id FROM changed_rows);
 ELSIF TG_OP = 'TRUNCATE' THEN
  DELETE FROM $schema.deleted_keys;
 END IF;
"""),
}
_CREATE_FUNCTION = Template(
    "CREATE OR REPLACE FUNCTION $schema.routerdash_$table() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER "
    "SET search_path = pg_catalog, pg_temp AS $$$$$body$$$$"
)
_TRIGGERS = {
    "insert": Template(
        "CREATE TRIGGER routerdash_${table}_insert AFTER INSERT ON $schema.$table "
        "REFERENCING NEW TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION $schema.routerdash_$table()"
    ),
    "delete": Template(
        "CREATE TRIGGER routerdash_${table}_delete AFTER DELETE ON $schema.$table "
        "REFERENCING OLD TABLE AS changed_rows FOR EACH STATEMENT EXECUTE FUNCTION $schema.routerdash_$table()"
    ),
    "update": Template(
        "CREATE TRIGGER routerdash_${table}_update AFTER UPDATE OF $columns ON $schema.$table "
        "FOR EACH ROW WHEN ($differs) EXECUTE FUNCTION $schema.routerdash_$table()"
    ),
    "truncate": Template(
        "CREATE TRIGGER routerdash_${table}_truncate BEFORE TRUNCATE ON $schema.$table FOR EACH STATEMENT "
        "EXECUTE FUNCTION $schema.routerdash_$table()"
    ),
}
# PostgreSQL stores a trigger in a form of its own. The comment of a trigger has the hashes of our definition and of
# that form, so that a change of either is noticed.
_STORED = """
SELECT "trigger".tgname, relation.relname, obj_description("trigger".oid, 'pg_trigger'),
  md5(pg_get_triggerdef("trigger".oid)), "function".prosrc,
  "trigger".tgenabled IN ('O', 'A') AND "function".prosecdef
    AND "function".proconfig = ARRAY['search_path=pg_catalog, pg_temp']
FROM pg_trigger "trigger" JOIN pg_class relation ON relation.oid = "trigger".tgrelid
JOIN pg_proc "function" ON "function".oid = "trigger".tgfoid
WHERE relation.relnamespace = to_regnamespace(%s) AND NOT "trigger".tgisinternal
  AND starts_with("trigger".tgname, 'routerdash_')
"""
_SCHEMA = """
SELECT quote_ident(nspname) FROM pg_namespace namespace JOIN pg_class relation ON relation.relnamespace = namespace.oid
WHERE relation.oid = 'registry_changes'::regclass
"""
_LOCK = 0x726F757465726461  # any number that nothing else in the database uses


@dataclass(frozen=True, slots=True)
class _Definition:
    table: str
    body: str  # of the function
    create_function: str
    create_trigger: str

    @property
    def version(self) -> str:
        return sha256(f"{self.create_function} {self.create_trigger}".encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class _Stored:
    table: str
    comment: str | None
    form: str  # MD5 of the form in which PostgreSQL stores the trigger
    body: str
    is_active: bool

    def is_as(self, definition: _Definition) -> bool:
        comment = f"{definition.version} {self.form}"
        return self.is_active and (self.table, self.body, self.comment) == (definition.table, definition.body, comment)


def find_outdated() -> list[str]:
    """Return the names of triggers that are missing, different or unknown; none if all are as they should be."""
    schema = _schema()
    expected, stored = dict(_definitions(schema)), _stored(schema)
    return [
        name
        for name in {**expected, **stored}
        if name not in expected or name not in stored or not stored[name].is_as(expected[name])
    ]


def create(names: list[str]) -> None:
    """Create these triggers again. One that is unknown is only dropped."""
    schema = _schema()
    expected, stored = dict(_definitions(schema)), _stored(schema)
    with connection.cursor() as cursor:
        for name in names:
            if name in stored:
                cursor.execute(_drop(name, schema, stored[name].table))
            if name in expected:
                cursor.execute(expected[name].create_function)
                cursor.execute(expected[name].create_trigger)
        for name, trigger in _stored(schema).items():
            if name in names:
                comment = f"{expected[name].version} {trigger.form}"
                cursor.execute(f"COMMENT ON TRIGGER {name} ON {schema}.{trigger.table} IS '{comment}'")


def remove() -> None:
    """Drop all triggers of ours."""
    schema = _schema()
    with connection.cursor() as cursor:
        for name, trigger in _stored(schema).items():
            cursor.execute(_drop(name, schema, trigger.table))


def wait_for_others() -> None:
    """Let no other process create triggers until the end of the transaction."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])


def _drop(name: str, schema: str, table: str) -> str:
    return f'DROP TRIGGER "{name}" ON {schema}."{table}"'


def _schema() -> str:
    """Return the quoted name of the schema that has the change log. Raises ProgrammingError if there is none."""
    with connection.cursor() as cursor:
        cursor.execute(_SCHEMA)
        (name,) = cursor.fetchone()
        return str(name)


def _stored(schema: str) -> dict[str, _Stored]:
    with connection.cursor() as cursor:
        cursor.execute(_STORED, [schema])
        return {name: _Stored(*values) for name, *values in cursor.fetchall()}


def _definitions(schema: str) -> Iterator[tuple[str, _Definition]]:
    for table in WATCHED:
        values = {
            "schema": schema,
            "table": table.name,
            "kind": table.kind,
            "id": table.identity(),
            "new_id": table.identity("NEW"),
            "old_id": table.identity("OLD"),
            "limits": "".join(
                _LIMITS.substitute(schema=schema, table=name, level=table.limited_level)
                for name in LIMIT_TABLES
                if table.limited_level
            ),
            "keys": _KEYS[table.name].substitute(schema=schema) if table.name in _KEYS else "",
            "channel": CHANNEL,
            "columns": ", ".join(table.columns),
            "differs": " OR ".join(f"OLD.{column} IS DISTINCT FROM NEW.{column}" for column in table.columns),
        }
        body = _BODY.substitute(values)
        create_function = _CREATE_FUNCTION.substitute(values, body=body)
        for operation, template in _TRIGGERS.items():
            create_trigger = template.substitute(values)
            yield f"routerdash_{table.name}_{operation}", _Definition(table.name, body, create_function, create_trigger)
