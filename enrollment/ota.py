"""Over the air: Apple's profile service in three phases, at one address.

1. GET: a session and a one-time challenge; the device learns where to make itself known.
2. POST, signed with the identity that the device was made with: it names itself and shows the challenge, and
   gets a SCEP profile for a certificate that lives as long as the enrolment.
3. POST, signed with that certificate: it gets the management profile, encrypted to it.

Whose certificate verified decides the phase; nothing that a message says does.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.urls import reverse

from audit import recording
from audit.models import Outcome
from audit.recording import Actor
from enrollment import access, device_authorities, device_signers, offering
from enrollment.access import Admission, DeviceRefused
from enrollment.core import machine_info
from enrollment.core.encryption import NotEncryptable, encrypt_payloads
from enrollment.core.machine_info import MachineInfo, MachineInfoError, decode_machine_info
from enrollment.core.payloads import Payload, ota_identity_profile, profile_service
from enrollment.core.session import SessionRefused, same_device, verify_expected, verify_open
from enrollment.models import EnrollmentProfile, EnrollmentSession, Flow, SessionState
from enrollment.offering import NotOffered, Offered
from enrollment.texts import payloads_in_language
from pki import trust
from pki.core import cms
from pki.core.cms import CmsError, SignedContent, verify_signed_data
from pki.core.device_identity import DeviceSigner, NotADevice, verify_device_signer
from pki.models import Certificate, Purpose
from vault.sealed import keyed_hash, keyed_hashes, seal, unseal

__all__ = ["MAX_MESSAGE", "NotOffered", "Offered", "Refused", "answer", "note_refusal", "offer"]

MAX_MESSAGE = 64 * 1024
# Between two steps: a person reads what the device asks, and types a passcode.
STEP = timedelta(minutes=15)
CHALLENGE_BYTES = 20
_PURPOSE_OF_HASH = "enrollment.ota_challenge"


class Refused(Exception):
    """The message is refused and changes nothing; the device learns the status only.

    ``status``: 400 where it is not shown who speaks, 403 where that is shown and not allowed. ``reason`` is a
    short fixed text for the administrator, ``detail`` what helps to understand it; ``session``, where it is
    known whose message it was. ``alarm``: what to record as an event of its own.
    """

    def __init__(
        self,
        reason: str,
        *,
        status: int = 403,
        detail: str = "",
        session: EnrollmentSession | None = None,
        alarm: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.detail = detail
        self.session = session
        self.alarm = alarm


@dataclass(frozen=True)
class Message:
    """A POST whose one signature is right. Whether its signer counts is another question."""

    signed: SignedContent
    sha256: str
    remote_addr: str


# --- Phase 1 ---------------------------------------------------------------------------------------------


def offer(
    profile: EnrollmentProfile,
    *,
    remote_addr: str,
    user_agent: str,
    now: datetime,
    admitted: Admission = access.ANYBODY,
    expected_serial_number: str = "",
    pre_approved: bool = False,
) -> Offered:
    """Start a session and make the signed "Profile Service" for it.

    ``admitted``: by what (:func:`enrollment.access.admission`). Raises :class:`NotOffered`,
    :class:`enrollment.access.AccessRefused`.
    """
    if not profile.allow_ota:
        raise NotOffered("the enrolment profile does not allow the way over the air")
    offering.supplies(profile)
    challenge = secrets.token_urlsafe(CHALLENGE_BYTES)
    with transaction.atomic():
        session = access.new_session(
            profile,
            admitted,
            now=now,
            flow=Flow.OTA,
            challenge_hash=keyed_hash(challenge, purpose=_PURPOSE_OF_HASH),
            expected_serial_number=expected_serial_number,
            pre_approved=pre_approved,
            remote_addr=remote_addr[:45],
            user_agent=user_agent[:200],
            expires_at=now + min(STEP, timedelta(minutes=profile.session_minutes)),
        )
        service = profile_service(
            profile_uuid=profile.payload_uuid,
            session_uuid=session.uuid,
            texts=offering.texts_of(profile),
            address=address_of(profile),
            attributes=machine_info.ATTRIBUTES,
            challenge=challenge,
        )
        return Offered(session, offering.signed(service, now))


def address_of(profile: EnrollmentProfile) -> str:
    """The one address of all three phases, absolute."""
    return f"{settings.BRAMLEY_PUBLIC_URL}{reverse('over_the_air', args=[profile.slug])}"


# --- Phases 2 and 3 --------------------------------------------------------------------------------------


def answer(profile: EnrollmentProfile, body: bytes, *, remote_addr: str, now: datetime) -> bytes:
    """The signed profile that answers a message of a device. Raises :class:`Refused`, :class:`NotOffered`.

    1. The message holds exactly one signature, which is right, and the certificate that made it.
    2. That certificate is on our record: phase 3. Or a device CA issued it: phase 2. Or it is refused.
    """
    try:
        # Apple's devices sign so to this day; whether this one may is seen when it is known whose it is.
        signed = verify_signed_data(body, allow_sha1=True)
    except CmsError as error:
        raise Refused("bad signature", status=400, detail=error.reason) from error
    if signed.content_type != cms.DATA:
        raise Refused("bad signature", status=400, detail=f"content of type {signed.content_type}")
    message = Message(signed, hashlib.sha256(body).hexdigest(), remote_addr)
    certificate = _on_record(signed.signer)
    if certificate is not None:
        return _deliver(profile, message, certificate, now)
    try:
        signer = verify_device_signer(signed.signer, device_authorities.anchors(now), now=now)
    except NotADevice as error:
        fingerprint = hashlib.sha256(signed.signer).hexdigest()
        detail = f"{error.reason}; SHA-256 {fingerprint}"
        raise Refused("signed by no device", status=400, detail=detail) from error
    return _identify(profile, message, signer, now)


def note_refusal(refused: Refused, profile: EnrollmentProfile, *, remote_addr: str, now: datetime) -> None:
    """Record a refusal: with the session, where it is known whose message it was, and in the count.

    Outside the transaction that the refusal rolled back.
    """
    session = refused.session
    if session is not None:
        said = f"{refused.reason}: {refused.detail}" if refused.detail else refused.reason
        EnrollmentSession.objects.filter(pk=session.pk).update(refusal_reason=said[:300], refused_at=now)
    recording.refuse(
        "enroll",
        refused.reason,
        remote_addr=remote_addr,
        detail=refused.detail,
        target=session or profile,
        now=now,
    )
    if refused.alarm is not None:
        recording.record(
            "device_certificate.second_claim",
            actor=Actor("device", remote_addr=remote_addr),
            target=session,
            outcome=Outcome.REFUSED,
            reason=refused.reason,
            details=refused.alarm,
            at=now,
        )


def _on_record(der: bytes) -> Certificate | None:
    """Our record of a certificate that was issued here. One of a CA that is only trusted does not count."""
    return (
        Certificate.objects.select_related("issuer_key__issuer")
        .defer("issuer_key__private_key_sealed")
        .filter(sha256=hashlib.sha256(der).hexdigest(), foreign=False)
        .first()
    )


def _read(message: Message, session: EnrollmentSession | None = None) -> MachineInfo:
    try:
        return decode_machine_info(message.signed.content)
    except MachineInfoError as error:
        raise Refused("bad device attributes", status=400, detail=error.reason, session=session) from error


def _verify_digest(message: Message, device_ca_sha256: str, session: EnrollmentSession | None) -> None:
    """SHA-1 only where it is what real devices do: under Apple's own device CA."""
    if message.signed.digest_algorithm == "sha1" and not device_authorities.is_apple(device_ca_sha256):
        raise Refused("signed with SHA-1", status=400, session=session)


