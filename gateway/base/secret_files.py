"""Secrets among the settings: each may be in a file that a second variable names."""

from collections.abc import Mapping
from pathlib import Path

FILE = "_FILE"  # suffix of a secret's variable that names a file with the secret


def read(name: str, raw: str, environ: Mapping[str, str]) -> str:
    """Return `raw`, or the content of the file that NAME_FILE names, without surrounding space.

    Raises ValueError, whose text is for the person who starts RouterDash.
    """
    variable = name + FILE
    named = environ.get(variable, "").strip()
    if not named:
        return raw
    if raw:
        raise ValueError(f"{name} and {variable} are both set; unset one of them")
    try:
        path = Path(named).expanduser()
        if not path.is_file():  # each process reads it again, which a pipe does not allow
            raise ValueError(f"{variable} must name a readable file, not {named!r}")
        content = path.read_text().strip()
    except OSError as error:
        raise ValueError(f"{variable} names {named!r}, which cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, RuntimeError):  # the file contains no text, or the user does not exist
        raise ValueError(f"{variable} must name a text file, not {named!r}") from None
    if not content:
        raise ValueError(f"{variable} names {named!r}, which is empty")
    return content
