"""What the background process does by the clock. Declared here, brought into django-q2's table when it starts."""

from django_q.models import Schedule

SCHEDULES = {
    "prune history": ("metrics.tasks.prune_history", 60),
    "prune health checks": ("endpoints.tasks.prune_health_checks", 24 * 60),
}


def ensure() -> None:
    """Idempotent: a schedule that is there keeps its next run."""
    for name, (function, minutes) in SCHEDULES.items():
        Schedule.objects.update_or_create(
            name=name, defaults={"func": function, "schedule_type": Schedule.MINUTES, "minutes": minutes}
        )
    Schedule.objects.exclude(name__in=SCHEDULES).delete()
