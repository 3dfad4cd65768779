"""What drf-spectacular cannot find out by itself."""

from typing import Any

ERROR = {
    "type": "object",
    "description": "What went wrong, in a sentence; for wrong input also the sentences of each field.",
    "properties": {
        "error": {"type": "string"},
        "fields": {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}},
    },
    "required": ["error"],
}


def add_tags(result: dict[str, Any], **kwargs: object) -> dict[str, Any]:
    """Operations go together by the first part of their path below /api."""
    for path, operations in result["paths"].items():
        tag = path.removeprefix("/api").strip("/").partition("/")[0]
        for operation in operations.values():
            operation["tags"] = [tag]
    return result


def add_errors(result: dict[str, Any], **kwargs: object) -> dict[str, Any]:
    """Each operation may answer with an error, in the one shape that routerdash.errors gives them."""
    result["components"]["schemas"]["Error"] = ERROR
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    for operations in result["paths"].values():
        for operation in operations.values():
            operation["responses"]["default"] = {"description": "An error", "content": content}
    return result
