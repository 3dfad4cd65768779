"""Views of /api/hardware and /api/hardware-rates."""

import re
import time
from typing import Any

from django.conf import settings
from django.contrib.admin.models import DELETION
from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _
from drf_spectacular.utils import OpenApiParameter
from rest_framework import status
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from endpoints.api import ErrorResponse
from endpoints.lists import offset_pages
from endpoints.openapi.descriptions import extend_schema
from metrics.costs.edits import assign, changed_values, log_edit, refuse, row_or_404, save, validated
from metrics.costs.tables import next_start
from metrics.hardware import rules as hardware_rules
from metrics.hardware.month import HardwareMonthPayload, comparison_price, hardware_month
from metrics.hardware.serializers import (
    HardwareRateListSerializer,
    HardwareRateSerializer,
)
from metrics.models import HardwareRateRow
from metrics.queries.figures import Moment
from metrics.queries.stored import flushed

MONTH = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")
_FIELDS = tuple(name for name, field in HardwareRateSerializer().fields.items() if not field.read_only)


class HardwareMonth(APIView):
    @extend_schema(
        operation_id="hardware_month",
        parameters=[
            OpenApiParameter("month", description="Such as 2026-11. Without it: the present month."),
            OpenApiParameter("model", description="Model of a price to compare with."),
            OpenApiParameter("cloud", description="Its type of endpoint, such as openai. Without it: any."),
        ],
        responses=HardwareMonthPayload,
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
        return Response(hardware_month(month, now, settings.ROUTERDASH.zone, price=price, model=model))


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
        _store(request, row, validated(HardwareRateSerializer, request.data))
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
            _store(request, row, changed_values(HardwareRateSerializer, row, request.data))
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
    return row_or_404(rows, rate_id, _("Rate not found"))


def _store(request: Request, row: HardwareRateRow, values: Any) -> None:
    before = assign(row, values, _FIELDS)
    row.valid_from = row.valid_from or next_start()
    hardware_rules.normalise(row)
    refuse(hardware_rules.problems(row, before))
    try:
        save(request, row, before, _FIELDS)
    except IntegrityError:  # another request was faster
        refuse([hardware_rules.same_start()])


URLS: list[tuple[str, Any, str]] = [
    ("api/hardware", HardwareMonth, "api-hardware"),
    ("api/hardware-rates", HardwareRateList, "api-hardware-rates"),
    ("api/hardware-rates/<int:rate_id>", HardwareRateDetail, "api-hardware-rate"),
]
