"""The changes that a model name makes to the body of a request."""

import msgspec

from gateway.base.types import Body
from gateway.dialects.body_edits import edit, edit_large
from gateway.dialects.json_text import encode
from gateway.dialects.openai_requests import Request
from gateway.model_names.chains import Chain
from gateway.routing.routes import Route


def adapted(chain: Chain, route: Route, body: Body) -> tuple[Body, Request]:
    """Return the body for an attempt, with the parameters of the model name, and its parsed fields.

    If the client receives the name of the model that served it, that is the requested model from here on.
    Raises Refusal (400).
    """
    leaf, parsed = chain.leaf, chain.parsed
    assert leaf is not None
    if not (leaf.parameters or chain.plan.changes_all):  # the usual case
        return body, parsed
    name = chain.plan.name
    echo = route.model.id if name is not None and name.echo_served else None
    if chain.kind.multipart:
        return body, parsed if echo is None else msgspec.structs.replace(parsed, model=echo)
    model = echo or parsed.model

    def change(fields: dict[str, msgspec.Raw]) -> None:
        fields.pop("models", None)
        fields["model"] = msgspec.Raw(encode(model))
        for parameters in leaf.parameters:
            parameters.apply(fields)

    large = None if chain.places is None else edit_large(body, chain.places, change)
    if large is None:
        return edit(body, change), msgspec.structs.replace(parsed, model=model, model_at=None, options_at=None)
    edited, places = large
    return edited, msgspec.structs.replace(
        parsed, model=model, model_at=places.get(b"model"), options_at=places.get(b"stream_options")
    )
