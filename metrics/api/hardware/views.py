"""Views of /api/hardware and /api/hardware-rates."""

import re
import time
from typing import Any

from django.conf import settings
from django.contrib.admin.models import ADDITION, CHANGE, DELETION
from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _
from drf_spectacular.utils import OpenApiParameter
from rest_framework import status
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from endpoints.api import ErrorResponse
from endpoints.lists import offset_pages
from endpoints.openapi.descriptions import extend_schema
from metrics.api.hardware.serializers import (
    HardwareMonthSerializer,
    HardwareRateListSerializer,
    HardwareRateSerializer,
)
from metrics.api.prices.edits import log_edit, refuse, validated
from metrics.models import HardwareRateRow
from metrics.prices import hardware_rules
from metrics.prices.tables import next_start
from metrics.queries.figures import Moment
from metrics.queries.hardware.month import comparison_price, hardware_month
from metrics.queries.stored import flushed

MONTH = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")
_FIELDS = tuple(name for name, it in HardwareRateSerializer().fields.items() if not it.read_only)


class HardwareMonth(APIView):
    @extend_schema(
        operation_id="hardware_month",
        parameters=[
            OpenApiParameter("month", description="Such as 2026-11. Without it: the present month."),
            OpenApiParameter("model", description="Model of a price to compare with."),
            OpenApiParameter("cloud", description="Its type of endpoint, such as openai. Without it: any."),
        ],
        responses=HardwareMonthSerializer,
    )
    def get(self, request: Request) -> Response:
        """Return the costs of own hardware in a month, the highest first, idle time on lines of its own."""
        flushed()
        month = request.query_params.get("month", Moment.now().figures.date[:7])
        if not MONTH.fullmatch(month):
            raise ValidationError({"month": [_("Enter a month such as 2026-11.")]})
        model, cloud = (request.query_params.get(name, "") for name in ("model", "cloud"))
        now = time.time()
        price = comparison_price(cloud, model, now) if model else None
        if model and price is None:
            raise ValidationError({"model": [_("This model has no price.")]})
        found = hardware_month(month, now, settings.ROUTERDASH.zone, price=price, model=model)
        return Response(HardwareMonthSerializer(found).data)


class HardwareRateList(APIView):
    @extend_schema(
        operation_id="hardware_rates_list", parameters=[*offset_pages.PARAMETERS], responses=HardwareRateListSerializer
    )
    def get(self, request: Request) -> Response:
        """List the rates of own hardware by endpoint, the latest first."""
        rows = HardwareRateRow.objects.all()
        part, headers = offset_pages.part_of(request, rows)
        data = {"rates": HardwareRateSerializer(part, many=True).data, "total": rows.count()}
        return Response(data, headers=headers)

    @extend_schema(request=HardwareRateSerializer, responses={201: HardwareRateSerializer})
    def post(self, request: Request) -> Response:
        """Add a rate. It ends the endpoint's rate before it when it starts."""
        row = HardwareRateRow()
        _store(request, row, validated(HardwareRateSerializer, request.data), ADDITION)
        return Response(HardwareRateSerializer(row).data, status=status.HTTP_201_CREATED)


class HardwareRateDetail(APIView):
    @extend_schema(responses=HardwareRateSerializer)
    def get(self, request: Request, rate_id: int) -> Response:
        """Return a rate."""
        return Response(HardwareRateSerializer(_row_or_404(rate_id)).data)

    @extend_schema(request=HardwareRateSerializer, responses=HardwareRateSerializer)
    def patch(self, request: Request, rate_id: int) -> Response:
        """Change the fields sent. Of a rate that counts already, only `valid_until` and `note` can change."""
        with transaction.atomic():
            row = _row_or_404(rate_id, lock=True)
            sent = request.data
            if isinstance(sent, dict):
                sent = {**HardwareRateSerializer(row).data, **sent}
            _store(request, row, validated(HardwareRateSerializer, sent), CHANGE)
        return Response(HardwareRateSerializer(row).data)

    @extend_schema(responses={204: None})
    def delete(self, request: Request, rate_id: int) -> Response:
        """Delete a rate that does not count yet."""
        with transaction.atomic():
            row = _row_or_404(rate_id, lock=True)
            if row.has_begun():
                raise ErrorResponse(409, _("This rate counts already. Give it an end instead."))
            log_edit(request, row, DELETION)
            row.delete()
        return Response(status=status.HTTP_204_NO_CONTENT)


def _row_or_404(rate_id: int, *, lock: bool = False) -> HardwareRateRow:
    rows = HardwareRateRow.objects.select_for_update() if lock else HardwareRateRow.objects.all()
    row = rows.filter(pk=rate_id).first() if rate_id < 1 << 63 else None
    if row is None:
        raise NotFound(_("Rate not found"))
    return row


def _store(request: Request, row: HardwareRateRow, values: Any, flag: int) -> None:
    before = HardwareRateRow.objects.filter(pk=row.pk).first() if row.pk else None
    for name in _FIELDS:
        setattr(row, name, values[name])
    row.valid_from = row.valid_from or next_start()
    hardware_rules.normalise(row)
    refuse(hardware_rules.problems(row, before))
    try:
        with transaction.atomic():
            row.save()
            changed = [] if before is None else [it for it in _FIELDS if getattr(row, it) != getattr(before, it)]
            log_edit(request, row, flag, changed)
    except IntegrityError:  # another request was faster
        refuse([hardware_rules.same_start()])


URLS: list[tuple[str, Any, str]] = [
    ("api/hardware", HardwareMonth, "api-hardware"),
    ("api/hardware-rates", HardwareRateList, "api-hardware-rates"),
    ("api/hardware-rates/<int:rate_id>", HardwareRateDetail, "api-hardware-rate"),
]
