"""Additions to the OpenAPI schema of drf-spectacular: tags, the error response, and changes that are pending."""

from typing import Any

from django.conf import settings

from endpoints.openapi.descriptions import apply_descriptions
from endpoints.slices import slices

ERROR = {
    "type": "object",
    "description": "What went wrong, in a sentence; for wrong input also the sentences of each field.",
    "properties": {
        "error": {"type": "string"},
        "fields": {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}},
    },
    "required": ["error"],
}


PENDING = {
    "type": "object",
    "description": "The change is stored, but a gateway does not act by it yet. Other fields are those of the success.",
    "properties": {"pending": {"type": "string", "description": "Why, in words."}},
    "required": ["pending"],
}


def describe(endpoints: list[Any]) -> list[Any]:
    """Complete the descriptions of all operations before drf-spectacular reads them. Return the operations as given."""
    from routerdash.web import schema_authentication  # noqa: F401  # not at the start: it loads drf-spectacular

    apply_descriptions()
    names: Any = settings.SPECTACULAR_SETTINGS["ENUM_NAME_OVERRIDES"]
    for one in slices():
        names.update(one.enums)
    return endpoints


def add_tags(result: dict[str, Any], **kwargs: object) -> dict[str, Any]:
    """Tag each operation with the first part of its path below /api."""
    for path, operations in result["paths"].items():
        tag = path.removeprefix("/api").strip("/").partition("/")[0]
        for operation in operations.values():
            operation["tags"] = [tag]
    return result


def add_responses(result: dict[str, Any], **kwargs: object) -> dict[str, Any]:
    """Add the error response of routerdash.web.errors to each operation.

    Operations that may change anything also get the response 202 of routerdash.web.acknowledgement.
    """
    result["components"]["schemas"] |= {"Error": ERROR, "Pending": PENDING}
    pending = {"description": "Not in effect in every gateway yet", "content": _json("Pending")}
    for operations in result["paths"].values():
        for method, operation in operations.items():
            operation["responses"]["default"] = {"description": "An error", "content": _json("Error")}
            if method != "get":
                operation["responses"].setdefault("202", pending)
    return result


def _json(schema: str) -> dict[str, dict[str, dict[str, str]]]:
    """Return the content of a JSON response."""
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
