"""The existing tables of endpoints, and our own beside them.

Counters, status, latency and last_seen are written by the folder (metrics.writer) and by health checks alone; a save of
an existing row writes only what staff may edit, so that a form filled in an hour ago never brings old figures back.
"""

import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models, transaction
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from endpoints import base_url as base_urls
from endpoints import capabilities, keys
from endpoints.fields import (
    IsoDateTimeField,
    LineField,
    SharedBigIntegerField,
    SharedIntegerField,
    SharedJSONField,
    SharedLineField,
    SharedTextField,
    TextUUIDField,
)
from endpoints.text import validate_text
from gateway import snapshot

STAFF_FIELDS = (
    "name",
    "base_url",
    "health_check_interval_secs",
    "inference_timeout_secs",
    "notes",
    "capabilities",
)
LIMITS = {  # in the options, for staff to edit: from 1 up to this, null where nobody said
    "connect_timeout_secs": 60,
    "idle_timeout_secs": 86400,
    "total_timeout_secs": 86400,
    "max_concurrency": 10000,
}
HEALTH_FIELDS = ("status", "latency_ms", "last_seen", "last_error", "error_count")

FAILURES_TO_OFFLINE = 2

MAX_MODELS = 2000  # of an endpoint
MAX_MODEL_NAME = 256  # characters
TOO_MANY_MODELS = f"it lists more than {MAX_MODELS} models; the others are left out"
BAD_MODEL_NAMES = (
    f"it lists models whose names are longer than {MAX_MODEL_NAME} characters or cannot be printed; they are left out"
)
# What `last_error` of an endpoint may say although its health checks pass: see endpoints.sync.
REMARKS = frozenset((TOO_MANY_MODELS, BAD_MODEL_NAMES, f"{TOO_MANY_MODELS}; {BAD_MODEL_NAMES}"))


class Status(models.TextChoices):
    PENDING = snapshot.PENDING, _("Pending")
    ONLINE = snapshot.ONLINE, _("Online")
    ERROR = snapshot.ERROR, _("Error")
    OFFLINE = snapshot.OFFLINE, _("Offline")


class OperatorState(models.TextChoices):
    ENABLED = snapshot.ENABLED, _("Enabled")
    DRAINING = snapshot.DRAINING, _("Draining")
    DISABLED = snapshot.DISABLED, _("Disabled")


class Kind(models.TextChoices):
    XLLM = "xllm", "xLLM"
    OLLAMA = "ollama", "Ollama"
    VLLM = "vllm", "vLLM"
    LM_STUDIO = "lm_studio", "LM Studio"
    LLAMACPP = "llamacpp", "llama.cpp"
    OPENAI_COMPATIBLE = "openai_compatible", _("OpenAI-compatible")


def next_status(before: str, error_count: int, *, success: bool) -> tuple[str, int]:
    """Status and error count after a health check (contract: threshold of two failures, one success restores)."""
    if success:
        return Status.ONLINE, 0
    if before in (Status.PENDING, Status.OFFLINE):
        return Status.OFFLINE, 0
    if error_count + 1 >= FAILURES_TO_OFFLINE:
        return Status.OFFLINE, 0
    return Status.ERROR, error_count + 1


def next_error(before: str | None, error: str | None) -> str | None:
    """What is wrong after a health check, which found `error` or nothing: a remark on the models stays meanwhile."""
    return before if error is None and before in REMARKS else error


def merge_latency(new: int | None, old: int | None) -> int | None:
    """No measurement never overwrites one: the same rule for the database and for every cache."""
    return old if new is None else new


def deadline(seconds: int | None) -> datetime | None:
    """The moment in so many seconds from now; None for none."""
    return None if seconds is None else timezone.now() + timedelta(seconds=seconds)


def _default_capabilities() -> list[str]:
    return list(capabilities.DEFAULT)


