"""Models of endpoints: the existing tables and RouterDash's own ones.

Only metrics.storage.writer and health checks write counters, status, latency and last_seen. A save of an existing row
writes only the fields that administrators may edit, so that a form filled in an hour ago never restores old figures.
"""

import threading
import uuid
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from datetime import datetime, timedelta
from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import connection, models, transaction
from django.dispatch import Signal
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from endpoints import base_url as base_urls
from endpoints import capabilities, clouds, connections, sealer
from endpoints.changes import models as _change_tables  # noqa: F401  # Django finds the models of an app here
from endpoints.checks.result import Check
from endpoints.clouds.kinds import CLOUD_CHOICES
from endpoints.clouds.kinds import Kind as Kind
from endpoints.endpoint_fields import FIELDS, Shape
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
from endpoints.model_names import tables as _name_tables  # noqa: F401
from endpoints.text import validate_text
from gateway.base import causes
from gateway.base.sealing import Unsealable
from gateway.registry import schema
from gateway.upstream.connection_settings import ConnectionSettings

EDITED_FIELDS = tuple(field.column for field in FIELDS if field.edited and not field.is_option)
EDITED_OPTIONS = tuple(field.column for field in FIELDS if field.edited and field.is_option)
# Edited options that are numbers. Null means not set.
NUMBER_OPTIONS = {field.column: field for field in FIELDS if field.maximum is not None}
ROUTING_OPTIONS = ("tier", "cost_weight")
ENDPOINT_LIMITS = tuple(name for name in NUMBER_OPTIONS if name not in ROUTING_OPTIONS)
HEALTH_FIELDS = ("status", "latency_ms", "last_seen", "last_error", "error_count")

FAILURES_TO_OFFLINE = 2

MAX_MODELS = 2000  # per endpoint
MAX_MODEL_NAME = 256  # characters
TOO_MANY_MODELS = causes.TOO_MANY_MODELS.format(most=MAX_MODELS)
BAD_MODEL_NAMES = causes.BAD_MODEL_NAMES.format(length_most=MAX_MODEL_NAME)
BOTH_REMARKS = causes.BOTH_REMARKS.format(most=MAX_MODELS, length_most=MAX_MODEL_NAME)
# Values that `last_error` of an endpoint may have although its health checks pass: see endpoints.sync.
REMARKS = frozenset((TOO_MANY_MODELS, BAD_MODEL_NAMES, BOTH_REMARKS))


class Status(models.TextChoices):
    PENDING = schema.PENDING, _("Pending")
    ONLINE = schema.ONLINE, _("Online")
    ERROR = schema.ERROR, _("Error")
    OFFLINE = schema.OFFLINE, _("Offline")


class OperatorState(models.TextChoices):
    ENABLED = schema.ENABLED, _("Enabled")
    DRAINING = schema.DRAINING, _("Draining")
    DISABLED = schema.DISABLED, _("Disabled")


def next_status(before: str, error_count: int, *, success: bool) -> tuple[str, int]:
    """Return status and error count after a check (contract: threshold of two failures, one success restores)."""
    if success:
        return Status.ONLINE, 0
    if before in (Status.PENDING, Status.OFFLINE):
        return Status.OFFLINE, 0
    if error_count + 1 >= FAILURES_TO_OFFLINE:
        return Status.OFFLINE, 0
    return Status.ERROR, error_count + 1


def next_error(before: str | None, check: Check) -> str | None:
    """Return the `last_error` after a health check: its error or remark.

    After a success without a remark, only one on the models stays.
    """
    if not check.success:
        return check.error
    return check.remark or (before if before in REMARKS else None)


def merge_latency(new: int | None, old: int | None) -> int | None:
    """Return the new latency in ms, or the old one without a new measurement.

    A missing measurement never overwrites a measurement, in the database and in every cache.
    """
    return old if new is None else new


