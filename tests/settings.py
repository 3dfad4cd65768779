"""The product's settings on a data directory of the tests; SQLite files, or PostgreSQL by ROUTERDASH_TEST_DATABASE."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

DATA_DIR = Path(tempfile.mkdtemp(prefix="routerdash-tests-"))
atexit.register(shutil.rmtree, DATA_DIR, ignore_errors=True)

for name in [name for name in os.environ if name.startswith("ROUTERDASH_") and name != "ROUTERDASH_TEST_DATABASE"]:
    del os.environ[name]
os.environ["ROUTERDASH_DATA_DIR"] = str(DATA_DIR)
os.environ["ROUTERDASH_TIME_ZONE"] = "UTC"
os.environ["DATABASE_URL"] = os.environ.get("ROUTERDASH_TEST_DATABASE", "")

from routerdash.settings import *  # noqa: E402, F403
from routerdash.settings import DATABASES  # noqa: E402

PASSWORD_HASHERS = ["tests.hashers.QuickBcrypt"]
# Each test's client would list all static files at its first request, a third of the time of a short test.
SERVESTATIC_USE_FINDERS = SERVESTATIC_USE_STATIC_ROOT = False
if not os.environ["DATABASE_URL"]:
    DATABASES["default"]["NAME"] = str(DATA_DIR / "main.sqlite3")
    DATABASES["default"]["TEST"] = {"NAME": str(DATA_DIR / "test.sqlite3")}
