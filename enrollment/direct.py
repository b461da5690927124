"""The direct way in: one download is one session, one challenge and one signed profile."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import transaction

from enrollment import access, offering
from enrollment.access import Admission
from enrollment.core.payloads import encode
from enrollment.models import EnrollmentProfile, Flow
from enrollment.offering import NotOffered, Offered

__all__ = ["NotOffered", "Offered", "offer"]


def offer(
    profile: EnrollmentProfile,
    *,
    remote_addr: str,
    user_agent: str,
    now: datetime,
    admitted: Admission = access.ANYBODY,
    expected_serial_number: str = "",
    pre_approved: bool = False,
    signed: bool = True,
) -> Offered:
    """Start a session and make its profile: CMS SignedData with the chain, or the bare XML property list.

    ``admitted``: by what (:func:`enrollment.access.admission`). The session, its one-time challenge and the
    profile come about together or not at all. Raises :class:`NotOffered` where the server is not ready for
    it, :class:`enrollment.access.AccessRefused` where this person may not.
    """
    if not profile.allow_direct:
        raise NotOffered("the enrolment profile does not allow the direct way")
    given = offering.supplies(profile)
    lifetime = timedelta(minutes=profile.session_minutes)
    with transaction.atomic():
        session = access.new_session(
            profile,
            admitted,
            now=now,
            flow=Flow.DIRECT,
            expected_serial_number=expected_serial_number,
            pre_approved=pre_approved,
            remote_addr=remote_addr[:45],
            user_agent=user_agent[:200],
            expires_at=now + lifetime,
            told=given.told,
        )
        # Not before: the first signer is made when it is asked for, and who is refused changes nothing.
        by = offering.signer(now) if signed else None
        if by:
            session.told = given.told | {"signer": by.sha256}
            session.save(update_fields=["told"])
        content = offering.management_payloads(session, given, lifetime=lifetime, now=now)
        mobileconfig = offering.signed(content, now, by=by) if by else encode(content)
    return Offered(session, mobileconfig)
