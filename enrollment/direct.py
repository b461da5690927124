"""The direct way in: one download is one session, one challenge and one signed profile."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.utils.translation import gettext as _

from enrollment.core.payloads import Addresses, Identity, Management, Texts, direct_profile
from enrollment.models import EnrollmentProfile, EnrollmentSession, Flow
from enrollment.topic import topic_of
from pki import issuers
from pki.core.names import DEFAULT_MAX_VALUE, Name, NameRefused, verify_name_value
from pki.issuance import IssuanceRefused
from pki.models import IssuerState, Purpose
from pki.signing import sign_profile
from scep.challenges import create_challenge


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
    topic, chain = _verify_offered(profile)
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
        subject = subject_of(session)
        _challenge, value = create_challenge(
            issuer=profile.issuer,
            purpose=Purpose.MDM_IDENTITY,
            subject=subject,
            binding=session.uuid,
            ttl=lifetime,
            created_by=f"enrolment profile {profile.slug}",
            now=now,
        )
        content = direct_profile(
            profile_uuid=profile.payload_uuid,
            session_uuid=session.uuid,
            texts=texts_of(profile),
            chain=chain,
            identity=Identity(name=profile.issuer.slug, subject=subject, challenge=value),
            addresses=addresses_of(profile),
            management=Management(
                topic=topic,
                access_rights=profile.access_rights,
                check_out_when_removed=profile.check_out_when_removed,
            ),
        )
        mobileconfig = _signed(content, now) if signed else content
    return Offered(session, mobileconfig)


def _verify_offered(profile: EnrollmentProfile) -> tuple[str, list[bytes]]:
    """The push topic and the chain of the issuer. Raises :class:`NotOffered`."""
    if not profile.enabled:
        raise NotOffered("the enrolment profile is disabled")
    if not profile.allow_direct:
        raise NotOffered("the enrolment profile does not allow the direct way")
    if profile.issuer.state != IssuerState.ACTIVE:
        raise NotOffered(f"the issuer {profile.issuer.slug} is not active")
    try:
        return topic_of(profile).value, issuers.chain(profile.issuer)
    except issuers.IssuerMissing as missing:
        raise NotOffered(str(missing)) from missing


def _signed(content: bytes, now: datetime) -> bytes:
    """The profile in CMS SignedData. Raises :class:`NotOffered` where there is no signer to be had."""
    try:
        return sign_profile(content, now=now)
    except (IssuanceRefused, issuers.IssuerMissing) as missing:
        raise NotOffered(f"the profile cannot be signed: {missing}") from missing


def subject_of(session: EnrollmentSession) -> Name:
    """The subject of the device's certificate: recognisable, unique, and nothing personal in it."""
    name: Name = (("CN", f"Bramley device {session.uuid.hex[:12]}"),)
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