class Endpoint(models.Model):
    """An inference server."""

    id = TextUUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = SharedLineField(_("name"), unique=True)
    base_url = SharedLineField(_("base URL"), unique=True)
    api_key_encrypted = SharedLineField(
        null=True, blank=True, editable=False
    )  # plaintext, despite its name: the reference's
    status = SharedLineField(_("status"), choices=Status.choices, default=Status.PENDING, db_default="pending")
    health_check_interval_secs = SharedIntegerField(
        _("health check interval (s)"),
        default=30,
        db_default=30,
        validators=[MinValueValidator(1), MaxValueValidator(3600)],
    )
    inference_timeout_secs = SharedIntegerField(
        _("inference timeout (s)"),
        default=120,
        db_default=120,
        validators=[MinValueValidator(1), MaxValueValidator(86400)],
        help_text=_("To the first byte, between two chunks of a stream, and for the whole of any other answer."),
    )
    latency_ms = SharedIntegerField(_("latency (ms)"), null=True, blank=True)
    last_seen = IsoDateTimeField(_("last seen"), null=True, blank=True)
    last_error = SharedTextField(_("last error"), null=True, blank=True)
    error_count = SharedIntegerField(default=0, db_default=0)
    registered_at = IsoDateTimeField(_("registered"), default=timezone.now)
    notes = SharedTextField(_("notes"), null=True, blank=True)
    capabilities = SharedJSONField(  # the staff's word: see endpoints.capabilities
        null=True, blank=True, default=_default_capabilities, db_default=models.Value('["chat_completion"]')
    )
    device_info = SharedJSONField(null=True, blank=True)
    inference_latency_ms = models.FloatField(null=True, blank=True)
    endpoint_type = SharedLineField(
        _("type"), choices=Kind.choices, default=Kind.OPENAI_COMPATIBLE, db_default="openai_compatible"
    )
    total_requests = SharedBigIntegerField(_("requests"), default=0, db_default=0)
    successful_requests = SharedBigIntegerField(default=0, db_default=0)
    failed_requests = SharedBigIntegerField(default=0, db_default=0)

    class Meta:
        db_table = "endpoints"
        ordering: ClassVar = ["-registered_at"]
        verbose_name = _("endpoint")
        verbose_name_plural = _("endpoints")

    def __str__(self) -> str:
        return str(self.name)

    def clean(self) -> None:
        self.name = (self.name or "").strip()
        if not self.name:
            raise ValidationError({"name": _("Give the endpoint a name.")})
        try:
            self.base_url = base_urls.normalise(self.base_url or "")
        except ValueError as error:
            raise ValidationError({"base_url": str(error)}) from None
        try:
            validate_text(self.notes or "")
        except ValidationError as error:
            raise ValidationError({"notes": error}) from None

    def save(
        self,
        *args: Any,
        force_insert: Any = False,
        force_update: bool = False,
        using: str | None = None,
        update_fields: Iterable[str] | None = None,
    ) -> None:
        """On an existing row, without `update_fields`, only what staff may edit is written."""
        if not self._state.adding and update_fields is None and not force_insert:
            update_fields = STAFF_FIELDS
        super().save(
            *args, force_insert=force_insert, force_update=force_update, using=using, update_fields=update_fields
        )

    @property
    def options_or_default(self) -> "EndpointOptions":
        """Our options; an endpoint that the reference made has none yet."""
        try:
            return self.options
        except EndpointOptions.DoesNotExist:
            return EndpointOptions(endpoint=self)

    @property
    def api_key(self) -> str | None:
        """The upstream's secret: ours, sealed, if there is one, else what the reference left in plain text."""
        sealed = self.options_or_default.sealed_api_key
        return keys.sealer().open(sealed) if sealed else self.api_key_encrypted

    def set_api_key(self, secret: str | None) -> None:
        """Seal a new secret, or forget the stored one, wherever it is stored."""
        self.set_options(sealed_api_key=keys.sealer().seal(secret) if secret else None)
        if self.api_key_encrypted is not None:
            self.api_key_encrypted = None
            self.save(update_fields=["api_key_encrypted"])

    def moves_to(self, url: str) -> bool:
        """Is this another server (scheme, host or port)? Then what belongs to the old one, its secret above all, does
        not go there: `forget_server`.
        """
        return not base_urls.same_server(self.base_url, url)

    def forget_server(self, secret: str | None) -> None:
        """After a move: the new server's secret or none, and nothing that the old server told of itself."""
        self.set_api_key(secret)
        self.set_options(learned_slots=None)

    def set_operator_state(self, state: str, drain_until: datetime | None = None) -> None:
        """`drain_until`: when a draining endpoint's requests are ended that still run; None: they may finish."""
        self.set_options(operator_state=state, drain_until=drain_until)

    def set_options(self, **options: Any) -> None:
        """Write these options: what was read of the others may be old by now."""
        self.options, _created = EndpointOptions.objects.update_or_create(endpoint=self, defaults=options)

    @classmethod
    def record_check(
        cls, endpoint_id: uuid.UUID | str, *, success: bool, latency_ms: int | None, error: str | None, at: datetime
    ) -> "Endpoint | None":
        """Store what a health check found; None when the endpoint was deleted meanwhile.

        The row is read under lock, so that two checks at once count as two.
        """
        with transaction.atomic():
            endpoint = cls.objects.select_for_update().filter(pk=endpoint_id).first()
            if endpoint is None:
                return None
            before = endpoint.status if endpoint.status in Status.values else Status.PENDING
            endpoint.status, endpoint.error_count = next_status(before, endpoint.error_count, success=success)
            endpoint.last_error = next_error(endpoint.last_error, None if success else error)
            changed = ["status", "error_count", "last_error"]
            if success:
                endpoint.last_seen = at
                changed.append("last_seen")
            if latency_ms is not None:  # COALESCE: a failed check leaves the last latency alone
                endpoint.latency_ms = latency_ms
                changed.append("latency_ms")
            endpoint.save(update_fields=changed)
            HealthCheck.objects.create(
                endpoint=endpoint,
                checked_at=at,
                success=success,
                latency_ms=latency_ms,
                error_message=error,
                status_before=before,
                status_after=endpoint.status,
            )
        return endpoint