def deadline(seconds: int | None) -> datetime | None:
    """Return the moment `seconds` from now; None for None."""
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
    )  # plain text despite its name, which is llmlb's
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
        help_text=_(
            "Time until a stream begins, between two of its events, and for the whole of any other response. If this "
            "is 120, the default, any other response may take ROUTERDASH_PLAIN_TIMEOUT_SECS (600 s)."
        ),
    )
    latency_ms = SharedIntegerField(_("latency (ms)"), null=True, blank=True)
    last_seen = IsoDateTimeField(_("last response"), null=True, blank=True)
    last_error = SharedTextField(_("last error"), null=True, blank=True)
    error_count = SharedIntegerField(default=0, db_default=0)
    registered_at = IsoDateTimeField(_("registered"), default=timezone.now)
    notes = SharedTextField(_("notes"), null=True, blank=True)
    capabilities = SharedJSONField(  # set by administrators: see endpoints.capabilities
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
            raise ValidationError({"name": _("Enter a name for the endpoint.")})
        try:
            self.base_url = clouds.complete(base_urls.normalise(self.base_url or ""))
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
        """Save the endpoint. An existing row without `update_fields` gets only fields that administrators edit."""
        if not self._state.adding and update_fields is None and not force_insert:
            update_fields = EDITED_FIELDS
        super().save(
            *args, force_insert=force_insert, force_update=force_update, using=using, update_fields=update_fields
        )

    @property
    def options_or_default(self) -> "EndpointOptions":
        """The stored options, or the defaults for an endpoint that llmlb created and that has none yet."""
        try:
            return self.options
        except EndpointOptions.DoesNotExist:
            return EndpointOptions(endpoint=self)

    @property
    def kind(self) -> str:
        """The type: that of the cloud, else that of the engine."""
        return str(self.options_or_default.cloud_type or self.endpoint_type)

    @property
    def api_key(self) -> str | None:
        """The secret of the server: the sealed one if there is one, else the one that llmlb stored in plain text."""
        sealed = self.options_or_default.sealed_api_key
        return sealer.sealer().open(sealed) if sealed else self.api_key_encrypted

    def set_api_key(self, secret: str | None) -> None:
        """Seal and store a new secret, or delete the stored one. llmlb's plain text is always deleted."""
        self.set_options(sealed_api_key=sealer.sealer().seal(secret) if secret else None)
        if self.api_key_encrypted is not None:
            self.api_key_encrypted = None
            self.save(update_fields=["api_key_encrypted"])

    @property
    def connection(self) -> ConnectionSettings:
        """Proxy, certificates and extra headers. Raises Unsealable."""
        return connections.opened(self.options_or_default.sealed_connection)

    def set_connection(self, settings: ConnectionSettings) -> None:
        """Seal and store connection settings, unless they are stored already: equal texts are sealed differently."""
        try:
            if self.connection == settings:
                return
        except Unsealable:
            pass
        self.set_options(sealed_connection=connections.sealed(settings))

    def moves_to(self, url: str) -> bool:
        """Return True if the URL is another server (scheme, host or port).

        Data of the old server, above all its secret, must not be sent there: see `forget_server`.
        """
        return not base_urls.same_server(self.base_url, url)

    def forget_server(self, secret: str | None) -> None:
        """Store the new server's secret (or none) after a move; delete connection settings and slots of the old one."""
        self.set_api_key(secret)
        self.set_options(learned_slots=None, sealed_connection=None)

    def set_operator_state(self, state: str, drain_until: datetime | None = None) -> None:
        """Store the administrative state. A drain ends running requests at `drain_until`; None lets them finish."""
        self.set_options(operator_state=state, drain_until=drain_until)

    def set_options(self, **options: Any) -> None:
        """Write only these options, because the values of the others may be outdated in memory.

        A limit that administrators enter ends the assumption of one (endpoints.checks.assumed_slots).
        """
        if options.get("max_concurrency") is not None:
            options["assumed_slots"] = None
        self.options, _created = EndpointOptions.objects.update_or_create(endpoint=self, defaults=options)

    @classmethod
    def record_check(
        cls,
        endpoint_id: uuid.UUID | str,
        *,
        success: bool,
        latency_ms: int | None,
        error: str | None,
        checked_at: datetime,
        remark: str | None = None,
    ) -> "Endpoint | None":
        """Store the result of one health check. Return None if the endpoint has been deleted."""
        stored = cls.record_checks([(str(endpoint_id), Check(success, latency_ms, error, checked_at, remark))])
        return stored.get(str(endpoint_id))

    @classmethod
    def record_checks(cls, checks: Sequence[tuple[str, Check]]) -> "dict[str, Endpoint]":
        """Store results of health checks in one transaction. Return the endpoints by id, without deleted ones.

        Only HEALTH_FIELDS of them are read. Their rows are locked, in the order of their ids, so that two concurrent
        checks count as two. One caller of a process follows the other, so that its registry takes the results in the
        order of the commits.
        """
        ids = {endpoint_id for endpoint_id, _ in checks}
        # Inside another transaction, waiting for a caller that waits for this transaction would never end.
        in_turn = nullcontext() if connection.in_atomic_block else _recording
        with in_turn, transaction.atomic():
            locked = cls.objects.select_for_update().filter(pk__in=ids).order_by("pk").only(*HEALTH_FIELDS)
            endpoints: dict[str, Endpoint] = {str(endpoint.pk): endpoint for endpoint in locked}
            rows = [
                endpoint._checked(check)
                for endpoint_id, check in checks
                if (endpoint := endpoints.get(endpoint_id)) is not None
            ]
            if endpoints:
                with connection.cursor() as cursor:  # many times a second: Django's own writers take twice the time
                    cursor.executemany(_WRITE_HEALTH, _values(cls, endpoints.values(), (*HEALTH_FIELDS, "id")))
                    cursor.executemany(_ADD_CHECK, _values(HealthCheck, rows, _CHECK_FIELDS))
                checks_recorded.send(cls, endpoints=list(endpoints.values()))
        return endpoints

    def _checked(self, check: Check) -> "HealthCheck":
        """Apply a health check to this instance. Return the row of the check."""
        before = self.status if self.status in Status.values else Status.PENDING
        self.status, self.error_count = next_status(before, self.error_count, success=check.success)
        self.last_error = next_error(self.last_error, check)
        if check.success:
            self.last_seen = check.checked_at
        self.latency_ms = merge_latency(check.latency_ms, self.latency_ms)
        return HealthCheck(
            endpoint=self,
            checked_at=check.checked_at,
            success=check.success,
            latency_ms=check.latency_ms,
            error_message=check.error,
            status_before=before,
            status_after=self.status,
        )


def _values(model: type[models.Model], rows: Iterable[models.Model], names: Sequence[str]) -> list[list[Any]]:
    """Return the values of these fields of each row, as the database takes them."""
    fields: list[Any] = [model._meta.get_field(name) for name in names]
    return [[field.get_db_prep_save(getattr(row, field.attname), connection) for field in fields] for row in rows]


_recording = threading.Lock()
_WRITE_HEALTH = (
    "UPDATE endpoints SET status = %s, latency_ms = %s, last_seen = %s, last_error = %s, error_count = %s WHERE id = %s"
)
_CHECK_FIELDS = ("endpoint", "checked_at", "success", "latency_ms", "error_message", "status_before", "status_after")
_ADD_CHECK = (
    "INSERT INTO endpoint_health_checks "
    "(endpoint_id, checked_at, success, latency_ms, error_message, status_before, status_after) "
    "VALUES (%s, %s, %s, %s, %s, %s, %s)"
)
checks_recorded = Signal()  # in the transaction of `record_checks`, with its `endpoints`


class EndpointModel(models.Model):
    """A model that an endpoint offers."""

    pk = models.CompositePrimaryKey("endpoint_id", "model_id")
    endpoint = models.ForeignKey(Endpoint, models.CASCADE, related_name="models", db_index=False)
    model_id = SharedLineField()
    capabilities = SharedJSONField(null=True)
    last_checked = IsoDateTimeField(null=True)
    supported_apis = SharedJSONField(null=True, db_default=models.Value('["chat_completions"]'))
    max_tokens = SharedIntegerField(null=True)  # of the context
    canonical_name = SharedLineField(null=True)
    # Columns of our own.
    max_output_tokens = models.IntegerField(null=True)  # as its server lists them
    lacks = models.JSONField(null=True)  # of endpoints.capabilities.NEEDS; null: not reported
    features = models.JSONField(null=True)  # of endpoints.capabilities.FEATURES; null: not reported
    first_seen = IsoDateTimeField(null=True)  # null: an earlier release or llmlb stored the row

    class Meta:
        db_table = "endpoint_models"
        verbose_name = _("model")
        verbose_name_plural = _("models")

    def __str__(self) -> str:
        return str(self.model_id)


class HealthCheck(models.Model):
    """One health check. If its two statuses differ, it is a transition, with its cause in `error_message`."""

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
            # Finds the few changes of status among millions of checks.
            models.Index(
                fields=["endpoint", "id"],
                condition=~models.Q(status_before=models.F("status_after")),
                name="checks_changes",
            )
        ]

    def __str__(self) -> str:
        return f"{self.endpoint_id} {self.checked_at}: {self.status_before} → {self.status_after}"


