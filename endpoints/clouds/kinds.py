"""Types of endpoints: engines, which are detected, and clouds."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class Kind(models.TextChoices):
    XLLM = "xllm", "xLLM"
    OLLAMA = "ollama", "Ollama"
    VLLM = "vllm", "vLLM"
    LM_STUDIO = "lm_studio", "LM Studio"
    LLAMACPP = "llamacpp", "llama.cpp"
    OPENAI_COMPATIBLE = "openai_compatible", _("OpenAI-compatible")
    # Clouds: never detected, but chosen by staff or recognised by their address (endpoints.clouds).
    OPENAI = "openai", "OpenAI"
    ANTHROPIC = "anthropic", "Anthropic"
    GEMINI = "gemini", "Google Gemini"
    AZURE = "azure", "Azure OpenAI"
    OPENROUTER = "openrouter", "OpenRouter"
    GROQ = "groq", "Groq"
    MISTRAL = "mistral", "Mistral"
    DEEPSEEK = "deepseek", "DeepSeek"
    XAI = "xai", "xAI"
    TOGETHER = "together", "Together AI"


CLOUDS = (
    Kind.OPENAI,
    Kind.ANTHROPIC,
    Kind.GEMINI,
    Kind.AZURE,
    Kind.OPENROUTER,
    Kind.GROQ,
    Kind.MISTRAL,
    Kind.DEEPSEEK,
    Kind.XAI,
    Kind.TOGETHER,
)
CLOUD_CHOICES = [(kind.value, kind.label) for kind in CLOUDS]
EXTERNAL_CHOICES = [("", _("Clouds are, others are not")), ("true", _("Yes")), ("false", _("No"))]
# llmlb knows the types of engines only, so that a cloud's type is an option, and its row has this one.
ENGINE_CHOICES = [(kind.value, kind.label) for kind in Kind if kind not in CLOUDS]
