"""Views of /api/prices and /api/currency-rates."""

import time
from datetime import date
from typing import Any

from django.conf import settings
from django.contrib.admin.models import ADDITION, DELETION
from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.utils import OpenApiParameter
from rest_framework import status
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from endpoints.api import ErrorResponse
from endpoints.lists import offset_pages
from endpoints.openapi.descriptions import extend_schema
from metrics.costs import rules
from metrics.costs.edits import assign, changed_values, log_edit, refuse, row_or_404, save, validated
from metrics.costs.in_effect import priced_models, unpriced_models
from metrics.costs.rollups import used_prices
from metrics.costs.serializers import (
    CurrencyRateListSerializer,
    CurrencyRateSerializer,
    PriceListSerializer,
    PriceSerializer,
    PricesInEffectSerializer,
    fields_of,
)
from metrics.costs.tables import next_start
from metrics.models import CurrencyRate, PriceRow
from metrics.queries.figures import Moment
from metrics.queries.stored import flushed

Q = OpenApiParameter("q", description="Text in the name of the model.")


class PriceList(APIView):
    @extend_schema(operation_id="prices_list", parameters=[Q, *offset_pages.PARAMETERS], responses=PriceListSerializer)
    def get(self, request: Request) -> Response:
        """List the prices of this installation, sorted by model, the latest first. The catalogue is not in it."""
        rows = PriceRow.objects.filter(pattern__icontains=_search_text(request))
        part, headers = offset_pages.part_of(request, rows)
        data = {"prices": PriceSerializer(part, many=True).data, "total": rows.count()}
        return Response(data, headers=headers)

    @extend_schema(request=PriceSerializer, responses={201: PriceSerializer})
    def post(self, request: Request) -> Response:
        """Add a price. Requests that are counted already keep their cost."""
        row = PriceRow()
        _store(request, row, validated(PriceSerializer, request.data))
        return Response(PriceSerializer(row).data, status=status.HTTP_201_CREATED)


class PriceDetail(APIView):
    @extend_schema(responses=PriceSerializer)
    def get(self, request: Request, price_id: int) -> Response:
        """Return a price."""
        return Response(PriceSerializer(_row_or_404(price_id)).data)

    @extend_schema(request=PriceSerializer, responses=PriceSerializer)
    def patch(self, request: Request, price_id: int) -> Response:
        """Change the fields sent. Of a price that counts already, only `valid_until` and `note` can change."""
        with transaction.atomic():
            row = _row_or_404(price_id, lock=True)
            _store(request, row, changed_values(PriceSerializer, row, request.data))
        return Response(PriceSerializer(row).data)

    @extend_schema(responses={204: None})
    def delete(self, request: Request, price_id: int) -> Response:
        """Delete a price by which no cost was computed."""
        with transaction.atomic():
            row = _row_or_404(price_id, lock=True)
            if used_prices([row.pk]):
                raise ErrorResponse(409, _("Costs were computed with this price. Give it an end instead."))
            log_edit(request, row, DELETION)
            row.delete()
        return Response(status=status.HTTP_204_NO_CONTENT)


class PricesInEffect(APIView):
    @extend_schema(
        operation_id="prices_in_effect", parameters=[Q, *offset_pages.PARAMETERS], responses=PricesInEffectSerializer
    )
    def get(self, request: Request) -> Response:
        """List the models of all endpoints with the price that counts now, and served models without one."""
        flushed()
        moment, now = Moment.now(), time.time()
        models = priced_models(moment.entries, now, _search_text(request))
        part, headers = offset_pages.part_of(request, models)
        content = {
            "currency": settings.ROUTERDASH.currency,
            "models": part,
            "total": len(models),
            "unpriced": unpriced_models(moment.entries, date.fromisoformat(moment.figures.date), now),
        }
        return Response(PricesInEffectSerializer(content).data, headers=headers)


class CurrencyRateList(APIView):
    @extend_schema(operation_id="currency_rates_list", responses=CurrencyRateListSerializer)
    def get(self, request: Request) -> Response:
        """List the rates, sorted by currency, the latest first."""
        rows: Any = CurrencyRate.objects.all()[: offset_pages.MAX_ROWS]
        return Response({"rates": CurrencyRateSerializer(rows, many=True).data})

    @extend_schema(request=CurrencyRateSerializer, responses={201: CurrencyRateSerializer})
    def post(self, request: Request) -> Response:
        """Add a rate to the currency in which costs are summed."""
        values = validated(CurrencyRateSerializer, request.data)
        rate = CurrencyRate(
            currency=values["currency"].strip().upper(),
            reporting=settings.ROUTERDASH.currency,
            valid_from=values["valid_from"] or next_start(),
            rate=values["rate"],
        )
        refuse(rules.rate_problems(rate, None))
        try:
            with transaction.atomic():
                rate.save()
                log_edit(request, rate, ADDITION)
        except IntegrityError:  # another request was faster
            refuse([rules.same_start()])
        return Response(CurrencyRateSerializer(rate).data, status=status.HTTP_201_CREATED)


class CurrencyRateDetail(APIView):
    @extend_schema(responses={204: None})
    def delete(self, request: Request, rate_id: int) -> Response:
        """Delete a rate that does not count yet."""
        with transaction.atomic():
            rate = CurrencyRate.objects.filter(pk=rate_id).first()
            if rate is None:
                raise NotFound(_("Currency rate not found"))
            if rate.valid_from <= timezone.now():
                raise ErrorResponse(409, _("This rate counts already. Add another one with a later start."))
            log_edit(request, rate, DELETION)
            rate.delete()
        return Response(status=status.HTTP_204_NO_CONTENT)


def _search_text(request: Request) -> str:
    return str(request.query_params.get("q", "")).replace("\0", "")  # which PostgreSQL refuses


def _row_or_404(price_id: int, *, lock: bool = False) -> PriceRow:
    rows = PriceRow.objects.select_for_update() if lock else PriceRow.objects.all()
    return row_or_404(rows, price_id, _("Price not found"))


def _store(request: Request, row: PriceRow, values: Any) -> None:
    before = assign(row, values, fields_of(row))
    row.valid_from = row.valid_from or next_start()
    rules.normalise(row)
    refuse(rules.problems(row, before))
    save(request, row, before, fields_of(row))


URLS: list[tuple[str, Any, str]] = [
    ("api/prices", PriceList, "api-prices"),
    ("api/prices/in-effect", PricesInEffect, "api-prices-in-effect"),
    ("api/prices/<int:price_id>", PriceDetail, "api-price"),
    ("api/currency-rates", CurrencyRateList, "api-currency-rates"),
    ("api/currency-rates/<int:rate_id>", CurrencyRateDetail, "api-currency-rate"),
]
