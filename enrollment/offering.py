"""What every way in gives a device in the end: the profile that brings it under management.

Whether an enrolment profile can offer anything, whose certificate the device will get, and the signature.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

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
from enrollment.topic import topic_of
from pki import issuers
from pki.core.names import DEFAULT_MAX_VALUE, Name, NameRefused, verify_name_value
from pki.issuance import IssuanceRefused
from pki.models import IssuerState, Purpose
from pki.signing import sign_profile
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
    """What an enrolment profile needs before it can offer anything: push topic, and the issuer's chain."""

    topic: str
    chain: list[bytes]


def supplies(profile: EnrollmentProfile) -> Supplies:
    """Raises :class:`NotOffered` with what is missing."""
    if not profile.enabled:
        raise NotOffered("the enrolment profile is disabled")
    if profile.issuer.state != IssuerState.ACTIVE:
        raise NotOffered(f"the issuer {profile.issuer.slug} is not active")
    try:
        return Supplies(topic_of(profile).value, issuers.chain(profile.issuer))
    except issuers.IssuerMissing as missing:
        raise NotOffered(str(missing)) from missing


def management_payloads(
    session: EnrollmentSession, given: Supplies, *, lifetime: timedelta, now: datetime
) -> Payload:
    """The profile for the device of this session, with a one-time challenge for its identity."""
    profile = session.profile
    return management_profile(
        profile_uuid=profile.payload_uuid,
        session_uuid=session.uuid,
        texts=texts_of(profile),
        chain=given.chain,
        identity=new_identity(session, Purpose.MDM_IDENTITY, lifetime=lifetime, now=now),
        addresses=addresses_of(profile),
        management=Management(
            topic=given.topic,
            access_rights=profile.access_rights,
            check_out_when_removed=profile.check_out_when_removed,
        ),
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


def signed(profile: Payload, now: datetime) -> bytes:
    """The profile in CMS SignedData. Raises :class:`NotOffered` where there is no signer to be had."""
    try:
        return sign_profile(encode(profile), now=now)
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
        display_name=profile.name or _("Device management"),
        organization=profile.organization,
        description=profile.description,
    )


def addresses_of(profile: EnrollmentProfile) -> Addresses:
    """The addresses that a device is told."""
    base = settings.BRAMLEY_PUBLIC_URL
    return Addresses(
        scep=f"{base}/scep/{profile.issuer.slug}/",
        server=f"{base}/mdm/connect",
        check_in=f"{base}/mdm/checkin",
    )
