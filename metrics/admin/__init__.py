"""Registration of figures in the admin: columns of endpoints, the request history and roll-ups."""

from django.contrib import admin

from endpoints.admin_base import ENDPOINT_EXTENSIONS
from metrics.admin.daily import DailyStatAdmin
from metrics.admin.endpoint_figures import endpoint_figures
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
    DailyStat,
    DayRollUp,
    MinuteRollUp,
    MonthRollUp,
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
