"""Admin pages for users and API keys. A new key is shown once, in the response to its creation."""

from typing import Any, cast

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.models import ACTION_FLAG_CHOICES, LogEntry
from django.contrib.admin.utils import get_deleted_objects
from django.contrib.auth import password_validation
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.db.models import Exists, OuterRef, Q, QuerySet, TextField
from django.db.models.functions import Cast
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, pgettext_lazy

from access.keys.form import ApiKeyForm
from access.keys.rules import FIELDS
from access.keys.use import moment_of, with_last_use
from access.limits.rules import MAX_KEYS
from access.limits.tables import BudgetRow, LimitRow
from access.models import (
    DELETED,
    VIEW_BODIES,
    ApiKey,
    Role,
    User,
    new_key,
)
from access.sessions.account_page import end_of_user
from endpoints.admin_base import ONE_LINE, CarefulAdmin, CsvExport, FactsAdmin
from gateway.registry.limits import KEY_LEVEL

admin.site.unregister(Group)  # permissions depend on the role alone


class ExpiryFilter(admin.SimpleListFilter):
    title = gettext_lazy("expiry")
    parameter_name = "expiry"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return [("valid", gettext_lazy("Valid")), ("expired", gettext_lazy("Expired"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> QuerySet[ApiKey]:
        expired = Q(expires_at__lte=timezone.now())
        if self.value() == "expired":
            return queryset.filter(expired)
        return queryset.filter(Q(expires_at=None) | ~expired) if self.value() == "valid" else queryset


class LimitsFilter(admin.SimpleListFilter):
    title = gettext_lazy("limits")
    parameter_name = "limits"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return [("yes", gettext_lazy("With limits")), ("no", gettext_lazy("Without limits"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> QuerySet[ApiKey]:
        if self.value() not in ("yes", "no"):
            return queryset
        of_key = {"level": KEY_LEVEL, "subject_id": Cast(OuterRef("pk"), TextField())}
        limited = Exists(LimitRow.objects.filter(**of_key)) | Exists(BudgetRow.objects.filter(**of_key))
        return queryset.filter(limited if self.value() == "yes" else ~limited)


class LimitsLink(admin.ModelAdmin[Any]):
    """ModelAdmin with a link to the form of the limits of a key or user."""

    @admin.display(description=gettext_lazy("limits"))
    def limits_link(self, obj: ApiKey | User) -> str:
        name = "limits-key" if isinstance(obj, ApiKey) else "limits-user"
        return format_html('<a href="{}">{}</a>', reverse(name, args=[obj.pk]), _("Show and change"))


@admin.register(ApiKey)
class ApiKeyAdmin(LimitsLink, CsvExport[ApiKey], CarefulAdmin[ApiKey]):
    form = ApiKeyForm
    formfield_overrides = ONE_LINE
    list_display = (
        "name",
        "key_prefix",
        "created_by",
        "created_at",
        "expires_at",
        "last_used",
        "is_enabled",
        "is_restricted",
        "uses_external",
    )
    search_fields = (
        "name",
        "key_prefix",
        "created_by__username",
    )
    list_filter = (ExpiryFilter, LimitsFilter, "enabled", "external")
    list_select_related = ("created_by",)
    list_per_page = 50
    autocomplete_fields = ("created_by",)
    actions = ("enable", "disable", "change_limits", "export_csv")
    exported = (
        *("id", "name", "key_prefix", "created_by", "permissions", "external", "created_at", "expires_at"),
        *("enabled", "bulk", "rules"),
    )
    readonly_fields = (
        "key_prefix",
        "created_at",
        "replaced_until",
        "last_used",
        "limits_link",
    )

    def get_fieldsets(self, request: HttpRequest, obj: ApiKey | None = None) -> Any:
        fields = ["name", "created_by", "enabled", "permissions", "external", "bulk", "expires_at"]
        facts = ("limits_link", "key_prefix", "created_at", "replaced_until", "last_used")
        shown = fields if obj is None else [*fields, *facts]
        return [(None, {"fields": shown}), (gettext_lazy("Restrictions"), {"fields": FIELDS})]

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApiKey]:
        return with_last_use(super().get_queryset(request))

    @admin.display(description=gettext_lazy("last used"), empty_value="—")
    def last_used(self, obj: ApiKey) -> str | None:
        last_us: int | None = getattr(obj, "last_used_us", None)
        return None if last_us is None else timezone.localtime(moment_of(last_us)).strftime("%Y-%m-%d %H:%M:%S")

    @admin.display(description=gettext_lazy("enabled"), boolean=True, ordering="enabled")
    def is_enabled(self, obj: ApiKey) -> bool:
        return obj.enabled is not False

    @admin.display(description=gettext_lazy("restricted"), boolean=True)
    def is_restricted(self, obj: ApiKey) -> bool:
        return bool(obj.rules)

    @admin.action(description=gettext_lazy("Enable"), permissions=("change",))
    def enable(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        self._set_enabled(request, queryset, enabled=True)

    @admin.action(description=gettext_lazy("Disable"), permissions=("change",))
    def disable(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        self._set_enabled(request, queryset, enabled=False)

    @admin.action(description=gettext_lazy("Change or copy limits…"), permissions=("change",))
    def change_limits(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> HttpResponse | None:
        """Lead to the form of the limits of the chosen keys."""
        ids = [str(pk) for pk in queryset.values_list("pk", flat=True)[: MAX_KEYS + 1]]
        if len(ids) > MAX_KEYS:
            text = _("Choose at most %(most)d API keys.")
            self.message_user(request, text % {"most": MAX_KEYS}, messages.ERROR)
            return None
        return redirect(f"{reverse('limits-keys')}?ids={','.join(ids)}")

    def _set_enabled(self, request: HttpRequest, queryset: QuerySet[ApiKey], *, enabled: bool) -> None:
        for row in queryset:
            is_done = row.enabled is not False if enabled else row.enabled is False and row.disabled_by_admin
            if not is_done:  # one that its owner disabled is disabled once more
                row.save(update_fields=row.set_enabled(cast(User, request.user), enabled=enabled))
                self.log_change(request, row, _("Enabled.") if enabled else _("Disabled."))

    @admin.display(description=gettext_lazy("may use external endpoints"), boolean=True, ordering="external")
    def uses_external(self, obj: ApiKey) -> bool:
        return bool(obj.external)

    def get_changeform_initial_data(self, request: HttpRequest) -> Any:
        return {"created_by": request.user.pk, **super().get_changeform_initial_data(request)}

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        if not change:
            request.new_api_key = new_key()  # type: ignore[attr-defined]
            obj.set_key(request.new_api_key)  # type: ignore[attr-defined]
        if "enabled" in form.changed_data:
            obj.set_enabled(cast(User, request.user), enabled=form.cleaned_data["enabled"])
        super().save_model(request, obj, form, change)

    def response_add(self, request: HttpRequest, obj: ApiKey, post_url_continue: str | None = None) -> HttpResponse:
        """Show the key in this response only: no cookie and no redirect contains it."""
        context = {
            **self.admin_site.each_context(request),
            "title": _("API key created"),
            "opts": self.opts,
            "name": obj.name,
            "key": request.new_api_key,  # type: ignore[attr-defined]
        }
        response = TemplateResponse(request, "admin/api_key_created.html", context)
        response.headers["Cache-Control"] = "no-store"
        return response


class UserForm(forms.ModelForm[User]):
    new_password = forms.CharField(
        label=gettext_lazy("New password"),
        required=False,
        strip=False,
        widget=forms.PasswordInput(attrs={"class": "vTextField", "autocomplete": "new-password"}),
        help_text=gettext_lazy("Leave this empty to keep the stored value."),
    )

    view_bodies = forms.BooleanField(
        label=gettext_lazy("May see bodies of requests"),
        required=False,
        help_text=gettext_lazy(
            "Bodies of requests and responses, stored if ROUTERDASH_STORE_BODIES is set. "
            "Administrators may always view them. Each view is logged."
        ),
    )

    class Meta:
        model = User
        fields = ("username", "role", "must_change_password", "view_bodies")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Require a password for a new user, and list the password rules as its help text."""
        super().__init__(*args, **kwargs)
        if self.instance._state.adding:
            field = self.fields["new_password"]
            field.label = _("Password")
            field.required = True
            field.help_text = password_validation.password_validators_help_text_html()

    def clean_role(self) -> str:
        role: str = self.cleaned_data["role"]
        others = User.objects.filter(role=Role.ADMIN).exclude(pk=self.instance.pk)
        if self.instance.is_admin and role != Role.ADMIN and not others.exists():
            raise ValidationError(_("This is the last administrator."))
        return role

    def clean(self) -> dict[str, Any]:
        """Validate the password for the submitted role: the rules for administrators are stricter."""
        cleaned = super().clean() or self.cleaned_data
        if password := cleaned.get("new_password"):
            user = User(
                username=cleaned.get("username", self.instance.username), role=cleaned.get("role", self.instance.role)
            )
            try:
                password_validation.validate_password(password, user)
            except ValidationError as error:
                self.add_error("new_password", error)
        return cleaned


@admin.register(User)
class UserAdmin(LimitsLink, CsvExport[User], CarefulAdmin[User]):
    form = UserForm
    formfield_overrides = ONE_LINE
    fields = (
        "username",
        "role",
        "view_bodies",
        "new_password",
        "must_change_password",
    )
    readonly_fields = ("limits_link",)
    list_display = (
        "username",
        "role",
        "sees_bodies",
        "created_at",
        "last_login",
    )
    list_filter = ("role",)
    search_fields = ("username",)
    ordering = ("username",)
    list_per_page = 50
    actions = ("end_sessions", "export_csv")
    exported = ("id", "username", "role", "view_bodies", "created_at", "last_login", "must_change_password")

    def get_fields(self, request: HttpRequest, obj: User | None = None) -> Any:
        return self.fields if obj is None else [*(self.fields or ()), "limits_link"]

    @admin.display(description=gettext_lazy("may see bodies of requests"), boolean=True)
    def sees_bodies(self, obj: User) -> bool:
        return obj.has_perm(VIEW_BODIES)

    @admin.action(description=gettext_lazy("End all sessions"), permissions=("change",))
    def end_sessions(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        for user in queryset:
            if end_of_user(request, str(user.pk)):
                self.log_change(request, user, _("All sessions were ended."))

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        if password := form.cleaned_data["new_password"]:
            obj.set_password(password)
        super().save_model(request, obj, form, change)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Return the users and their API keys as the objects to delete.

        Django would also list the log entries of the users, but those are not deleted (access.signals).
        """
        chosen = list(objs)
        keys = ApiKey.objects.filter(created_by__in=chosen)
        deleted, counts, needed, kept = get_deleted_objects(keys, request, self.admin_site)
        if not all(self.has_delete_permission(request, user) for user in chosen):
            needed.add(str(self.opts.verbose_name))
        names = [f"{capfirst(str(self.opts.verbose_name))}: {user}" for user in chosen]
        all_counts: dict[Any, Any] = {self.opts.verbose_name_plural: len(chosen), **counts}
        return [*names, *deleted], all_counts, needed, kept

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        """Return False for the account that sends the request, so that at least one administrator remains."""
        allowed = super().has_delete_permission(request, obj) and obj != request.user
        return allowed and (obj is None or obj.username != DELETED)

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return super().has_change_permission(request, obj) and (obj is None or obj.username != DELETED)


@admin.register(LogEntry)
class LogAdmin(FactsAdmin[LogEntry]):
    """Log of the changes made in the admin."""

    list_display = ("at", "user", "action", "kind", "target", "details")
    list_filter = ("action_flag",)
    search_fields = ("object_repr", "user__username")
    list_select_related = ("user", "content_type")
    ordering = ("-id",)

    @admin.display(description=pgettext_lazy("date and time", "time"))
    def at(self, obj: LogEntry) -> str:
        return timezone.localtime(obj.action_time).strftime("%Y-%m-%d %H:%M:%S")

    @admin.display(description=gettext_lazy("action"))
    def action(self, obj: LogEntry) -> str:
        """Return the label of the action: one of Django's, or that for viewing bodies (metrics.admin)."""
        return str(dict(ACTION_FLAG_CHOICES).get(obj.action_flag, _("Viewed")))

    @admin.display(description=gettext_lazy("kind"))
    def kind(self, obj: LogEntry) -> str:
        return str(obj.content_type.name) if obj.content_type else ""

    @admin.display(description=gettext_lazy("name"))
    def target(self, obj: LogEntry) -> str:
        page = None if obj.is_deletion() else obj.get_admin_url()
        return format_html('<a href="{}">{}</a>', page, obj.object_repr) if page else str(obj.object_repr)

    @admin.display(description=gettext_lazy("details"))
    def details(self, obj: LogEntry) -> str:
        return str(obj.get_change_message())
