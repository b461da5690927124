"""The Celery application. Tasks carry ids; their work is rows in the database."""

from __future__ import annotations

import os

import mdm_project.embedded_broker  # noqa: F401  # names the transport of the embedded broker
from mdm_project.imports import without

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mdm_project.settings")

with without("greenlet"):  # Celery asks it which thread runs, where it is installed; none of ours is green
    from celery import Celery

    app = Celery("bramley")
app.set_default()
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

# Sweeps: they find whatever a lost broker or worker left behind. Twice at once does no harm; what no worker
# took before the next one is due is dropped.
SWEEPS: dict[str, tuple[str, float]] = {
    "push due": ("push.tasks.sweep_due_pushes", 5.0),
    "warn of expiring push certificates": ("push.tasks.warn_of_expiry", 900.0),
    "expire commands": ("commands.tasks.expire_commands", 60.0),
    "refresh inventory": ("mdm.tasks.refresh_inventory", 600.0),
    "publish CRLs": ("pki.tasks.publish_crls", 300.0),
    "renew OCSP responders": ("pki.tasks.renew_ocsp_responders", 3600.0),
    "activate due issuer keys": ("pki.tasks.activate_due_keys", 60.0),
    "settle revoked issuers": ("pki.tasks.settle_revoked_issuers", 300.0),
    "advance re-key campaigns": ("renewal.tasks.advance_campaigns", 15.0),
    "renew identities": ("renewal.tasks.renew_due", 300.0),
    "settle renewals": ("renewal.tasks.settle_renewals", 60.0),
    "expire sessions": ("enrollment.tasks.expire_sessions", 300.0),
    "lapse SCEP requests": ("scep.tasks.lapse_requests", 300.0),
    "renew RA certificates": ("scep.tasks.renew_ra_certificates", 3600.0),
    "remove what is old": ("mdm_project.tasks.remove_what_is_old", 3 * 3600.0),
}
app.conf.beat_schedule = {
    name: {"task": task, "schedule": seconds, "options": {"expires": seconds}}
    for name, (task, seconds) in SWEEPS.items()
}
