"""The page of running requests, rendered from the last reports of workers; a script polls every second."""

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.views.decorators.cache import never_cache

from gateway.ipc.running_requests import MAX_LISTED
from metrics import labels
from metrics.queries import running_requests


@never_cache
@login_required
def live_requests(request: HttpRequest) -> HttpResponse:
    return render(
        request,
        "live/page.html",
        {
            "live": running_requests.read_running(wait=False),
            "most": MAX_LISTED,
            "phases": running_requests.PHASES,
            "kinds": labels.APIS,
        },
    )


URLS = [path("live", live_requests, name="live")]
