"""The Celery application. Tasks carry ids; their work is rows in the database."""

from __future__ import annotations

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mdm_project.settings")

app = Celery("bramley")
app.set_default()
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

# Sweeps: they find whatever a lost broker or worker left behind. Twice at once does no harm.
app.conf.beat_schedule = {
    "push due": {"task": "push.tasks.sweep_due_pushes", "schedule": 5.0},
    "expire commands": {"task": "commands.tasks.expire_commands", "schedule": 60.0},
    "refresh inventory": {"task": "mdm.tasks.refresh_inventory", "schedule": 600.0},
    "publish CRLs": {"task": "pki.tasks.publish_crls", "schedule": 300.0},
    "expire sessions": {"task": "enrollment.tasks.expire_sessions", "schedule": 300.0},
}
