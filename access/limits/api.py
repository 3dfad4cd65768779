"""Views of /api/limits: the limits and budgets of API keys, of users, and of everyone."""

import uuid
from collections.abc import Sequence
from typing import Any

from django.db import IntegrityError
from django.utils.translation import gettext as _
from drf_spectacular.utils import OpenApiParameter
from rest_framework import status
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from access.directory import is_uuid
from access.limits.listed import LimitedSubjects
from access.limits.reading import Subject, read_limits
from access.limits.serializers import LimitsListSerializer, LimitsSerializer, limits_document
from access.limits.storing import InvalidLimits, store_limits, stored_limits
from access.models import ApiKey, User
from endpoints.api import ErrorResponse
from endpoints.lists import offset_pages
from endpoints.model_names.serializers import flat
from endpoints.openapi.descriptions import extend_schema
from gateway.registry.limits import EVERYONE_LEVEL, KEY_LEVEL, LEVELS, NO_LIMITS, USER_LEVEL

EVERYONE: Subject = (EVERYONE_LEVEL, "")
MANAGE_KEYS, MANAGE_USERS = "api_keys.manage", "users.manage"


class LimitsList(APIView):
    permission_needed = MANAGE_KEYS

    @extend_schema(
        operation_id="limits_list",
        parameters=[
            OpenApiParameter("level", enum=LEVELS, description="Only the limits of this level."),
            *offset_pages.PARAMETERS,
        ],
        responses=LimitsListSerializer,
    )
    def get(self, request: Request) -> Response:
        """List the limits of all subjects that have some, by level and id; those with budgets alone come last.

        Viewers get their own and everyone's.
        """
        level = request.query_params.get("level", "")
        if level and level not in LEVELS:
            raise ValidationError({"level": _("Choose one of %(names)s.") % {"names": ", ".join(LEVELS)}})
        user = _user(request)
        rows: Sequence[Subject] = LimitedSubjects(level)
        if not user.is_admin:
            rows = sorted(subject for subject in read_limits(_visible(user)) if level in ("", subject[0]))
        part, headers = offset_pages.part_of(request, rows)
        found, names = read_limits(part), subject_names(part)
        documents = [limits_document(one, names.get(one), found.get(one, NO_LIMITS)) for one in part]
        return Response({"limits": documents}, headers=headers)


class SubjectView(APIView):
    """A view of one subject with limits. Viewers may read their own."""

    level = EVERYONE_LEVEL

    def subject_for(self, request: Request, subject_id: str) -> Subject:
        """Return the subject. Raises NotFound if it does not exist, or is none of the user's own."""
        subject = (self.level, subject_id)
        user = _user(request)
        known = subject == EVERYONE or subject in subject_names([subject])
        if not known or not (user.is_admin or subject in _visible(user)):
            raise NotFound(_("There is no API key or user with this id."))
        return subject


class _LimitsDetail(SubjectView):
    """The limits of one subject."""

    def _get(self, request: Request, subject_id: str) -> Response:
        return _response(self.subject_for(request, subject_id))

    def _put(self, request: Request, subject_id: str) -> Response:
        subject = self.subject_for(request, subject_id)
        serializer = LimitsSerializer(data=request.data)
        if not serializer.is_valid():
            raise ValidationError(flat(serializer.errors))
        try:
            store_limits(request, subject, serializer.facts())
        except InvalidLimits as error:
            fields: dict[str, list[str]] = {}
            for problem in error.problems:
                fields.setdefault(problem.place, []).append(problem.text)
            raise ValidationError(fields) from None
        except IntegrityError:
            raise ErrorResponse(409, _("The limits were saved by somebody else at the same time.")) from None
        return _response(subject)

    def _delete(self, request: Request, subject_id: str) -> Response:
        store_limits(request, self.subject_for(request, subject_id), NO_LIMITS)
        return Response(status=status.HTTP_204_NO_CONTENT)


