"""The types of anthropic-python check requests of Messages: a JSON list on standard input. Prints the faults.

A request must be equal after it was read with these types, so that no field has a wrong name.
"""

import json
import sys
from collections.abc import Iterable, Mapping

import pydantic
from anthropic.types import MessageCreateParams


def whole(value: object) -> object:
    """Read lazily checked iterables to their end. Raises pydantic.ValidationError."""
    if isinstance(value, Mapping):
        return {name: whole(item) for name, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [whole(item) for item in value]
    return value


# Sampling parameters are none of the newest version of the API, which these types describe.
OLDER = ("temperature", "top_p", "top_k")


def fault(check: pydantic.TypeAdapter, request: dict) -> str:
    sent = {name: value for name, value in request.items() if name not in OLDER}
    try:
        read = whole(check.validate_python(sent))
    except pydantic.ValidationError as error:
        return str(error)
    return "" if read == sent else f"{sent} was read as {read}"


def main() -> None:
    check = pydantic.TypeAdapter(MessageCreateParams)
    print(json.dumps([problem for request in json.load(sys.stdin) if (problem := fault(check, request))]))


if __name__ == "__main__":
    main()
