"""Registration of figures in the admin: columns of endpoints, the request history, roll-ups and prices."""

from django.contrib import admin

from endpoints.admin_base import ENDPOINT_EXTENSIONS
from metrics.admin.daily import DailyStatAdmin
from metrics.admin.endpoint_figures import endpoint_figures
from metrics.admin.hardware import HardwareRateAdmin
from metrics.admin.prices import CurrencyRateAdmin, PriceRowAdmin
from metrics.admin.requests import RequestHistoryAdmin
from metrics.admin.rollups import (
    AllClientsAdmin,
    ClientDayAdmin,
    ClientHourAdmin,
    DayRollUpAdmin,
    MinuteRollUpAdmin,
    MonthRollUpAdmin,
)
from metrics.models import (
    AllClientsRollUp,
    ClientDayRollUp,
    ClientHourRollUp,
    CurrencyRate,
    DailyStat,
    DayRollUp,
    HardwareRateRow,
    MinuteRollUp,
    MonthRollUp,
    PriceRow,
    RequestHistory,
)

ENDPOINT_EXTENSIONS.append(endpoint_figures)

admin.site.register(DailyStat, DailyStatAdmin)
admin.site.register(RequestHistory, RequestHistoryAdmin)
admin.site.register(MinuteRollUp, MinuteRollUpAdmin)
admin.site.register(DayRollUp, DayRollUpAdmin)
admin.site.register(MonthRollUp, MonthRollUpAdmin)
admin.site.register(ClientHourRollUp, ClientHourAdmin)
admin.site.register(ClientDayRollUp, ClientDayAdmin)
admin.site.register(AllClientsRollUp, AllClientsAdmin)
admin.site.register(PriceRow, PriceRowAdmin)
admin.site.register(CurrencyRate, CurrencyRateAdmin)
admin.site.register(HardwareRateRow, HardwareRateAdmin)
