"""Tables of prices and of rates of currencies. The price book is made from them by metrics.costs.price_cache."""

from datetime import datetime, timedelta
from typing import ClassVar

import msgspec
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from endpoints.fields import IsoDateTimeField, LineField, TextUUIDField
from gateway.registry.prices import AMOUNTS, DAY_MINUTES, EVERY_DAY, DatedRate, Price, PriceWindow
from metrics.costs.amounts import AmountField

ENTERED = "operator"  # source of rows that administrators entered, as stored and in the API
NOTICE_SECONDS = 10  # before a new row counts, so that control has read it by then


def source_name(source: str) -> str:
    """Return the source of a price as pages show it."""
    return gettext("administrator") if source == ENTERED else source


def next_start(now: datetime | None = None) -> datetime:
    """Return the first full minute that is far enough away for a new row to be known in time."""
    start = (now or timezone.now()) + timedelta(seconds=NOTICE_SECONDS + 60)
    return start.replace(second=0, microsecond=0)


class PriceRow(models.Model):
    """One row of the price book, see gateway.prices.book. Once it counts, only its end and its note may change."""

    pattern = LineField(_("model"), help_text=_("Served model or its canonical name. One * stands for any characters."))
    endpoint_id = TextUUIDField(_("endpoint"), null=True, blank=True)
    provider = LineField(_("endpoint type"), default="", blank=True)  # of endpoints.clouds.kinds; empty: any
    valid_from = IsoDateTimeField(_("valid from"))
    valid_until = IsoDateTimeField(
        _("valid until"), null=True, blank=True, help_text=_("Excluded. Empty: until a later row counts.")
    )
    currency = LineField(_("currency"), help_text=_("ISO 4217 code, such as USD."))
    min_prompt = models.BigIntegerField(
        _("prompts of more than"),
        default=0,
        validators=[MinValueValidator(0)],
        help_text=_("Tokens. The row counts only for longer prompts, and then for all of their tokens."),
    )
    tier = LineField(
        _("service tier"), default="", blank=True, help_text=_("Such as batch, flex or priority. Empty: the default.")
    )
    window_start = models.PositiveSmallIntegerField(
        _("from minute of the day (UTC)"), null=True, blank=True, validators=[MaxValueValidator(DAY_MINUTES - 1)]
    )
    window_end = models.PositiveSmallIntegerField(
        _("to minute of the day (UTC)"), null=True, blank=True, validators=[MaxValueValidator(DAY_MINUTES)]
    )
    weekdays = models.PositiveSmallIntegerField(
        _("weekdays"),
        default=EVERY_DAY,
        validators=[MinValueValidator(1), MaxValueValidator(EVERY_DAY)],
    )
    input = AmountField(_("input"), null=True, blank=True, help_text=_("Per million tokens."))
    cached = AmountField(_("cached input"), null=True, blank=True, help_text=_("Per million tokens. Empty: as input."))
    write_short = AmountField(
        _("cache write"), null=True, blank=True, help_text=_("Per million tokens. Empty: as input.")
    )
    write_long = AmountField(
        _("long cache write"), null=True, blank=True, help_text=_("Per million tokens. Empty: as cache write.")
    )
    output = AmountField(_("output"), null=True, blank=True, help_text=_("Per million tokens."))
    reasoning = AmountField(_("reasoning"), null=True, blank=True, help_text=_("Per million tokens. Empty: as output."))
    request = AmountField(_("requests"), null=True, blank=True, help_text=_("Per thousand requests."))
    image = AmountField(_("images"), null=True, blank=True, help_text=_("Per thousand images."))
    minute = AmountField(_("minutes of audio"), null=True, blank=True, help_text=_("Per thousand minutes."))
    source = LineField(_("source"), default=ENTERED, editable=False)
    note = LineField(_("note"), default="", blank=True)
    created_at = IsoDateTimeField(_("created"), default=timezone.now, editable=False)

    class Meta:
        app_label = "metrics"
        db_table = "prices"
        ordering: ClassVar = ["pattern", "-valid_from", "id"]
        verbose_name = _("price")
        verbose_name_plural = _("prices")

    def __str__(self) -> str:
        return f"{self.pattern} {self.currency}"

    def price(self) -> Price:
        """Return the row as the price book has it."""
        window = None
        if self.window_start is not None and self.window_end is not None:
            window = PriceWindow(self.window_start, self.window_end % DAY_MINUTES, self.weekdays)
        price = Price(
            self.pk or 0,
            self.pattern,
            "" if self.endpoint_id is None else str(self.endpoint_id),
            self.provider,
            _seconds(self.valid_from),
            None if self.valid_until is None else _seconds(self.valid_until),
            self.currency,
            self.min_prompt,
            self.tier,
            window,
            source=self.source,
        )
        return msgspec.structs.replace(price, **{name: getattr(self, name) for name in AMOUNTS})

    def has_begun(self) -> bool:
        """Return True if requests may have this price."""
        return self.pk is not None and bool(self.valid_from <= timezone.now())


class CurrencyRate(models.Model):
    """Worth of one unit of a currency in another one, from a moment on."""

    currency = LineField(_("currency"), help_text=_("ISO 4217 code, such as EUR."))
    reporting = LineField(_("reporting currency"))
    valid_from = IsoDateTimeField(_("valid from"))
    rate = AmountField(_("rate"), help_text=_("Worth of one unit of the currency in the reporting currency."))
    created_at = IsoDateTimeField(_("created"), default=timezone.now, editable=False)

    class Meta:
        app_label = "metrics"
        db_table = "currency_rates"
        ordering: ClassVar = ["currency", "-valid_from"]
        verbose_name = _("currency rate")
        verbose_name_plural = _("currency rates")
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["currency", "reporting", "valid_from"], name="currency_rates_once")
        ]

    def __str__(self) -> str:
        return f"{self.currency} {self.reporting}"

    def dated(self) -> DatedRate:
        return DatedRate(self.currency, self.reporting, _seconds(self.valid_from), self.rate)


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())
