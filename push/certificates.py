"""Push certificates: request, import, renewal, and which one wakes a topic's devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from audit.models import Outcome
from audit.recording import Actor, record
from devices.models import Enrollment, EnrollmentState
from pki.core.pem import blocks
from push import outbox, provenance
from push.core import pushcert
from push.models import PushCertificate, PushCertificateState
from vault.sealed import seal, unseal

EXPIRY_ALARMS = (timedelta(days=60), timedelta(days=30), timedelta(days=7), timedelta(days=1))


class PushCertificateRefused(Exception):
    """A request or import that is refused; ``reason`` says why, for the administrator."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TopicChange(PushCertificateRefused):
    """The certificate has another topic than the active ones: allowed only when it is confirmed.

    Apple fixes the topic of a device when it enrols. ``devices``: how many listen to the active topics.
    """

    def __init__(self, topic: str, active_topics: Sequence[str], devices: int) -> None:
        super().__init__(
            ngettext(
                "The certificate has another topic (%(new)s) than the active one (%(old)s). It cannot wake "
                "the %(devices)d enrolled device that listens to the old topic: when the old certificate "
                "expires that one has to enrol again. To renew, sign in to Apple's portal with the Apple "
                "Account that made the old certificate, and renew that one. Confirm only if you mean it.",
                "The certificate has another topic (%(new)s) than the active one (%(old)s). It cannot wake "
                "the %(devices)d enrolled devices that listen to the old topic: when the old certificate "
                "expires they all have to enrol again. To renew, sign in to Apple's portal with the Apple "
                "Account that made the old certificate, and renew that one. Confirm only if you mean it.",
                devices,
            )
            % {"new": topic, "old": ", ".join(active_topics), "devices": devices}
        )
        self.topic = topic
        self.active_topics = tuple(active_topics)
        self.devices = devices


