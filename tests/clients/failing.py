"""What a client raises: each case in which a request fails, whole and streamed, by the class of its exception.

The models are those that tests/e2e/test_client_errors.py has its simulated servers serve.
"""

CASES = {
    "unauthorized": "works",
    "unknown": "no-such-model",
    "bad": "refuses",
    "limited": "limits",
    "failed": "fails",
    "closed": "closed",
}


def failures(ask):
    """`ask(model, stream, key)`, where the key may be None for the right one."""
    told = {}
    for case, model in CASES.items():
        key = "sk_wrong" if case == "unauthorized" else None
        for stream in (False, True):
            told[f"{case} streamed" if stream else case] = raised(lambda: ask(model, stream, key))  # noqa: B023
    told["broken streamed"] = raised(lambda: ask("breaks", True, None))
    return told


def raised(case):
    """The names of the exception's class and of those it is made of, the status it bears, and its sentence."""
    try:
        case()
    except Exception as error:  # noqa: BLE001  # which one is the question
        classes = [kind.__name__ for kind in type(error).__mro__]
        return {"classes": classes, "status": getattr(error, "status_code", None), "message": str(error)}
    return {"classes": [], "status": None, "message": ""}
