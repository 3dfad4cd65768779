from django.contrib.auth.hashers import BCryptPasswordHasher


class QuickBcrypt(BCryptPasswordHasher):
    """bcrypt at its least cost, so that tests do not spend their time on it."""

    rounds = 4

    def must_update(self, encoded: str) -> bool:
        return False
