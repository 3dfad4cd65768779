"""Views of /api/limits: the limits and budgets of API keys, of users, and of everyone."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

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
from access.limits.reading import read_limits
from access.limits.serializers import LimitsListSerializer, LimitsSerializer, limits_document
from access.limits.storing import InvalidLimits, store_limits, stored_limits
from access.models import MANAGE_KEYS, MANAGE_USERS, ApiKey, User
from endpoints.api import ErrorResponse
from endpoints.lists import offset_pages
from endpoints.openapi.descriptions import extend_schema
from endpoints.problems import texts_by_place
from gateway.registry.limits import EVERYONE_LEVEL, KEY_LEVEL, LEVELS, NO_LIMITS, USER_LEVEL, Subject

EVERYONE: Subject = (EVERYONE_LEVEL, "")


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
        limits, names = read_limits(part), subject_names(part)
        documents = [limits_document(one, names.get(one), limits.get(one, NO_LIMITS)) for one in part]
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


class LevelView(NamedTuple):
    """What the views of one level differ in."""

    level: str
    permission: str
    subject: str  # in descriptions of operations
    keys: str  # which keys count for it


LEVEL_VIEWS = (
    LevelView(EVERYONE_LEVEL, MANAGE_KEYS, "everyone", ", over all keys together"),
    LevelView(KEY_LEVEL, MANAGE_KEYS, "an API key", ""),
    LevelView(USER_LEVEL, MANAGE_USERS, "a user", ", with all keys together"),
)


def _limits_of(described: LevelView) -> type[SubjectView]:
    """Return the view of the limits of one subject of a level."""

    class LimitsDetail(SubjectView):
        level = described.level
        permission_needed = described.permission

        @extend_schema(
            operation_id=f"limits_{level}_retrieve",
            description=f"Return the limits and budgets of {described.subject}{described.keys}. "
            "Without any, all limits are null.",
            responses=LimitsSerializer,
        )
        def get(self, request: Request, subject: uuid.UUID | str = "") -> Response:
            return _response(self.subject_for(request, str(subject)))

        @extend_schema(
            operation_id=f"limits_{level}_update",
            description=f"Replace the limits and budgets of {described.subject}. "
            "They are in effect everywhere when the response arrives.",
            request=LimitsSerializer,
            responses=LimitsSerializer,
        )
        def put(self, request: Request, subject: uuid.UUID | str = "") -> Response:
            changed = self.subject_for(request, str(subject))
            serializer = LimitsSerializer(data=request.data)
            if not serializer.is_valid():
                raise ValidationError(texts_by_place(serializer.errors))
            try:
                store_limits(request, changed, serializer.facts())
            except InvalidLimits as error:
                fields: dict[str, list[str]] = {}
                for problem in error.problems:
                    fields.setdefault(problem.place, []).append(problem.text)
                raise ValidationError(fields) from None
            except IntegrityError:
                raise ErrorResponse(409, _("The limits were saved by somebody else at the same time.")) from None
            return _response(changed)

        @extend_schema(
            operation_id=f"limits_{level}_destroy",
            description=f"Delete the limits and budgets of {described.subject}.",
            responses={204: None},
        )
        def delete(self, request: Request, subject: uuid.UUID | str = "") -> Response:
            store_limits(request, self.subject_for(request, str(subject)), NO_LIMITS)
            return Response(status=status.HTTP_204_NO_CONTENT)

    return LimitsDetail


def subject_names(subjects: list[Subject]) -> dict[Subject, str]:
    """Return the names of those keys and users that exist. Raises django.db.Error."""
    names: dict[Subject, str] = {}
    for level, model, column in ((KEY_LEVEL, ApiKey, "name"), (USER_LEVEL, User, "username")):
        ids = [subject_id for of_level, subject_id in subjects if of_level == level and is_uuid(subject_id)]
        if ids:
            rows = model.objects.filter(pk__in=ids).values_list("pk", column)
            names |= {(level, str(pk)): name for pk, name in rows}
    return names


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


def level_urls(view_of: Callable[[LevelView], type[SubjectView]]) -> Iterator[tuple[str, type[SubjectView], str]]:
    """Yield a URL for each level: route, view, name."""
    for described in LEVEL_VIEWS:
        subject = "" if described.level == EVERYONE_LEVEL else "/<uuid:subject>"
        yield f"api/limits/{described.level}{subject}", view_of(described), f"api-limits-{described.level}"


URLS: list[tuple[str, Any, str]] = [("api/limits", LimitsList, "api-limits"), *level_urls(_limits_of)]
