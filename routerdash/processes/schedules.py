"""Periodic jobs, which django-q2 reads from its table. Importing this module does not import Django."""

CLUSTER = "routerdash"  # django-q2's name of the queue
SCHEDULES = {
    "prune history": ("metrics.tasks.prune_history", 60),
    "prune health checks": ("endpoints.tasks.prune_health_checks", 24 * 60),
}


def ensure() -> None:
    """Write the schedules and delete all others. Existing schedules keep their next run."""
    from django_q.models import Schedule

    for name, (function, minutes) in SCHEDULES.items():
        Schedule.objects.update_or_create(
            name=name, defaults={"func": function, "schedule_type": Schedule.MINUTES, "minutes": minutes}
        )
    Schedule.objects.exclude(name__in=SCHEDULES).delete()
