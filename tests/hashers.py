from django.contrib.auth.hashers import BCryptPasswordHasher


class QuickBcrypt(BCryptPasswordHasher):
    """bcrypt with the lowest cost, so that tests are fast."""

    rounds = 4

    def must_update(self, encoded: str) -> bool:
        return False
