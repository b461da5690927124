"""Attempts to enrol that came to nothing, and are old."""

from __future__ import annotations

from django.db.models import Exists, OuterRef

from audit.retention import Sweep, remove, unreferenced
from enrollment.models import EnrollmentSession, SessionState
from pki.models import Certificate, CertificateStatus


def remove_old_sessions(sweep: Sweep) -> int:
    """Sessions that failed or expired. One whose certificate could still be shown stays: it says no to it.

    Those that are complete stay as long as their profile: they say who enrolled, and what a device was told.
    """
    usable = Certificate.objects.filter(
        binding=OuterRef("uuid"), status=CertificateStatus.ISSUED, not_after__gt=sweep.now
    )
    ended = EnrollmentSession.objects.filter(
        state__in=(SessionState.FAILED, SessionState.EXPIRED),
        created_at__lt=sweep.before,
        updated_at__lt=sweep.before,
        expires_at__lt=sweep.before,
    )
    return remove("enrolment sessions", unreferenced(ended.exclude(Exists(usable))), sweep)
