"""Keeping certificate profiles, each change with what was and what is from now on in the record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import transaction

from audit.recording import Actor, record
from pki.models import CertificateProfile

_ABOUT = ("purpose", "issuer", "created_at", "updated_at", "id")


def save(profile: CertificateProfile, changed: Sequence[str], *, new: bool, actor: Actor) -> None:
    """Keep ``profile``. ``changed``: the names of its fields that are other than they were; none, no act."""
    if not new and not changed:
        return
    with transaction.atomic():
        if new:
            names = [field.name for field in profile._meta.fields if field.name not in _ABOUT]
            details: dict[str, Any] = {name: getattr(profile, name) for name in names}
        else:
            before = CertificateProfile.objects.values(*changed).get(pk=profile.pk)
            details = {n: {"before": before[n], "after": getattr(profile, n)} for n in changed}
        profile.save()
        action = "certificate_profile.added" if new else "certificate_profile.changed"
        record(action, actor=actor, target=profile, details=details)


def remove(profile: CertificateProfile, *, actor: Actor) -> None:
    """What holds without it holds from now on."""
    with transaction.atomic():
        record("certificate_profile.removed", actor=actor, target=profile)
        profile.delete()
