from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from routerdash import secret_key


class Command(BaseCommand):
    help = (
        "Replace the secret key, with which cookies are signed: all sessions end. RouterDash may run meanwhile; it "
        "takes the new key over within a second."
    )
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        path = settings.ROUTERDASH.data_dir / "secret-key"
        if not path.exists():
            raise CommandError(f"there is no {path}: the first `serve` makes it")
        try:
            secret_key.rotate(path)
        except OSError as error:
            raise CommandError(f"{path} cannot be replaced: {error.strerror or error}") from None
        self.stdout.write("The secret key is a new one. All sessions have ended; everybody logs in again.")
