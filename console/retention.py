"""Sign-ins of people that are over."""

from __future__ import annotations

from django.contrib.sessions.models import Session

from audit.retention import Sweep, remove


def remove_ended_sign_ins(sweep: Sweep) -> int:
    """Sessions of browsers whose time is over."""
    return remove("ended sign-ins", Session.objects.filter(expire_date__lt=sweep.before), sweep)
