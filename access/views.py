"""Login, logout, and the page that changes a password."""

import os

from django.conf import settings
from django.contrib.auth import views as auth_views
from django.contrib.auth.forms import PasswordChangeForm
from django.http import HttpResponse
from django.urls import reverse_lazy


class Login(auth_views.LoginView):
    template_name = "login.html"
    redirect_authenticated_user = True


class Logout(auth_views.LogoutView):
    """POST only, as Django has it: a link on another page must not log anybody out."""


class PasswordChange(auth_views.PasswordChangeView):
    template_name = "password.html"
    success_url = reverse_lazy("overview")

    def form_valid(self, form: PasswordChangeForm) -> HttpResponse:
        """The file that held a generated password is of no use any more."""
        form.user.must_change_password = False
        response = super().form_valid(form)
        try:
            os.unlink(settings.ROUTERDASH.data_dir / "initial-password")
        except FileNotFoundError:
            pass
        return response
