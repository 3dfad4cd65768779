"""Refusals as clients receive them, and their records."""


def refused(response):
    """Return status and code of a refusal in OpenAI's dialect."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert response.headers["content-type"] == "application/json"
    return response.status, error["code"]


def counted(gateway):
    """Return status and reason of the records of rejected requests."""
    records = gateway.records()
    assert all((record.outcome, record.attempts, record.model) == ("rejected", (), "") for record in records)
    return [(record.status, record.error) for record in records]
