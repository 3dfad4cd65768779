"""Tables of model names. Facts for gateways are made from them by endpoints.model_names.name_cache.

A step is identified by its number within the name, so that one form can contain new steps and their targets.
"""

import uuid
from typing import ClassVar

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from endpoints.fields import IsoDateTimeField, LineField, TextUUIDField
from endpoints.text import validate_text

MAX_LENGTH = 256  # characters of a name
MAX_STEPS, MAX_TARGETS = 8, 16  # of a name
MAX_WEIGHT = 100
MAX_FULL_SECS = 600


class NamedModel(models.Model):
    """A model name of this installation."""

    id = TextUUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = LineField(
        _("name"),
        unique=True,
        help_text=_("Clients request this name. One * stands for any characters. A name wins over a model of this id."),
    )
    enabled = models.BooleanField(_("enabled"), default=True)
    echo_served = models.BooleanField(
        _("name the served model"),
        default=False,
        help_text=_("Responses contain the model that served them instead of the requested name."),
    )
    external = models.BooleanField(
        _("may use external endpoints"),
        default=False,
        help_text=_("Only requests with API keys that may use external endpoints reach those."),
    )
    same_vectors = models.BooleanField(
        _("models give equal vectors"),
        default=False,
        help_text=_("Requests for embeddings may leave a step only if this is ticked."),
    )
    note = models.TextField(_("note"), default="", blank=True, validators=[validate_text])
    defaults = models.JSONField(
        _("default parameters"),
        default=dict,
        blank=True,
        help_text=_('JSON object of parameters for requests that lack them, such as {"temperature": 0.2}.'),
    )
    overrides = models.JSONField(
        _("fixed parameters"), default=dict, blank=True, help_text=_("JSON object of parameters for all requests.")
    )
    dropped = models.JSONField(
        _("removed parameters"), default=list, blank=True, help_text=_('JSON list of names, such as ["logit_bias"].')
    )
    created_at = IsoDateTimeField(_("created"), default=timezone.now, editable=False)

    class Meta:
        db_table = "model_names"
        ordering: ClassVar = ["name"]
        verbose_name = _("model name")
        verbose_name_plural = _("model names")

    def __str__(self) -> str:
        return str(self.name)


class NameStep(models.Model):
    """One step of a model name, and what makes a request leave it for the next one."""

    named = models.ForeignKey(NamedModel, models.CASCADE, related_name="steps", db_index=False)
    position = models.PositiveSmallIntegerField(
        _("step"), validators=[MinValueValidator(1), MaxValueValidator(MAX_STEPS)]
    )
    if_unavailable = models.BooleanField(
        _("leave if unavailable"), default=True, help_text=_("No endpoint of the step can be asked now.")
    )
    if_full_secs = models.FloatField(
        _("leave if full (s)"),
        null=True,
        blank=True,
        validators=[MinValueValidator(0), MaxValueValidator(MAX_FULL_SECS)],
        help_text=_(
            "All endpoints of the step have been full for so many seconds. If this is empty, the request waits."
        ),
    )
    if_failed = models.BooleanField(
        _("leave after a failure"), default=True, help_text=_("An attempt failed, and another endpoint may not.")
    )
    if_too_long = models.BooleanField(
        _("leave if too long"), default=True, help_text=_("The prompt is longer than the context of the model.")
    )

    class Meta:
        db_table = "model_name_steps"
        ordering: ClassVar = ["position"]
        verbose_name = _("step")
        verbose_name_plural = _("steps")
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["named", "position"],
                name="model_name_step",
                violation_error_message=_("Each step may be listed once."),
            )
        ]

    def __str__(self) -> str:
        return str(self.position)


class NameTarget(models.Model):
    """A target of a step. Its endpoint may be deleted, also by llmlb, so nothing refers to the table of endpoints."""

    named = models.ForeignKey(NamedModel, models.CASCADE, related_name="targets")
    step = models.PositiveSmallIntegerField(
        _("step"), default=1, validators=[MinValueValidator(1), MaxValueValidator(MAX_STEPS)]
    )
    model = LineField(_("model"), help_text=_("Id, alias or canonical name of a model, or another model name."))
    endpoint_id = TextUUIDField(_("endpoint"), null=True, blank=True)
    tag = LineField(_("tag"), default="", blank=True, help_text=_("Only endpoints with this tag get requests."))
    weight = models.PositiveSmallIntegerField(
        _("weight"),
        default=1,
        validators=[MinValueValidator(1), MaxValueValidator(MAX_WEIGHT)],
        help_text=_("Share of the requests among the targets of the step."),
    )

    class Meta:
        db_table = "model_name_targets"
        ordering: ClassVar = ["step", "id"]
        verbose_name = _("target")
        verbose_name_plural = _("targets")

    def __str__(self) -> str:
        return str(self.model)
