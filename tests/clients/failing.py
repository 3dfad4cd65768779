"""Exceptions of a client in each case in which a request fails, complete and streamed.

The models are those of the simulated servers in tests/e2e/test_client_errors.py.
"""

CASES = {
    "unauthorized": "works",
    "unknown": "no-such-model",
    "bad": "refuses",
    "limited": "limits",
    "failed": "fails",
    "closed": "closed",
}


def failures(send):
    """Return the failures of `send(model, stream, key)`, where the key may be None for the right one."""
    reported = {}
    for case, model in CASES.items():
        key = "sk_wrong" if case == "unauthorized" else None
        for stream in (False, True):
            reported[f"{case} streamed" if stream else case] = raised(lambda: send(model, stream, key))  # noqa: B023
    reported["broken streamed"] = raised(lambda: send("breaks", True, None))
    return reported


def raised(case):
    """Return the names of the exception's class and its bases, its status, and its text."""
    try:
        case()
    except Exception as error:  # noqa: BLE001  # which one is the question
        classes = [kind.__name__ for kind in type(error).__mro__]
        return {"classes": classes, "status": getattr(error, "status_code", None), "message": str(error)}
    return {"classes": [], "status": None, "message": ""}
