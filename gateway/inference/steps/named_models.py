"""What a model name changes in a request: its way, which begins here, and its body."""

import msgspec

from gateway.base.types import Body
from gateway.dialects.body_edits import Places, edit, edit_large
from gateway.dialects.json_text import encode
from gateway.dialects.openai_requests import Request
from gateway.inference.request import InferenceRequest
from gateway.inference.steps.chains import Chain
from gateway.routing.model_names import plan_of_list
from gateway.routing.routes import Route


def begin_chain(request: InferenceRequest, parsed: Request, places: Places | None = None) -> None:
    """Find the steps of the requested model name, or of several models, if the request has one or the other.

    `places`: of the top-level values in a large body.
    """
    services = request.services
    names = services.roster.names
    if parsed.models is not None:
        models = dict.fromkeys((parsed.model, *parsed.models))
        plan = plan_of_list(list(models), names)
    elif names is None or (found := names.plan(parsed.model)) is None:
        return
    else:
        plan = found
    request.chain = Chain(services, request.exchange, request.api.kind, parsed, plan, places)


def adapt(request: InferenceRequest, chain: Chain, route: Route, body: Body) -> Body:
    """Return the body for an attempt, with the parameters of the model name. Raises Refusal (400).

    `request.parsed` becomes what it is of this body. If the client receives the name of the model that served it, that
    is the requested model from here on.
    """
    leaf, parsed = chain.leaf, chain.parsed
    assert leaf is not None
    if not (leaf.parameters or chain.plan.changes_all):  # the usual case
        request.parsed = parsed
        return body
    name = chain.plan.name
    echo = route.model.id if name is not None and name.echo_served else None
    if request.api.kind.multipart:
        request.parsed = parsed if echo is None else msgspec.structs.replace(parsed, model=echo)
        return body
    model = echo or parsed.model

    def change(fields: dict[str, msgspec.Raw]) -> None:
        fields.pop("models", None)
        fields["model"] = msgspec.Raw(encode(model))
        for parameters in leaf.parameters:
            parameters.apply(fields)

    large = None if chain.places is None else edit_large(body, chain.places, change)
    if large is None:
        request.parsed = msgspec.structs.replace(parsed, model=model, model_at=None, options_at=None)
        return edit(body, change)
    edited, places = large
    request.parsed = msgspec.structs.replace(
        parsed, model=model, model_at=places.get(b"model"), options_at=places.get(b"stream_options")
    )
    return edited
