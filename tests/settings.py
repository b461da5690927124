"""The product's settings for the tests: a home of their own, and what only makes tests slow taken away."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

_home = Path(tempfile.mkdtemp(prefix="bramley-tests-"))
atexit.register(shutil.rmtree, _home, ignore_errors=True)
os.environ["BRAMLEY_HOME"] = str(_home)

from mdm_project.settings import *  # noqa: E402, F403

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

if DATABASES["default"]["ENGINE"].endswith("sqlite3"):  # noqa: F405
    # A file, not Django's shared memory: threads then wait for each other as they do in the product.
    DATABASES["default"]["TEST"] = {"NAME": str(_home / "test.sqlite3")}  # noqa: F405
    _options = DATABASES["default"]["OPTIONS"]  # noqa: F405
    _options["init_command"] = _options["init_command"].replace("synchronous=FULL", "synchronous=OFF")
else:
    # Threads of tests end without giving connections back to a pool; the running server is tested with it.
    del DATABASES["default"]["OPTIONS"]["pool"]  # noqa: F405

if REDIS_URL:  # noqa: F405
    # Clearing the cache empties its whole database: the parallel processes of a run have one each.
    _worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    CACHES["default"]["LOCATION"] = f"{REDIS_URL.rpartition('/')[0]}/{int(_worker) + 1}"  # noqa: F405
