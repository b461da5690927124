"""WSGI entry point: both doors."""

from __future__ import annotations

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mdm_project.settings")
django.setup(set_prefix=False)

from mdm_project.doors import Doors  # noqa: E402

application = Doors()
