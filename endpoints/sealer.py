"""Sealer of upstream secrets, created once in each process."""

from functools import lru_cache

from django.conf import settings

from gateway.base import sealing
from gateway.base.sealing import Sealer


@lru_cache(maxsize=1)
def sealer() -> Sealer:
    return sealing.load(settings.ROUTERDASH.encryption_keys, settings.ROUTERDASH.key_file)