def _number(name: str, label: Any, text: Any) -> Any:
    """Return the column of a numeric option. docs/architecture/endpoint-fields.md has the steps for another one."""
    field = NUMBER_OPTIONS[name]
    bounds = [MinValueValidator(field.minimum), MaxValueValidator(field.maximum)]
    column: Any = models.IntegerField if field.shape is Shape.INTEGER else models.FloatField
    return column(label, null=True, blank=True, validators=bounds, help_text=text)


class EndpointOptions(models.Model):
    """Data of an endpoint that the existing table does not contain.

    There is no constraint in the database, because llmlb must still be able to delete an endpoint.
    """

    endpoint = models.OneToOneField(
        Endpoint, models.CASCADE, primary_key=True, related_name="options", db_constraint=False
    )
    operator_state = LineField(_("administrative state"), choices=OperatorState.choices, default=OperatorState.ENABLED)
    sealed_api_key = models.TextField(null=True, blank=True, editable=False)  # noqa: DJ001
    sealed_connection = models.TextField(null=True, blank=True, editable=False)  # noqa: DJ001 - endpoints.connections
    drain_until = IsoDateTimeField(_("drain deadline"), null=True, blank=True, editable=False)
    connect_timeout_secs = _number(
        "connect_timeout_secs",
        _("connect timeout (s)"),
        _("Time to connect to the server. If this is empty, the timeout is 5 seconds."),
    )
    idle_timeout_secs = _number(
        "idle_timeout_secs",
        _("idle timeout (s)"),
        _("Time between two events of a stream. If this is empty, the inference timeout applies."),
    )
    total_timeout_secs = _number(
        "total_timeout_secs", _("total timeout (s)"), _("Time for a whole stream. If this is empty, there is no limit.")
    )
    max_concurrency = _number(
        "max_concurrency",
        _("requests at a time"),
        _(
            "Further requests wait in the queue. Leave this empty to use the number of slots that the server reports, "
            "else the number that is assumed for it, else no limit. A number here ends the assumption."
        ),
    )
    learned_slots = models.IntegerField(_("slots reported by the server"), null=True, blank=True, editable=False)
    assumed_slots = models.IntegerField(  # see endpoints.checks.assumed_slots
        _("assumed requests at a time"), null=True, blank=True, editable=False
    )
    tags = models.JSONField(_("tags"), null=True, blank=True)  # a list of words: see endpoints.tags
    tier = _number(
        "tier",
        _("tier"),
        _(
            "1 is the first, 9 the last. The endpoint gets requests only when all endpoints of better tiers are "
            "unavailable or full. If this is empty, the tier is 1."
        ),
    )
    cost_weight = _number(
        "cost_weight",
        _("cost weight"),
        _(
            "Adaptive routing multiplies the cost of a request by this. With 2, the endpoint is used as if it took "
            "twice as long, so it gets fewer requests; with 0.5 it gets more. If this is empty, the weight is 1."
        ),
    )

    external = models.BooleanField(
        _("external"),
        null=True,
        blank=True,
        help_text=_(
            "Requests to an external endpoint leave your network. Only API keys that may use external endpoints reach "
            "it. If this is not set, clouds are external and other endpoints are not."
        ),
    )
    cloud_type = LineField(
        _("cloud"),
        null=True,
        blank=True,
        choices=CLOUD_CHOICES,
        help_text=_("The cloud whose API this endpoint has. Leave this empty for a server of your own."),
    )
    api_version = LineField(
        _("API version"),
        null=True,
        blank=True,
        help_text=_(
            "Only for addresses of Azure OpenAI without /v1: a date such as 2024-10-21, which each request names."
        ),
    )
    allowed_models = models.JSONField(  # a list of patterns: see endpoints.allowed_models
        _("allowed models"),
        null=True,
        blank=True,
        help_text=_(
            "Patterns such as gpt-5*, separated by commas. Only models that match one are stored. If this is empty, "
            "all are. Azure OpenAI does not list its deployments, so enter their names."
        ),
    )

    class Meta:
        db_table = "endpoint_options"
        verbose_name = _("options")
        verbose_name_plural = _("options")

    def __str__(self) -> str:
        return f"{self.endpoint_id}: {self.operator_state}"
