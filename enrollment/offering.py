"""What every way in gives a device in the end: the profile that brings it under management.

Whether an enrolment profile can offer anything, whose certificate the device will get, and the signature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.utils.translation import gettext as _

from enrollment.core.payloads import (
    Addresses,
    Identity,
    Management,
    Payload,
    Texts,
    encode,
    management_profile,
)
from enrollment.models import EnrollmentProfile, EnrollmentSession
from enrollment.texts import in_language, payloads_in_language
from enrollment.topic import topic_of
from pki import issuers, server_tls, signing
from pki.core.names import DEFAULT_MAX_VALUE, Name, NameRefused, verify_name_value
from pki.issuance import IssuanceRefused
from pki.models import IssuerState, Purpose
from pki.signing import Signer
from scep.challenges import create_challenge

# One day is the shortest that a certificate is issued for; the enrolment is over in a minute.
OTA_IDENTITY_DAYS = 1
_NAMES = {
    Purpose.MDM_IDENTITY: "Bramley device",
    Purpose.OTA_IDENTITY: "Bramley enrolment",
}


class NotOffered(Exception):
    """The profile does not let anybody in this way; ``reason`` is for the administrator."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Offered:
    """A download: the session that the device will be known by, and the bytes of the ``.mobileconfig``."""

    session: EnrollmentSession
    mobileconfig: bytes


@dataclass(frozen=True)
class Supplies:
    """What an enrolment profile needs before it can offer anything: push topic, and the issuer's chain.

    ``tls_roots``: what the device has to trust besides, to believe the server's TLS.
    """

    chain: list[bytes]
    management: Management
    addresses: Addresses
    tls_roots: list[bytes]

    @property
    def told(self) -> dict[str, Any]:
        """What :attr:`EnrollmentSession.told` keeps: an update of the profile has to say the same."""
        return {
            "access_rights": self.management.access_rights,
            "check_out_when_removed": self.management.check_out_when_removed,
            "server": self.addresses.server,
            "check_in": self.addresses.check_in,
        }


def supplies(profile: EnrollmentProfile) -> Supplies:
    """Raises :class:`NotOffered` with what is missing."""
    if not profile.enabled:
        raise NotOffered("the enrolment profile is disabled")
    if profile.issuer.state != IssuerState.ACTIVE:
        raise NotOffered(f"the issuer {profile.issuer.slug} is not active")
    try:
        chain, roots = issuers.chain(profile.issuer), server_tls.anchors()
    except issuers.IssuerMissing as missing:
        raise NotOffered(str(missing)) from missing
    if profile.pin_tls and not roots:
        raise NotOffered(
            'the server\'s TLS is pinned, but its root is not known: add it under "Roots for TLS"'
        )
    management = Management(
        topic=topic_of(profile).value,
        access_rights=profile.access_rights,
        check_out_when_removed=profile.check_out_when_removed,
        pinned=tuple(roots) if profile.pin_tls else (),
        pinned_unrevoked=profile.pin_unrevoked,
    )
    return Supplies(chain, management, addresses_of(profile), roots)


def management_payloads(
    session: EnrollmentSession, given: Supplies, *, lifetime: timedelta, now: datetime
) -> Payload:
    """The profile for the device of this session, with a one-time challenge for its identity."""
    profile = session.profile
    made = management_profile(
        profile_uuid=profile.payload_uuid,
        session_uuid=session.uuid,
        texts=texts_of(profile),
        chain=given.chain,
        identity=new_identity(session, Purpose.MDM_IDENTITY, lifetime=lifetime, now=now),
        addresses=given.addresses,
        management=given.management,
        also_trusted=[[root] for root in given.tls_roots],
    )
    return payloads_in_language(made)


def management_told(session: EnrollmentSession, *, topic: str, tls_roots: Sequence[bytes] = ()) -> Management:
    """What the device of this session was told, for an update of its profile: rights can shrink at most.

    ``topic``: the one that its enrollment is known by. What was not kept is taken from the profile of today.
    ``tls_roots``: those of today, which count alone where the profile says so.
    """
    told, profile = session.told or {}, session.profile
    return Management(
        topic=topic,
        access_rights=told.get("access_rights", profile.access_rights),
        check_out_when_removed=told.get("check_out_when_removed", profile.check_out_when_removed),
        pinned=tuple(tls_roots) if profile.pin_tls else (),
        pinned_unrevoked=profile.pin_unrevoked,
    )


def addresses_told(session: EnrollmentSession) -> Addresses:
    """The same for addresses; that of SCEP is the one of today, for it may change."""
    told, today = session.told or {}, addresses_of(session.profile)
    return Addresses(
        scep=today.scep,
        server=told.get("server", today.server),
        check_in=told.get("check_in", today.check_in),
    )


def new_identity(
    session: EnrollmentSession, purpose: Purpose, *, lifetime: timedelta, now: datetime
) -> Identity:
    """A one-time challenge for a certificate that is bound to this session."""
    profile = session.profile
    subject = subject_of(session, purpose)
    _challenge, value = create_challenge(
        issuer=profile.issuer,
        purpose=purpose,
        subject=subject,
        binding=session.uuid,
        validity_days=OTA_IDENTITY_DAYS if purpose == Purpose.OTA_IDENTITY else None,
        ttl=lifetime,
        created_by=f"enrolment profile {profile.slug}",
        now=now,
    )
    return Identity(name=profile.issuer.slug, subject=subject, challenge=value)


def signed(profile: Payload, now: datetime, *, by: Signer | None = None) -> bytes:
    """The profile in CMS SignedData. Raises :class:`NotOffered` where there is no signer to be had."""
    return signing.sign_by(by or signer(now), encode(profile), now=now)


def signer(now: datetime) -> Signer:
    """Who signs now. Raises :class:`NotOffered` where nobody can."""
    try:
        return signing.signer(now)
    except (IssuanceRefused, issuers.IssuerMissing) as missing:
        raise NotOffered(f"the profile cannot be signed: {missing}") from missing


def subject_of(session: EnrollmentSession, purpose: Purpose = Purpose.MDM_IDENTITY) -> Name:
    """The subject of the device's certificate: recognisable, unique, and nothing personal in it."""
    name: Name = (("CN", f"{_NAMES[purpose]} {session.uuid.hex[:12]}"),)
    organization = session.profile.organization.strip()[:DEFAULT_MAX_VALUE].strip()
    try:
        verify_name_value(organization)
    except NameRefused:  # none, or one that no certificate can hold: the form refuses it, a script may not
        return name
    return (*name, ("O", organization))


def texts_of(profile: EnrollmentProfile) -> Texts:
    """What the device shows of the profile."""
    return Texts(
        display_name=in_language(profile.name) or _("Device management"),
        organization=profile.organization,
        description=in_language(profile.description),
    )


def addresses_of(profile: EnrollmentProfile) -> Addresses:
    """The addresses that a device is told."""
    base = settings.BRAMLEY_PUBLIC_URL
    managed = settings.BRAMLEY_MDM_URL or base
    return Addresses(
        scep=f"{base}/scep/{profile.issuer.slug}/",
        server=f"{managed}/mdm/connect",
        check_in=f"{managed}/mdm/checkin",
    )
