"""The API's documentation as a page of its own: the OpenAPI schema, laid out on the server.

Swagger UI and Redoc write styles into the page, which our policy refuses; and nothing here needs a script to be read.
"""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, cast

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.template.loader import render_to_string
from django.urls import path
from django.utils.safestring import SafeString
from django.utils.translation import get_language, override
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.views import SpectacularAPIView
from rest_framework.request import Request

from routerdash.context import site

Schema = dict[str, Any]

MAX_DEPTH = 4  # of fields within fields: a schema may refer to itself
SAMPLES = {
    "uuid": "019ab2c4-77f1-7d3e-9d02-3f5c1a2b4c6d",
    "date-time": "2026-11-24T14:03:22.482Z",
    "date": "2026-11-24",
    "integer": 42,
    "number": 3.5,
    "boolean": True,
    "string": "…",
}
NAMED = {  # what a text of this name might be
    "name": "gpu-a100",
    "base_url": "http://10.0.4.21:8000",
    "model": "llama-3.3-70b",
    "q": "gpu",
}


@dataclass(frozen=True, slots=True)
class Field:
    """`name` is the whole way to it: `endpoints[].models[].id`."""

    name: str
    type: str
    required: bool
    nullable: bool
    text: str
    choices: tuple[str, ...]
    default: str


@dataclass(frozen=True, slots=True)
class Answer:
    code: str
    content_type: str
    fields: tuple[Field, ...]
    example: str


@dataclass(frozen=True, slots=True)
class Operation:
    anchor: str
    method: str
    path: str
    text: str
    login: bool  # a session alone will do
    public: bool
    parameters: tuple[Field, ...]
    body: tuple[Field, ...]
    answers: tuple[Answer, ...]
    query: str  # of the example, with what must be there
    body_example: str

    @property
    def short(self) -> str:
        """For a narrow list."""
        return re.sub(r"\{\w+\}", "{id}", self.path.removeprefix("/api"))

    def curl(self, base: str) -> str:
        """The call as a line for a shell."""
        url = shlex.quote(f"{base}{self.path}{self.query}")
        parts = ["curl", *(("-X", self.method) if self.method not in ("GET", "POST") else ()), url]
        if not self.public:
            parts += ["\\\n  -H", '"Authorization: Bearer $ROUTERDASH_API_KEY"']
        if self.body_example:
            parts += ["\\\n  --json", shlex.quote(self.body_example)]
        elif self.method == "POST":
            parts += ["-X", "POST"]
        return " ".join(parts)

    def mentions(self, words: list[str]) -> bool:
        """Is each of these words in its method, path, text or the name of a field?"""
        names = (field.name for field in (*self.parameters, *self.body))
        every = " ".join((self.method, self.path, self.text, *names)).casefold()
        return all(word in every for word in words)


@dataclass(frozen=True, slots=True)
class Room:
    name: str
    operations: tuple[Operation, ...]


class SchemaView(SpectacularAPIView):
    """The schema as a file: the same for everybody, and as long as the process lives, in each language and format."""

    def _get_schema_response(self, request: Request) -> HttpResponseBase:
        """`version` is ignored: there is one, and drf-spectacular would put it into a header as it is."""
        renderer: Any = request.accepted_renderer
        language = get_language()
        kept: Any = _written
        written: bytes = kept(type(renderer), language if language in dict(settings.LANGUAGES) else "en")
        media = request.accepted_media_type
        kind = f"{media}; charset={renderer.charset}" if renderer.charset else media
        name = cast("Any", super())._get_filename(request, None)
        return HttpResponse(written, kind, headers={"Content-Disposition": f'inline; filename="{name}"'})


@cache
def _written(renderer: Any, language: str) -> bytes:
    """Without the request: so nothing of who asks first can be in it."""
    with override(language):
        generator: Any = SchemaGenerator
        written = renderer().render(generator().get_schema(request=None, public=True), renderer.media_type, {})
    return written if isinstance(written, bytes) else bytes(written, "utf-8")


@cache
def rooms() -> tuple[Room, ...]:
    """Everything that the schema says, by tag. It is the same for everybody, and as long as the process lives."""
    with override("en"):  # as the API itself speaks
        generator: Any = SchemaGenerator
        schema: Schema = json.loads(json.dumps(generator().get_schema(request=None, public=True), default=str))
    found: dict[str, list[Operation]] = {}
    reader = _Reader(schema)
    for url, methods in schema["paths"].items():
        for method, said in methods.items():
            found.setdefault(said["tags"][0], []).append(reader.operation(method.upper(), url, said))
    return tuple(Room(name, tuple(operations)) for name, operations in sorted(found.items()))


