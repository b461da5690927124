"""What a web process carries for as long as it lives: only what its pages need, and few connections."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import caches
from django.test import override_settings

from mdm_project.imports import without
from tests.support.server import ROOT

LATER = ("authlib", "joserfc", "OpenSSL", "requests")
"""Imported where the one page that needs them is served."""
OF_WORKERS = ("aioapns", "h2", "jwt", "push.client", "push.tasks")
UNUSED = ("greenlet", "markdown", "pygments", "urllib3")
"""What libraries import where it is installed, and only for what is not used here."""

PROGRAM = f"""
import sys, mdm_project.wsgi
from django.urls import get_resolver
from push import waking
get_resolver().reverse_dict
waking.ring()
waking.flush()
print(sorted(set({LATER + OF_WORKERS + UNUSED!r}) & set(sys.modules)))
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


def test_what_is_hidden_is_absent_only_meanwhile() -> None:
    sys.modules.pop("this", None)
    with without("this", "json"):
        with pytest.raises(ImportError):
            importlib.import_module("this")
        assert importlib.import_module("json") is json, "what is loaded stays"
    assert "this" not in sys.modules
    assert sys.modules["json"] is json


def test_what_is_hidden_comes_back_after_a_fault() -> None:
    with pytest.raises(ZeroDivisionError), without("this"):
        raise ZeroDivisionError
    assert "this" not in sys.modules


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