class LimitsOfKey(_LimitsDetail):
    level = KEY_LEVEL
    permission_needed = MANAGE_KEYS

    @extend_schema(operation_id="limits_key_retrieve", responses=LimitsSerializer)
    def get(self, request: Request, subject: uuid.UUID) -> Response:
        """Return the limits and budgets of an API key. Without any, all limits are null."""
        return self._get(request, str(subject))

    @extend_schema(operation_id="limits_key_update", request=LimitsSerializer, responses=LimitsSerializer)
    def put(self, request: Request, subject: uuid.UUID) -> Response:
        """Replace the limits and budgets of an API key. They are in effect everywhere when the response arrives."""
        return self._put(request, str(subject))

    @extend_schema(operation_id="limits_key_destroy", responses={204: None})
    def delete(self, request: Request, subject: uuid.UUID) -> Response:
        """Delete the limits and budgets of an API key."""
        return self._delete(request, str(subject))


class LimitsOfUser(_LimitsDetail):
    level = USER_LEVEL
    permission_needed = MANAGE_USERS

    @extend_schema(operation_id="limits_user_retrieve", responses=LimitsSerializer)
    def get(self, request: Request, subject: uuid.UUID) -> Response:
        """Return the limits and budgets of a user, with all keys together."""
        return self._get(request, str(subject))

    @extend_schema(operation_id="limits_user_update", request=LimitsSerializer, responses=LimitsSerializer)
    def put(self, request: Request, subject: uuid.UUID) -> Response:
        """Replace the limits and budgets of a user. They are in effect everywhere when the response arrives."""
        return self._put(request, str(subject))

    @extend_schema(operation_id="limits_user_destroy", responses={204: None})
    def delete(self, request: Request, subject: uuid.UUID) -> Response:
        """Delete the limits and budgets of a user."""
        return self._delete(request, str(subject))


class LimitsOfEveryone(_LimitsDetail):
    permission_needed = MANAGE_KEYS

    @extend_schema(operation_id="limits_everyone_retrieve", responses=LimitsSerializer)
    def get(self, request: Request) -> Response:
        """Return the limits and budgets of everyone, over all keys together."""
        return self._get(request, "")

    @extend_schema(operation_id="limits_everyone_update", request=LimitsSerializer, responses=LimitsSerializer)
    def put(self, request: Request) -> Response:
        """Replace the limits and budgets of everyone. They are in effect everywhere when the response arrives."""
        return self._put(request, "")

    @extend_schema(operation_id="limits_everyone_destroy", responses={204: None})
    def delete(self, request: Request) -> Response:
        """Delete the limits and budgets of everyone."""
        return self._delete(request, "")


def subject_names(subjects: list[Subject]) -> dict[Subject, str]:
    """Return the names of those keys and users that exist. Raises django.db.Error."""
    found: dict[Subject, str] = {}
    for level, model, column in ((KEY_LEVEL, ApiKey, "name"), (USER_LEVEL, User, "username")):
        ids = [subject_id for of_level, subject_id in subjects if of_level == level and is_uuid(subject_id)]
        if ids:
            rows = model.objects.filter(pk__in=ids).values_list("pk", column)
            found |= {(level, str(pk)): name for pk, name in rows}
    return found


def _visible(user: User) -> list[Subject]:
    """Return the subjects whose limits a viewer may read."""
    keys = ApiKey.objects.filter(created_by=user.pk).values_list("pk", flat=True)
    return [EVERYONE, (USER_LEVEL, str(user.pk)), *((KEY_LEVEL, str(pk)) for pk in keys)]


def _response(subject: Subject) -> Response:
    name = subject_names([subject]).get(subject)
    return Response(limits_document(subject, name, stored_limits(subject)))


def _user(request: Request) -> User:
    assert isinstance(request.user, User)  # the permission check guarantees it
    return request.user


URLS: list[tuple[str, Any, str]] = [
    ("api/limits", LimitsList, "api-limits"),
    ("api/limits/everyone", LimitsOfEveryone, "api-limits-everyone"),
    ("api/limits/key/<uuid:subject>", LimitsOfKey, "api-limits-key"),
    ("api/limits/user/<uuid:subject>", LimitsOfUser, "api-limits-user"),
]