class _Reader:
    def __init__(self, schema: Schema) -> None:
        self.parts: Schema = schema.get("components", {}).get("schemas", {})

    def operation(self, method: str, url: str, said: Schema) -> Operation:
        parameters = said.get("parameters", [])
        _type, asked = _content(said.get("requestBody", {}))
        needed = [it for it in parameters if it["in"] == "query" and it.get("required")]
        query = "&".join(f"{it['name']}={self.sample(it['schema'], name=it['name'])}" for it in needed)
        security: list[Schema] = said.get("security") or []
        return Operation(
            anchor=f"{method.lower()}-{url.strip('/').replace('/', '-').replace('{', '').replace('}', '')}",
            method=method,
            path=url,
            text=said.get("description", ""),
            login=bool(security) and all("session" in way for way in security),
            public=not security,
            parameters=tuple(self._parameter(it) for it in parameters),
            body=tuple(self.fields(asked)) if asked else (),
            answers=tuple(self._answer(code, answer) for code, answer in said["responses"].items()),
            query=f"?{query}" if query else "",
            body_example=_json(self.sample(asked, only_needed=True)) if asked else "",
        )

    def _parameter(self, it: Schema) -> Field:
        return self._field(it["name"], {**it["schema"], "description": it.get("description", "")}, it.get("required"))

    def _answer(self, code: str, answer: Schema) -> Answer:
        content_type, schema = _content(answer)
        if schema is None or "json" not in content_type or "ndjson" in content_type:
            return Answer(code, content_type, (), "")
        return Answer(code, content_type, tuple(self.fields(schema)), _json(self.sample(schema)))

    def fields(self, schema: Schema, way: str = "", depth: int = 0) -> Iterator[Field]:
        """Those of an object and of what is in it, each below its own."""
        schema = self._seen(schema)
        if schema.get("type") == "array":
            yield from self.fields(schema["items"], f"{way}[]", depth)
            return
        for name, inner in schema.get("properties", {}).items():
            whole = f"{way}.{name}" if way else name
            yield self._field(whole, inner, name in schema.get("required", ()))
            if depth < MAX_DEPTH:
                yield from self.fields(inner, whole, depth + 1)

    def _field(self, name: str, given: Schema, required: Any) -> Field:
        schema = self._seen(given)
        kind, nullable = _kind(schema)
        inner = self._seen(schema.get("items", {}))
        choices = schema.get("enum") or inner.get("enum") or ()
        return Field(
            name=name,
            type=f"{_kind(inner)[0] or 'object'}[]" if kind == "array" else schema.get("format") or kind or "any",
            required=bool(required),
            nullable=nullable,
            text=schema.get("description", "").partition("* `")[0].strip(),  # behind it, choices are listed once more
            choices=tuple(str(it) for it in choices if it is not None and it != ""),
            default=json.dumps(schema["default"]) if "default" in schema else "",
        )

    def _seen(self, schema: Schema) -> Schema:
        """What it stands for: a reference, or several parts that hold at once or of which one does."""
        if "$ref" in schema:
            return self._seen(self.parts[schema["$ref"].rpartition("/")[2]])
        for word in ("allOf", "oneOf", "anyOf"):
            if word in schema:
                parts = [self._seen(part) for part in schema[word]]
                outer = {name: value for name, value in schema.items() if name != word}
                return {**parts[0], **outer}
        return schema

    def sample(self, given: Schema, depth: int = 0, *, name: str = "", only_needed: bool = False) -> Any:
        schema = self._seen(given)
        kind, _nullable = _kind(schema)
        if "default" in schema:
            return schema["default"]
        if schema.get("enum"):
            return schema["enum"][0]
        if depth > MAX_DEPTH:
            return None
        if kind == "array":
            return [self.sample(schema["items"], depth + 1)]
        if "properties" in schema:
            needed = schema.get("required", ()) if only_needed else schema["properties"]
            return {
                inner_name: self.sample(inner, depth + 1, name=inner_name)
                for inner_name, inner in schema["properties"].items()
                if inner_name in needed
            }
        if isinstance(schema.get("additionalProperties"), dict):
            return {"…": self.sample(schema["additionalProperties"], depth + 1)}
        if kind == "string" and "format" not in schema and name in NAMED:
            return NAMED[name]
        return SAMPLES.get(schema.get("format", ""), SAMPLES.get(kind))


def _content(of: Schema) -> tuple[str, Schema | None]:
    """The first kind of content, and what is in it."""
    contents: Schema = of.get("content", {})
    name = next(iter(contents), "")
    return name, contents[name].get("schema") if name else None


def _kind(schema: Schema) -> tuple[str, bool]:
    """The type, and whether it may be null: OpenAPI 3.0 and 3.1 say that in different ways."""
    kind = schema.get("type", "object" if "properties" in schema else "")
    if isinstance(kind, list):
        return next((it for it in kind if it != "null"), ""), "null" in kind
    return kind, bool(schema.get("nullable"))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


@lru_cache(maxsize=1024)
def _laid_out(operation: Operation, base: str, language: str) -> SafeString:
    """Kept: all of them together take longer than a page should, and change with the release alone."""
    return render_to_string("inc/api_operation.html", {"it": operation, "curl": operation.curl(base)})


@login_required
def page(request: HttpRequest) -> HttpResponse:
    asked = request.GET.get("q", "").strip()[:100]
    words = asked.casefold().split()
    found = [Room(room.name, tuple(it for it in room.operations if it.mentions(words))) for room in rooms()]
    base = site(request)["public_url"]
    language = get_language() or ""
    shown = [
        (room.name, [(it, _laid_out(it, base, language)) for it in room.operations])
        for room in found
        if room.operations
    ]
    return render(request, "api_docs.html", {"rooms": shown, "asked": asked})


URLS = [path("api/docs/", page, name="api-docs")]
