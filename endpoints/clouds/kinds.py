"""Types of endpoints: servers of one's own, which are detected, and clouds, which are not."""

from collections.abc import Mapping
from typing import Any

from django.db import models
from django.utils.translation import gettext_lazy as _

from gateway.providers.table import PROVIDERS


class Kind(models.TextChoices):
    """Types of servers of one's own.

    llmlb knows only these. So the type of a cloud is an option of its endpoint, whose own row says `openai_compatible`.
    """

    XLLM = "xllm", "xLLM"
    OLLAMA = "ollama", "Ollama"
    VLLM = "vllm", "vLLM"
    LM_STUDIO = "lm_studio", "LM Studio"
    LLAMACPP = "llamacpp", "llama.cpp"
    OPENAI_COMPATIBLE = "openai_compatible", _("OpenAI-compatible")


# Chosen by administrators, or recognised by their address (endpoints.clouds)
CLOUDS = tuple(PROVIDERS)
CLOUD_CHOICES = [(cloud.kind, cloud.label) for cloud in PROVIDERS.values()]
KIND_CHOICES: list[tuple[str, Any]] = [*Kind.choices, *CLOUD_CHOICES]
KIND_LABELS: Mapping[str, Any] = dict(KIND_CHOICES)
EXTERNAL_CHOICES = [("", _("Clouds are, others are not")), ("true", _("Yes")), ("false", _("No"))]