class EndpointModel(models.Model):
    """A model that an endpoint offers."""

    pk = models.CompositePrimaryKey("endpoint_id", "model_id")
    endpoint = models.ForeignKey(Endpoint, models.CASCADE, related_name="models", db_index=False)
    model_id = SharedLineField()
    capabilities = SharedJSONField(null=True)
    last_checked = IsoDateTimeField(null=True)
    supported_apis = SharedJSONField(null=True, db_default=models.Value('["chat_completions"]'))
    max_tokens = SharedIntegerField(null=True)
    canonical_name = SharedLineField(null=True)

    class Meta:
        db_table = "endpoint_models"
        verbose_name = _("model")
        verbose_name_plural = _("models")

    def __str__(self) -> str:
        return str(self.model_id)


class HealthCheck(models.Model):
    """One health check; a transition where the two statuses differ, with its cause in `error_message`."""

    id = models.AutoField(primary_key=True)
    endpoint = models.ForeignKey(Endpoint, models.CASCADE, related_name="health_checks")
    checked_at = IsoDateTimeField(db_index=True)
    success = models.BooleanField()
    latency_ms = SharedIntegerField(null=True)
    error_message = SharedTextField(null=True)
    status_before = SharedLineField()
    status_after = SharedLineField()

    class Meta:
        db_table = "endpoint_health_checks"
        verbose_name = _("health check")
        verbose_name_plural = _("health checks")
        indexes: ClassVar = [
            # The few changes of status among millions of checks.
            models.Index(
                fields=["endpoint", "id"],
                condition=~models.Q(status_before=models.F("status_after")),
                name="checks_changes",
            )
        ]

    def __str__(self) -> str:
        return f"{self.endpoint_id} {self.checked_at}: {self.status_before} → {self.status_after}"


def _limit(name: str, label: Any, text: Any) -> Any:
    bounds = [MinValueValidator(1), MaxValueValidator(LIMITS[name])]
    return models.IntegerField(label, null=True, blank=True, validators=bounds, help_text=text)


class EndpointOptions(models.Model):
    """What RouterDash knows of an endpoint beyond the existing table.

    No constraint in the database: the reference must still be able to delete an endpoint under us.
    """

    endpoint = models.OneToOneField(
        Endpoint, models.CASCADE, primary_key=True, related_name="options", db_constraint=False
    )
    operator_state = LineField(_("operator's state"), choices=OperatorState.choices, default=OperatorState.ENABLED)
    sealed_api_key = models.TextField(null=True, blank=True, editable=False)  # noqa: DJ001
    drain_until = IsoDateTimeField(_("drain until"), null=True, blank=True, editable=False)
    connect_timeout_secs = _limit("connect_timeout_secs", _("connect timeout (s)"), _("To reach the server. Empty: 5."))
    idle_timeout_secs = _limit(
        "idle_timeout_secs",
        _("idle timeout (s)"),
        _("Between two events of a stream. Empty: as the inference timeout."),
    )
    total_timeout_secs = _limit(
        "total_timeout_secs", _("total timeout (s)"), _("For the whole of a stream. Empty: none.")
    )
    max_concurrency = _limit(
        "max_concurrency",
        _("requests at a time"),
        _("More of them wait in the queue. Empty: as many as the server tells, else any number."),
    )
    learned_slots = models.IntegerField(_("slots that the server tells"), null=True, blank=True, editable=False)
    tags = models.JSONField(_("tags"), null=True, blank=True)  # a list of words: see endpoints.tags

    class Meta:
        db_table = "endpoint_options"
        verbose_name = _("options")
        verbose_name_plural = _("options")

    def __str__(self) -> str:
        return f"{self.endpoint_id}: {self.operator_state}"


class ChangeCounter(models.Model):
    """See endpoints.changes."""

    name = LineField(primary_key=True)
    value = models.BigIntegerField(default=0)

    class Meta:
        db_table = "change_counters"

    def __str__(self) -> str:
        return f"{self.name}: {self.value}"
