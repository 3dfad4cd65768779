"""Page of the API documentation: the OpenAPI schema, rendered on the server.

Swagger UI and Redoc write inline styles into the page, which the Content-Security-Policy forbids. This page is readable
without scripts.
"""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.template.loader import render_to_string
from django.urls import path
from django.utils.safestring import SafeString
from django.utils.translation import get_language, override
from django.views.decorators.csrf import csrf_exempt

from routerdash.web.context import site

Schema = Mapping[str, Any]

MAX_DEPTH = 4  # of nested fields: a schema may refer to itself
SAMPLES = {
    "uuid": "019ab2c4-77f1-7d3e-9d02-3f5c1a2b4c6d",
    "date-time": "2026-11-24T14:03:22.482Z",
    "date": "2026-11-24",
    "integer": 42,
    "number": 3.5,
    "boolean": True,
    "string": "…",
}
SAMPLES_BY_NAME = {  # sample values of text fields by name
    "name": "gpu-a100",
    "base_url": "http://10.0.4.21:8000",
    "model": "llama-3.3-70b",
    "q": "gpu",
}


@dataclass(frozen=True, slots=True)
class Field:
    """Parameter or field of JSON. `name` is the whole path: `endpoints[].models[].id`."""

    name: str
    type: str
    required: bool
    nullable: bool
    text: str
    choices: tuple[str, ...]
    default: str


@dataclass(frozen=True, slots=True)
class ResponseDoc:
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
    login: bool  # accepts sessions only
    public: bool
    parameters: tuple[Field, ...]
    body: tuple[Field, ...]
    responses: tuple[ResponseDoc, ...]
    query: str  # of the example, with the required parameters
    body_example: str

    @property
    def short(self) -> str:
        """Return the path without /api, with short placeholders, for a narrow list."""
        return re.sub(r"\{\w+\}", "{id}", self.path.removeprefix("/api"))

    def curl(self, base: str) -> str:
        """Return the request as a shell command with curl."""
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
        """Return True if each of these words is in the method, path, text or the name of a field."""
        names = (field.name for field in (*self.parameters, *self.body))
        every = " ".join((self.method, self.path, self.text, *names)).casefold()
        return all(word in every for word in words)


@dataclass(frozen=True, slots=True)
class Section:
    name: str
    operations: tuple[Operation, ...]


@cache
def sections() -> tuple[Section, ...]:
    """Return all operations of the schema by tag. They are the same for all users until the process ends."""
    from drf_spectacular.generators import SchemaGenerator  # it loads 5 MiB that few installations need

    with override("en"):  # the language of the API
        generator: Any = SchemaGenerator
        schema: Schema = json.loads(json.dumps(generator().get_schema(request=None, public=True), default=str))
    by_tag: dict[str, list[Operation]] = {}
    reader = _Reader(schema)
    for url, methods in schema["paths"].items():
        for method, operation in methods.items():
            by_tag.setdefault(operation["tags"][0], []).append(reader.operation(method.upper(), url, operation))
    return tuple(Section(name, tuple(operations)) for name, operations in sorted(by_tag.items()))