# --- Phase 2: which device is it? ------------------------------------------------------------------------


def _identify(profile: EnrollmentProfile, message: Message, signer: DeviceSigner, now: datetime) -> bytes:
    """Claim the challenge for the device, and answer with the SCEP profile."""
    _verify_digest(message, signer.anchor.sha256, None)
    said = _read(message)
    if not said.challenge:
        raise Refused("no challenge")
    given = offering.supplies(profile)
    with transaction.atomic():
        session = _session_of_challenge(profile, said.challenge)
        # 1. The challenge was not used, is in time, and this device may enrol with it.
        _verify_open(session)
        if session.state != SessionState.OFFERED:
            return _identified_before(session, message, now)
        _verify_in_time(session, now)
        _verify_expected(session, said)
        _verify_may_enrol(session, said)
        # 2. What signed has not spoken for another device before.
        _claim_signer(session, signer, said, now)
        # 3. Of all that show this challenge, one goes on.
        if not _claim_session(session, message, signer, said, now):
            raise Refused("challenge used before", session=session)
        device_authorities.note_use(
            signer.anchor, session, actor=Actor("device", remote_addr=message.remote_addr), now=now
        )
        content = ota_identity_profile(
            profile_uuid=profile.payload_uuid,
            session_uuid=session.uuid,
            texts=offering.texts_of(profile),
            identity=offering.new_identity(session, Purpose.OTA_IDENTITY, lifetime=STEP, now=now),
            scep=offering.addresses_of(profile).scep,
            ca_certificate=given.chain[0],
        )
        return _keep_answer(session, offering.signed(payloads_in_language(content), now))


