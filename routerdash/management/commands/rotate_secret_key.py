from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from routerdash import secret_key


class Command(BaseCommand):
    help = (
        "Replace the secret key that signs cookies: all sessions end. RouterDash may be running; it uses the new key "
        "within a second."
    )
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        path = settings.ROUTERDASH.data_dir / "secret-key"
        if not path.exists():
            raise CommandError(f"there is no {path}: the first `serve` creates it")
        try:
            secret_key.rotate(path)
        except OSError as error:
            raise CommandError(f"{path} cannot be replaced: {error.strerror or error}") from None
        self.stdout.write("The secret key was replaced. All sessions have ended; all users must log in again.")
