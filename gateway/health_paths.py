"""Paths of health checks, under each name that monitors and Kubernetes ask for. They need no key and no login."""

from typing import Final

LIVENESS: Final = ("/health", "/healthz", "/livez")  # 200 while RouterDash runs, with the reasons of `degraded`
READINESS: Final = ("/ready", "/readyz")  # 200 while requests to /v1 are served, else 503