def _session_of_challenge(profile: EnrollmentProfile, challenge: str) -> EnrollmentSession:
    """The session that the challenge was made for, locked."""
    hashes = keyed_hashes(challenge, purpose=_PURPOSE_OF_HASH)
    session = (
        EnrollmentSession.objects.select_for_update(of=("self",))
        .select_related("profile__issuer")
        .filter(flow=Flow.OTA, challenge_hash__in=hashes)
        .first()
    )
    if session is None:
        raise Refused("unknown challenge")
    if session.profile_id != profile.pk:
        raise Refused("challenge of another enrolment profile", session=session)
    return session


def _identified_before(session: EnrollmentSession, message: Message, now: datetime) -> bytes:
    """The same bytes again get the same answer, for an answer may get lost; only until it was used."""
    if (
        session.state != SessionState.IDENTIFIED
        or session.message_sha256 != message.sha256
        or Certificate.objects.filter(binding=session.uuid, purpose=Purpose.OTA_IDENTITY).exists()
    ):
        raise Refused("challenge used before", session=session)
    _verify_in_time(session, now)
    return _kept_answer(session)


def _verify_open(session: EnrollmentSession) -> None:
    try:
        verify_open(session.state, session.reason)
    except SessionRefused as error:
        raise Refused("session ended", detail=error.reason, session=session) from error


def _verify_in_time(session: EnrollmentSession, now: datetime) -> None:
    if session.expires_at <= now:
        raise Refused("session expired", session=session)


def _verify_expected(session: EnrollmentSession, said: MachineInfo) -> None:
    try:
        verify_expected(
            expected_udid=session.expected_udid,
            expected_serial_number=session.expected_serial_number,
            udid=said.udid,
            serial_number=said.serial_number,
        )
    except SessionRefused as error:
        raise Refused("made for another device", detail=error.reason, session=session) from error


def _verify_may_enrol(session: EnrollmentSession, said: MachineInfo) -> None:
    """Not blocked, and listed where that matters."""
    try:
        access.verify_device(session.profile, udid=said.udid, serial_number=said.serial_number)
    except DeviceRefused as error:
        raise Refused(error.reason, detail=error.detail, session=session) from error


def _claim_signer(session: EnrollmentSession, signer: DeviceSigner, said: MachineInfo, now: datetime) -> None:
    try:
        device_signers.claim(signer, said, now)
    except device_signers.SecondClaim as error:
        before = error.claim
        raise Refused(
            "device certificate of another device",
            detail=f"it said {before.serial_number} before, and now {said.serial_number}",
            session=session,
            alarm={
                "device_certificate": signer.facts.sha256,
                "serial_number": said.serial_number,
                "udid": said.udid,
                "serial_number_before": before.serial_number,
                "udid_before": before.udid,
            },
        ) from error


def _claim_session(
    session: EnrollmentSession, message: Message, signer: DeviceSigner, said: MachineInfo, now: datetime
) -> bool:
    """Compare and set: what the device said is the session's from now on."""
    facts = {
        "state": SessionState.IDENTIFIED,
        "identified_at": now,
        "expires_at": now + STEP,
        "message_sha256": message.sha256,
        "device_ca_sha256": signer.anchor.sha256,
        "device_certificate_sha256": signer.facts.sha256,
        "udid": said.udid,
        "serial_number": said.serial_number,
        "product": said.product,
        "version": said.version,
        "imei": said.imei,
        "meid": said.meid,
        "updated_at": now,
    }
    claimed = EnrollmentSession.objects.filter(pk=session.pk, state=SessionState.OFFERED).update(**facts)
    for name, value in facts.items():
        setattr(session, name, value)
    return bool(claimed)


# --- Phase 3: the profile for that device ----------------------------------------------------------------


