"""Paths of llmlb that lead to others."""

from django.test import Client


def test_metrics_of_clouds_are_among_the_others() -> None:
    response = Client().get("/api/metrics/cloud")
    assert (response.status_code, response.headers["Location"]) == (301, "/metrics")
