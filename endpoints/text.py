"""Validation of texts that people enter, which are shown on pages, exported, and written into logs."""

import re

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

# Control characters, line separators, and marks that change the direction of the text after them.
_NEVER = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069"
_not_in_text = re.compile(f"[{_NEVER}]").search
_not_in_line = re.compile(f"[{_NEVER}\t\n\r]").search


def validate_line(text: str) -> None:
    """Validate a name or tag. Raises ValidationError."""
    if _not_in_line(text):
        raise ValidationError(_("Line breaks and control characters are not allowed."), code="control_characters")


def validate_text(text: str) -> None:
    """Validate notes, which may have several lines. Raises ValidationError."""
    if _not_in_text(text):
        raise ValidationError(_("Control characters are not allowed."), code="control_characters")