def _deliver(profile: EnrollmentProfile, message: Message, certificate: Certificate, now: datetime) -> bytes:
    """Give the management profile to the holder of the session's certificate."""
    binding = certificate.binding
    known = EnrollmentSession.objects.filter(uuid=binding).first() if binding else None
    try:
        trust.verify_record(certificate, purpose=Purpose.OTA_IDENTITY, now=now)
    except trust.Untrusted as error:
        raise Refused(f"certificate {error.reason}", status=400, session=known) from error
    if known is None or known.flow != Flow.OTA:
        raise Refused("no session", detail=f"of the certificate {certificate.serial_number}", session=known)
    _verify_digest(message, known.device_ca_sha256, known)
    said = _read(message, known)
    with transaction.atomic():
        session = (
            EnrollmentSession.objects.select_for_update(of=("self",))
            .select_related("profile__issuer")
            .get(pk=known.pk)
        )
        # 1. It is the session of this address, and of the device that phase 2 made known.
        if session.profile_id != profile.pk:
            raise Refused("session of another enrolment profile", session=session)
        _verify_same_device(session, said)
        # 2. It has not ended, has gone no further (but this very device may ask again), and is in time.
        _verify_open(session)
        again = session.state == SessionState.DELIVERED and session.delivered_to_sha256 == certificate.sha256
        if not again and session.state not in (SessionState.IDENTIFIED, SessionState.OTA_CERTIFIED):
            detail = f"the session is in state {session.state}"
            raise Refused("profile delivered before", detail=detail, session=session)
        _verify_in_time(session, now)
        _verify_may_enrol(session, said)
        if again:
            return _kept_answer(session)
        return _deliver_to(session, certificate, now)


def _verify_same_device(session: EnrollmentSession, said: MachineInfo) -> None:
    if not same_device(session.udid, said.udid):
        raise Refused("another device than in phase 2", detail="another UDID", session=session)
    if not same_device(session.serial_number, said.serial_number):
        raise Refused("another device than in phase 2", detail="another serial number", session=session)
    if said.challenge and bytes(session.challenge_hash or b"") not in keyed_hashes(
        said.challenge, purpose=_PURPOSE_OF_HASH
    ):
        raise Refused("challenge of another session", session=session)


def _deliver_to(session: EnrollmentSession, certificate: Certificate, now: datetime) -> bytes:
    lifetime = timedelta(minutes=session.profile.session_minutes)
    given = offering.supplies(session.profile)
    by = offering.signer(now)
    content = offering.management_payloads(session, given, lifetime=lifetime, now=now)
    content, cipher, reason = _encrypted(content, session.profile, bytes(certificate.der))
    delivered = EnrollmentSession.objects.filter(
        pk=session.pk, state__in=(SessionState.IDENTIFIED, SessionState.OTA_CERTIFIED)
    ).update(
        state=SessionState.DELIVERED,
        delivered_at=now,
        delivered_to_sha256=certificate.sha256,
        delivered_cipher=cipher,
        not_encrypted_reason=reason[:200],
        expires_at=now + lifetime,
        told={**given.told, "signer": by.sha256},
        updated_at=now,
    )
    if not delivered:
        raise Refused("profile delivered before", session=session)
    return _keep_answer(session, offering.signed(content, now, by=by))


def _encrypted(content: Payload, profile: EnrollmentProfile, recipient: bytes) -> tuple[Payload, str, str]:
    """The profile encrypted, and with which cipher; or as it is, and why: then only TLS protects it."""
    try:
        encrypted = encrypt_payloads(
            content, recipient=recipient, cipher=profile.payload_cipher, random=secrets.token_bytes
        )
    except NotEncryptable as error:
        return content, "", error.reason
    return encrypted, profile.payload_cipher, ""


# --- Answers that may have to be given again -------------------------------------------------------------


def _keep_answer(session: EnrollmentSession, content: bytes) -> bytes:
    """Both hold a challenge, so they are sealed, and only the last one is kept."""
    sealed = seal(content, context=_context(session))
    EnrollmentSession.objects.filter(pk=session.pk).update(answer_sealed=sealed)
    return content


def _kept_answer(session: EnrollmentSession) -> bytes:
    if session.answer_sealed is None:
        raise Refused("profile delivered before", session=session)
    return unseal(bytes(session.answer_sealed), context=_context(session))


def _context(session: EnrollmentSession) -> str:
    return f"enrollment.enrollmentsession.answer:{session.uuid}"
