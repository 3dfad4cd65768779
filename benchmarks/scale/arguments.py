"""Arguments that several measurements of large installations have."""

import argparse

_OPTIONS = {
    "endpoints": "endpoints",
    "models": "models of each endpoint",
    "keys": "API keys",
    "workers": "gateway processes",
}


def parser(description: str | None, **defaults: int) -> argparse.ArgumentParser:
    """Return a parser with --database and --quick, and with those of _OPTIONS that have a default here."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in defaults.items():
        made.add_argument(f"--{name}", type=int, default=default, help=_OPTIONS[name])
    made.add_argument("--database", default="", help="URL of a PostgreSQL server (default: SQLite)")
    made.add_argument("--quick", action="store_true", help="a small installation: checks only that this works")
    return made
