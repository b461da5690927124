"""Attempts to enrol that came to nothing, and are old."""

from __future__ import annotations

from django.db.models import Exists, OuterRef

from audit.retention import Sweep, remove, unreferenced
from devices.models import Channel, Enrollment
from enrollment.models import EnrollmentSession, SessionState
from pki.models import Certificate, CertificateStatus


def remove_old_sessions(sweep: Sweep) -> int:
    """Sessions that failed or expired. One whose certificate could still be shown stays: it says no to it.

    So does one whose device is under management all the same, as one that was held until the session's time
    was over, and then admitted: by it are known the profile that the device has, and how it is renewed.

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
    living = Enrollment.objects.filter(binding=OuterRef("uuid"), channel=Channel.DEVICE, ended_at=None)
    ended = ended.exclude(Exists(usable)).exclude(Exists(living))
    return remove("enrolment sessions", unreferenced(ended), sweep)