@dataclass(frozen=True)
class Credentials:
    """What a TLS client needs, as PEM text. The key is not encrypted: keep it off the disk."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)


@dataclass(frozen=True)
class _Import:
    """What an import brings, verified; ``pending``: the request of ours that it answers."""

    file: pushcert.PushCertificateFile
    facts: pushcert.PushCertificateFacts
    provenance: provenance.Provenance
    private_key: bytes = field(repr=False)
    pending: PushCertificate | None


def create_request(
    common_name: str, actor: Actor, *, renews: PushCertificate | None = None
) -> PushCertificate:
    """Make a key (RSA 2048) and a certificate request for Apple's portal.

    ``renews``: the certificate in use that the answer shall replace; the answer must then have its topic.
    Raises :class:`PushCertificateRefused` when the name will not do, or ``renews`` is not in use.
    """
    if renews is not None and renews.state != PushCertificateState.ACTIVE:
        raise PushCertificateRefused(_("This certificate is not in use: there is nothing to renew."))
    key = rsa.generate_private_key(public_exponent=65537, key_size=pushcert.REQUEST_RSA_BITS)
    private_key = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        request = pushcert.encode_request(common_name, private_key)
    except pushcert.PushCertError as error:
        raise PushCertificateRefused(str(error)) from error
    row = PushCertificate(
        common_name=pushcert.verify_common_name(common_name),
        csr=request,
        topic=renews.topic if renews is not None else "",
    )
    row.private_key_sealed = seal(private_key, context=_context(row))
    with transaction.atomic():
        row.save()
        record(
            "push_certificate.requested",
            actor=actor,
            target=row,
            details={"renews_topic": row.topic} if row.topic else {},
        )
    return row


def discard_request(request: PushCertificate, *, actor: Actor, now: datetime) -> None:
    """Throw away a request that is not answered, with its key: a certificate for it is of no use then.

    Raises :class:`PushCertificateRefused` where it is answered already.
    """
    with transaction.atomic():
        record("push_certificate.request_discarded", actor=actor, target=request, at=now)
        open_ones = PushCertificate.objects.filter(pk=request.pk, state=PushCertificateState.REQUESTED)
        if not open_ones.delete()[0]:
            raise PushCertificateRefused(_("This request is answered already."))


def import_certificate(
    data: bytes,
    *,
    password: str = "",
    private_key: bytes = b"",
    confirm_topic_change: bool = False,
    actor: Actor,
    now: datetime,
) -> PushCertificate:
    """Take a push certificate into use: PEM, DER or PKCS #12.

    The private key comes from the file, from ``private_key`` (PEM or DER), or is the one of a request made
    here, or of an earlier certificate with the same key. ``password`` opens an encrypted file or key.
    The certificate replaces the active one of its topic; pushes that were held are due again.

    Raises :class:`PushCertificateRefused`; :class:`TopicChange` when only another topic is active and
    ``confirm_topic_change`` is not given. A refusal is recorded, and changes nothing else.
    """
    try:
        return _take_into_use(_verify(data, password, private_key, now), confirm_topic_change, actor, now)
    except (pushcert.PushCertError, PushCertificateRefused) as error:
        reason = str(error)
        record("push_certificate.imported", actor=actor, outcome=Outcome.REFUSED, reason=reason, at=now)
        if isinstance(error, PushCertificateRefused):
            raise
        raise PushCertificateRefused(reason) from error


def _take_into_use(
    brought: _Import, confirm_topic_change: bool, actor: Actor, now: datetime
) -> PushCertificate:
    try:
        return _replace_active(brought, confirm_topic_change, actor, now)
    except IntegrityError:  # the database lets one be active for a topic
        raise PushCertificateRefused(
            _("Another certificate of this topic was imported at the same moment. Look at it, or try again.")
        ) from None


def _replace_active(
    brought: _Import, confirm_topic_change: bool, actor: Actor, now: datetime
) -> PushCertificate:
    with transaction.atomic():
        active_rows = list(
            PushCertificate.objects.select_for_update().filter(state=PushCertificateState.ACTIVE)
        )
        _verify_not_used(brought, active_rows)
        topics_before = _verify_topic_stays(brought, active_rows, confirm_topic_change)
        for row in active_rows:
            if row.topic == brought.facts.topic:
                row.state = PushCertificateState.REPLACED
                row.save(update_fields=["state"])
        certificate = _activate(brought, now)
        released = outbox.release(certificate.topic, now=now)
        record(
            "push_certificate.imported",
            actor=actor,
            target=certificate,
            details={
                "topic": certificate.topic,
                "serial_number": certificate.serial_number,
                "not_after": brought.facts.not_after.isoformat(),
                "issuer": brought.provenance.issuer,
                "issuer_verified": brought.provenance.verified,
                "topics_before": topics_before,
                "pushes_released": released,
            },
        )
    return certificate


def _verify(data: bytes, password: str, private_key: bytes, now: datetime) -> _Import:
    file = pushcert.decode_file(data, password=password)
    facts = pushcert.verify_current(pushcert.describe(file.certificate), now=now)
    issued = provenance.of_push_certificate(file.certificate, file.chain, now=now)
    given = pushcert.decode_private_key(private_key, password=password) if private_key else file.private_key
    pending = _pending_request(facts.public_key)
    if given is not None:
        return _Import(file, facts, issued, pushcert.verify_key_matches(facts, given), pending)
    keeper = pending or _earlier_with_key(facts.public_key)
    if keeper is None:
        raise pushcert.KeyMismatch(
            _(
                "The file has no private key, and the certificate belongs to no request made here. "
                "Give the private key, or make a request here and have Apple sign that one."
            )
        )
    return _Import(file, facts, issued, _private_key(keeper), pending)


def _pending_request(public_key: bytes) -> PushCertificate | None:
    for row in PushCertificate.objects.filter(state=PushCertificateState.REQUESTED):
        if pushcert.public_key_of_request(bytes(row.csr)) == public_key:
            return row
    return None


def _earlier_with_key(public_key: bytes) -> PushCertificate | None:
    """Apple renews a certificate from the same request too: then the key is one that we hold already."""
    for row in PushCertificate.objects.exclude(state=PushCertificateState.REQUESTED):
        if pushcert.public_key_of(_private_key(row)) == public_key:
            return row
    return None


def _verify_not_used(brought: _Import, active_rows: Sequence[PushCertificate]) -> None:
    """A certificate that is in use is no renewal, nor is one that another of its topic has replaced."""
    if any(bytes(row.der) == brought.file.certificate for row in active_rows):
        raise PushCertificateRefused(_("This certificate is already in use."))
    topic = brought.facts.topic
    if not any(row.topic == topic for row in active_rows):
        return
    replaced = PushCertificate.objects.filter(state=PushCertificateState.REPLACED, topic=topic)
    if any(bytes(der) == brought.file.certificate for der in replaced.values_list("der", flat=True)):
        raise PushCertificateRefused(
            _(
                "This certificate was in use before, and another has replaced it. Import the newest one "
                "from Apple's portal; to go back to this one, take the one in use out of use first."
            )
        )


def _verify_topic_stays(
    brought: _Import, active_rows: Sequence[PushCertificate], confirmed: bool
) -> list[str]:
    """The topics that were active, if the new one is what was to come, or the change is confirmed."""
    topic, topics = brought.facts.topic, sorted({row.topic for row in active_rows})
    if confirmed:
        return topics
    expected = brought.pending.topic if brought.pending is not None else ""
    if expected and topic != expected:
        raise TopicChange(topic, [expected], devices_of(expected))
    if topics and topic not in topics:
        raise TopicChange(topic, topics, devices_of(*topics))
    return topics


def _activate(brought: _Import, now: datetime) -> PushCertificate:
    row = brought.pending or PushCertificate()
    facts = brought.facts
    row.state = PushCertificateState.ACTIVE
    row.topic = facts.topic
    row.common_name = facts.common_name
    row.serial_number = facts.serial_number[:40]
    row.not_before, row.not_after = facts.not_before, facts.not_after
    row.der = brought.file.certificate
    row.chain = pushcert.encode_certificate_pem(*brought.file.chain)
    row.private_key_sealed = seal(brought.private_key, context=_context(row))
    row.activated_at = now
    row.save()
    return row


def devices_of(*topics: str) -> int:
    """How many enrolled devices (and users on them) listen to these topics."""
    return Enrollment.objects.filter(topic__in=topics, state=EnrollmentState.ENROLLED).count()


def active(topic: str) -> PushCertificate | None:
    """The certificate that wakes devices of this topic; it may be held or expired."""
    return PushCertificate.objects.filter(state=PushCertificateState.ACTIVE, topic=topic).first()


def only_topic() -> str:
    """The topic for new enrolments: of the certificate last taken into use. Empty where there is none."""
    newest = (
        PushCertificate.objects.filter(state=PushCertificateState.ACTIVE)
        .order_by("-activated_at", "-id")
        .values_list("topic", flat=True)
    )
    return newest.first() or ""


def retire(certificate: PushCertificate, *, actor: Actor, now: datetime) -> None:
    """Take a certificate out of use without another in its place: nothing is sent for its topic any more."""
    with transaction.atomic():
        retired = PushCertificate.objects.filter(pk=certificate.pk, state=PushCertificateState.ACTIVE).update(
            state=PushCertificateState.REPLACED
        )
        if not retired:
            raise PushCertificateRefused(_("This certificate is not in use."))
        record("push_certificate.retired", actor=actor, target=certificate, at=now)


def hold(certificate: PushCertificate, reason: str, *, actor: Actor, now: datetime) -> int:
    """Stop the topic of a certificate that does not work, and say why. Returns how many pushes wait.

    The devices keep what they have: no attempt is counted, no token is given up. Raises
    :class:`PushCertificateRefused` where another certificate has taken its place meanwhile.
    """
    with transaction.atomic():
        this = PushCertificate.objects.filter(pk=certificate.pk, state=PushCertificateState.ACTIVE)
        if not this.select_for_update().values_list("pk", flat=True):
            raise PushCertificateRefused(_("This certificate is not in use."))
        newly = this.filter(held_at__isnull=True).update(held_reason=reason[:300], held_at=now)
        held = outbox.hold(certificate.topic, reason)
        if newly:
            record(
                "push_certificate.held",
                actor=actor,
                target=certificate,
                reason=reason,
                details={"topic": certificate.topic, "pushes_held": held},
                at=now,
            )
    return held


def release(certificate: PushCertificate, *, actor: Actor, now: datetime) -> int:
    """Try a held certificate again, for instance after a mistake at Apple's. Returns how many pushes are due.

    Raises :class:`PushCertificateRefused` when it is not in use or has expired.
    """
    if certificate.state != PushCertificateState.ACTIVE:
        raise PushCertificateRefused(_("This certificate is not in use."))
    if certificate.not_after is not None and certificate.not_after <= now:
        raise PushCertificateRefused(_("This certificate has expired: renew it and import the new one."))
    with transaction.atomic():
        PushCertificate.objects.filter(pk=certificate.pk).update(
            held_reason="", held_at=None, failures=0, paused_until=None, trouble=""
        )
        released = outbox.release(certificate.topic, now=now)
        record(
            "push_certificate.released",
            actor=actor,
            target=certificate,
            details={"topic": certificate.topic, "pushes_released": released},
            at=now,
        )
    return released


def expiring(now: datetime) -> list[tuple[PushCertificate, timedelta]]:
    """Active certificates within the first of :data:`EXPIRY_ALARMS` of their end, and what is left."""
    rows = PushCertificate.objects.filter(
        state=PushCertificateState.ACTIVE, not_after__lte=now + EXPIRY_ALARMS[0]
    ).order_by("not_after")
    return [(row, row.not_after - now) for row in rows if row.not_after is not None]


def provenance_of(certificate: PushCertificate, now: datetime) -> provenance.Provenance:
    """Who issued it, as far as it can be told here."""
    above = [pushcert.decode_file(block).certificate for _label, block in blocks(bytes(certificate.chain))]
    try:
        return provenance.of_push_certificate(bytes(certificate.der), above, now=now)
    except provenance.Forged as error:
        return provenance.Provenance("", False, str(error))


def credentials(certificate: PushCertificate) -> Credentials:
    """The certificate with its chain, and its private key opened. Raises :class:`vault.sealed.SealError`."""
    return Credentials(
        pushcert.encode_certificate_pem(bytes(certificate.der)) + bytes(certificate.chain),
        pushcert.encode_private_key_pem(_private_key(certificate)),
    )


def request_pem(certificate: PushCertificate) -> bytes:
    """The certificate request as PEM text, for Apple's portal (through a vendor's signature)."""
    return pushcert.encode_request_pem(bytes(certificate.csr))


def _private_key(row: PushCertificate) -> bytes:
    return unseal(bytes(row.private_key_sealed), context=_context(row))


def _context(row: PushCertificate) -> str:
    return f"push.pushcertificate.private_key:{row.uuid}"