class _Reader:
    def __init__(self, schema: Schema) -> None:
        self.parts: Schema = schema.get("components", {}).get("schemas", {})

    def operation(self, method: str, url: str, operation: Schema) -> Operation:
        parameters = operation.get("parameters", [])
        _type, body_schema = _content(operation.get("requestBody", {}))
        needed = [one for one in parameters if one["in"] == "query" and one.get("required")]
        query = "&".join(f"{one['name']}={self.sample(one['schema'], name=one['name'])}" for one in needed)
        security: list[Schema] = operation.get("security") or []
        return Operation(
            anchor=f"{method.lower()}-{url.strip('/').replace('/', '-').replace('{', '').replace('}', '')}",
            method=method,
            path=url,
            text=operation.get("description", ""),
            login=bool(security) and all("session" in scheme for scheme in security),
            public=not security,
            parameters=tuple(self._parameter(parameter) for parameter in parameters),
            body=tuple(self.fields(body_schema, sent=True)) if body_schema else (),
            responses=tuple(self._response(code, response) for code, response in operation["responses"].items()),
            query=f"?{query}" if query else "",
            body_example=_json(self.sample(body_schema, only_needed=True)) if body_schema else "",
        )

    def _parameter(self, parameter: Schema) -> Field:
        schema = {**parameter["schema"], "description": parameter.get("description", "")}
        return self._field(parameter["name"], schema, parameter.get("required"))

    def _response(self, code: str, response: Schema) -> ResponseDoc:
        content_type, schema = _content(response)
        if schema is None or "json" not in content_type or "ndjson" in content_type:
            return ResponseDoc(code, content_type, (), "")
        return ResponseDoc(code, content_type, tuple(self.fields(schema)), _json(self.sample(schema)))

    def fields(self, schema: Schema, prefix: str = "", depth: int = 0, *, sent: bool = False) -> Iterator[Field]:
        """Yield the fields of an object; each is followed by the fields nested in it.

        `sent`: without those that only responses have.
        """
        schema = self._resolved(schema)
        if schema.get("type") == "array":
            yield from self.fields(schema["items"], f"{prefix}[]", depth, sent=sent)
            return
        for name, inner in schema.get("properties", {}).items():
            if sent and self._resolved(inner).get("readOnly"):
                continue
            whole = f"{prefix}.{name}" if prefix else name
            yield self._field(whole, inner, name in schema.get("required", ()))
            if depth < MAX_DEPTH:
                yield from self.fields(inner, whole, depth + 1, sent=sent)

    def _field(self, name: str, reference: Schema, required: Any) -> Field:
        schema = self._resolved(reference)
        kind, nullable = _kind(schema)
        inner = self._resolved(schema.get("items", {}))
        choices = schema.get("enum") or inner.get("enum") or ()
        return Field(
            name=name,
            type=f"{_kind(inner)[0] or 'object'}[]" if kind == "array" else schema.get("format") or kind or "any",
            required=bool(required),
            nullable=nullable,
            text=schema.get("description", "").partition("* `")[0].strip(),  # choices are repeated after it
            choices=tuple(str(choice) for choice in choices if choice is not None and choice != ""),
            default=json.dumps(schema["default"]) if "default" in schema else "",
        )

    def _resolved(self, schema: Schema) -> Schema:
        """Return the schema with references resolved, and `allOf`, `oneOf` and `anyOf` replaced by their first part."""
        if "$ref" in schema:
            return self._resolved(self.parts[schema["$ref"].rpartition("/")[2]])
        for word in ("allOf", "oneOf", "anyOf"):
            if word in schema:
                parts = [self._resolved(part) for part in schema[word]]
                outer = {name: value for name, value in schema.items() if name != word}
                return {**parts[0], **outer}
        return schema

    def sample(self, reference: Schema, depth: int = 0, *, name: str = "", only_needed: bool = False) -> Any:
        schema = self._resolved(reference)
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
        if kind == "string" and "format" not in schema and name in SAMPLES_BY_NAME:
            return SAMPLES_BY_NAME[name]
        return SAMPLES.get(schema.get("format", ""), SAMPLES.get(kind))


def _content(part: Schema) -> tuple[str, Schema | None]:
    """Return the first content type and its schema; ("", None) if there is no content."""
    contents: Schema = part.get("content", {})
    name = next(iter(contents), "")
    return name, contents[name].get("schema") if name else None


def _kind(schema: Schema) -> tuple[str, bool]:
    """Return the type, and True if it may be null, which OpenAPI 3.0 and 3.1 express differently."""
    kind = schema.get("type", "object" if "properties" in schema else "")
    if isinstance(kind, list):
        return next((one for one in kind if one != "null"), ""), "null" in kind
    return kind, bool(schema.get("nullable"))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


@lru_cache(maxsize=1024)
def _laid_out(operation: Operation, base: str, language: str) -> SafeString:
    """Render an operation. The result is cached: all operations together take too long for one page, and they change
    only with a release.
    """
    return render_to_string("api_docs/operation.html", {"operation": operation, "curl": operation.curl(base)})


@login_required
def page(request: HttpRequest) -> HttpResponse:
    query = request.GET.get("q", "").strip()[:100]
    words = query.casefold().split()
    base = site(request)["public_url"]
    language = get_language() or ""
    shown = []
    for section in sections():
        matches = [operation for operation in section.operations if operation.mentions(words)]
        if matches:
            shown.append((section.name, [(one, _laid_out(one, base, language)) for one in matches]))
    return render(request, "api_docs/page.html", {"sections": shown, "query": query})


@csrf_exempt  # as every view of the API, which checks this itself
def schema(request: HttpRequest) -> HttpResponseBase:
    """The schema as a file."""
    from routerdash.web.schema_file import SchemaFile  # it loads drf-spectacular, as above

    return SchemaFile.as_view()(request)


URLS = [path("api/docs/", page, name="api-docs"), path("api/schema/", schema, name="api-schema")]
