"""The requests that are here now. Rendered from what workers have told by now; a script asks again every second."""

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.views.decorators.cache import never_cache

from gateway.present import MOST
from metrics import live


@never_cache
@login_required
def live_requests(request: HttpRequest) -> HttpResponse:
    return render(request, "live.html", {"live": live.look(patient=False), "most": MOST, "phases": live.PHASES})


URLS = [path("live", live_requests, name="live")]
