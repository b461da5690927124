"""The direct way in: one download is one session, one challenge and one signed profile."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import transaction

from enrollment import offering
from enrollment.core.payloads import encode
from enrollment.models import EnrollmentProfile, EnrollmentSession, Flow
from enrollment.offering import NotOffered, Offered

__all__ = ["NotOffered", "Offered", "offer"]


def offer(
    profile: EnrollmentProfile,
    *,
    remote_addr: str,
    user_agent: str,
    now: datetime,
    expected_serial_number: str = "",
    pre_approved: bool = False,
    signed: bool = True,
) -> Offered:
    """Start a session and make its profile: CMS SignedData with the chain, or the bare XML property list.

    The session, its one-time challenge and the profile come about together or not at all. Raises
    :class:`NotOffered`.
    """
    if not profile.allow_direct:
        raise NotOffered("the enrolment profile does not allow the direct way")
    given = offering.supplies(profile)
    lifetime = timedelta(minutes=profile.session_minutes)
    with transaction.atomic():
        session = EnrollmentSession.objects.create(
            profile=profile,
            flow=Flow.DIRECT,
            expected_serial_number=expected_serial_number,
            pre_approved=pre_approved,
            remote_addr=remote_addr[:45],
            user_agent=user_agent[:200],
            created_at=now,
            expires_at=now + lifetime,
        )
        content = offering.management_payloads(session, given, lifetime=lifetime, now=now)
        mobileconfig = offering.signed(content, now) if signed else encode(content)
    return Offered(session, mobileconfig)
