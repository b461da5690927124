"""What a web process carries for as long as it lives: only what its pages need, and few connections."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from django.core.cache import caches
from django.test import override_settings

from tests.support.server import ROOT

LATER = ("authlib", "joserfc", "OpenSSL")
"""Imported where the one page that needs them is served."""

PROGRAM = f"""
import sys, mdm_project.wsgi
from django.urls import get_resolver
get_resolver().reverse_dict
print(sorted(set({LATER!r}) & set(sys.modules)))
"""


def test_libraries_of_single_pages_are_not_loaded_at_the_start(tmp_path: Path) -> None:
    environment = os.environ | {
        "BRAMLEY_HOME": str(tmp_path),
        "DJANGO_SETTINGS_MODULE": "mdm_project.settings",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr[-2000:]


@override_settings(
    CACHES={
        "default": {
            "BACKEND": "mdm_project.shared_cache.SharedRedisCache",
            "LOCATION": "redis://127.0.0.1:1/0",
        }
    }
)
def test_the_threads_of_a_process_share_the_connections_of_the_cache() -> None:
    def mine() -> tuple[object, object]:
        cache: Any = caches["default"]
        return cache, cache._cache

    here = mine()
    with ThreadPoolExecutor(1) as pool:
        elsewhere = pool.submit(mine).result()
    assert here[0] is not elsewhere[0]  # Django makes one for each thread
    assert here[1] is elsewhere[1]
