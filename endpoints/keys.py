"""The sealer of upstream secrets, once for each process."""

from functools import lru_cache

from django.conf import settings

from gateway import sealing
from gateway.sealing import Sealer


@lru_cache(maxsize=1)
def sealer() -> Sealer:
    return sealing.load(settings.ROUTERDASH.encryption_keys, settings.ROUTERDASH.key_file)
