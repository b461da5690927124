"""The profile that renews one device's identity, made when the device fetches its command.

It is the enrolment profile that the device has, told once more: the same identifier, and everything that an
update must not change as the device was given it (apple-mdm 2.5). New are the SCEP payload, with a challenge
that works once, and the CA certificates of today.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from audit.recording import SERVER
from commands.queue import CannotBeFilled, Filling
from devices.models import Enrollment
from enrollment import offering
from enrollment.core.payloads import Payload, management_profile
from enrollment.models import EnrollmentSession
from enrollment.offering import NotOffered
from pki import issuers, server_tls
from pki.models import IssuerState, Purpose
from renewal.generations import still_trusted
from renewal.models import OPEN_RENEWALS, IdentityRenewal, RenewalState
from scep import challenges
from scep.models import Challenge

LIFETIME = timedelta(hours=1)
"""How long the challenge works. The device asks for its certificate while it installs the profile."""


def fill(filling: Filling, command: Mapping[str, Any]) -> Mapping[str, Any]:
    """InstallProfile with the device's own profile; a :data:`commands.queue.Filler`."""
    renewal = IdentityRenewal.objects.filter(
        enrollment=filling.enrollment, command__uuid=filling.command_uuid, state__in=OPEN_RENEWALS
    ).first()
    if renewal is None:
        raise CannotBeFilled("the device has its new certificate already, or the renewal was ended")
    profile = _profile(renewal, filling.enrollment, filling.now)
    IdentityRenewal.objects.filter(pk=renewal.pk, state=RenewalState.PLANNED).update(
        state=RenewalState.SENT, sent_at=filling.now
    )
    return {**command, "Payload": profile}


def _profile(renewal: IdentityRenewal, enrollment: Enrollment, now: datetime) -> bytes:
    """Signed, as the enrolment profile was."""
    session = (
        EnrollmentSession.objects.select_related("profile__issuer").filter(uuid=enrollment.binding).first()
        if enrollment.binding
        else None
    )
    if session is None:
        raise CannotBeFilled("the enrolment profile by which the device enrolled is gone")
    issuer = session.profile.issuer
    if issuer.state != IssuerState.ACTIVE:
        raise CannotBeFilled(
            f"the issuer {issuer.slug} issues nothing: choose another in “{session.profile}”"
        )
    _withdraw_earlier(session, now)
    try:
        return offering.signed(update_of(session, renewal, topic=enrollment.topic, now=now), now)
    except (NotOffered, issuers.IssuerMissing) as missing:
        raise CannotBeFilled(str(missing)) from missing


def update_of(session: EnrollmentSession, renewal: IdentityRenewal, *, topic: str, now: datetime) -> Payload:
    """The profile of the session again, with another identity. Mints the challenge.

    Raises :class:`pki.issuers.IssuerMissing`.
    """
    issuer, tls_roots = session.profile.issuer, server_tls.anchors()
    return management_profile(
        profile_uuid=session.profile.payload_uuid,
        session_uuid=session.uuid,
        texts=offering.texts_of(session.profile),
        chain=issuers.chain(issuer),
        also_trusted=[*still_trusted(issuer), *([root] for root in tls_roots)],
        identity=offering.new_identity(session, Purpose.MDM_IDENTITY, lifetime=LIFETIME, now=now),
        identity_part=f"scep {renewal.uuid}",
        addresses=offering.addresses_told(session),
        management=offering.management_told(session, topic=topic, tls_roots=tls_roots),
    )


def _withdraw_earlier(session: EnrollmentSession, now: datetime) -> None:
    """One challenge at a time: what was handed out before and not used does not work any more."""
    unused = Challenge.objects.filter(
        binding=session.uuid, purpose=Purpose.MDM_IDENTITY, consumed_at=None, expires_at__gt=now
    )
    for challenge in unused:
        challenges.withdraw(challenge, actor=SERVER, now=now)
