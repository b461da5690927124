"""Whose word counts that something is a device: Apple's, and that of CAs which an administrator trusts."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction
from django.db.models import Q

from audit import recording
from audit.recording import Actor
from enrollment.models import DeviceAuthority, EnrollmentSession
from pki.core.certificates import CertificateFacts, describe, load_certificates, read_identifiers
from pki.core.device_identity import APPLE_DEVICE_CA, DeviceAnchor
from pki.core.policy import KeyRefused, verify_key
from pki.core.scan import Malformed
from pki.models import IssuerKey

MAX_FILE = 256 * 1024


class AuthorityRefused(Exception):
    """That CA cannot be trusted to identify devices; ``reason`` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def anchors(now: datetime) -> list[DeviceAnchor]:
    """Apple's device CA, and those that are trusted now."""
    in_time = Q(trusted_until=None) | Q(trusted_until__gt=now)
    rows = DeviceAuthority.objects.filter(in_time, enabled=True)
    return [APPLE_DEVICE_CA, *(DeviceAnchor(row.name, bytes(row.der)) for row in rows)]


def is_apple(sha256: str) -> bool:
    """Whether this is the fingerprint of Apple's device CA."""
    return sha256 == APPLE_DEVICE_CA.sha256


def name_of(sha256: str) -> str:
    """What a device CA is called; its fingerprint where it is no longer known."""
    if is_apple(sha256):
        return APPLE_DEVICE_CA.name
    row = DeviceAuthority.objects.filter(sha256=sha256).first()
    return row.name if row else sha256


def trust(
    file: bytes, *, name: str = "", until: datetime | None = None, actor: Actor, now: datetime
) -> DeviceAuthority:
    """Let the certificates that this CA issues count as those of devices, from now on or ``until`` then.

    ``file``: its certificate, PEM or DER; of several the first. Trusting it again switches it on again.
    Raises :class:`AuthorityRefused`.
    """
    der, facts = _read(file)
    _verify(der, facts, now)
    with transaction.atomic():
        authority, created = DeviceAuthority.objects.get_or_create(
            sha256=facts.sha256,
            defaults={
                "name": (name or _common_name(facts.subject))[:200],
                "trusted_until": until,
                "subject": facts.subject[:500],
                "der": der,
                "not_before": facts.not_before,
                "not_after": facts.not_after,
                "created_at": now,
            },
        )
        if not created:
            authority.enabled, authority.trusted_until = True, until
            authority.name = name[:200] or authority.name
            authority.save(update_fields=["enabled", "trusted_until", "name"])
        recording.record(
            "device_ca.trusted",
            actor=actor,
            target=authority,
            details={"sha256": facts.sha256, "until": until.isoformat() if until else ""},
            at=now,
        )
    return authority


def switch(authority: DeviceAuthority, *, enabled: bool, actor: Actor, now: datetime) -> None:
    """Trust a CA that is known, or trust it no longer. Enrolments that it took part in go on."""
    with transaction.atomic():
        changed = DeviceAuthority.objects.filter(pk=authority.pk, enabled=not enabled).update(
            enabled=enabled, trusted_until=None
        )
        if changed:
            action = "device_ca.trusted" if enabled else "device_ca.not_trusted"
            recording.record(action, actor=actor, target=authority, at=now)
    authority.refresh_from_db()


def note_use(anchor: DeviceAnchor, session: EnrollmentSession, *, actor: Actor, now: datetime) -> None:
    """Record that a device got in by the word of a CA that is not Apple's. In the transaction of the act."""
    if is_apple(anchor.sha256):
        return
    authority = DeviceAuthority.objects.get(sha256=anchor.sha256)
    DeviceAuthority.objects.filter(pk=authority.pk).update(last_used_at=now)
    recording.record(
        "device_ca.used",
        actor=actor,
        target=authority,
        details={
            "session": str(session.uuid),
            "serial_number": session.serial_number,
            "device_certificate": session.device_certificate_sha256,
        },
        at=now,
    )


def _read(file: bytes) -> tuple[bytes, CertificateFacts]:
    if len(file) > MAX_FILE:
        raise AuthorityRefused("the file is too large")
    try:
        der = load_certificates(file)[0]
        return der, describe(der)
    except Malformed as error:
        raise AuthorityRefused(error.reason) from error


def _verify(der: bytes, facts: CertificateFacts, now: datetime) -> None:
    if not facts.is_ca:
        raise AuthorityRefused(f"{facts.subject} is not a CA certificate")
    if facts.sha256 == APPLE_DEVICE_CA.sha256:
        raise AuthorityRefused("Apple's device CA is trusted already: it is built in")
    if not facts.not_before <= now <= facts.not_after:
        raise AuthorityRefused(f"{facts.subject} is not valid now")
    public_key = read_identifiers(der).public_key
    try:
        verify_key(public_key)
    except KeyRefused as error:
        raise AuthorityRefused(error.reason) from error
    # An issuer's certificates say what it was asked to say: its phase is the third, never the second.
    if IssuerKey.objects.filter(public_key=public_key).exists():
        raise AuthorityRefused("that is an issuer that this server issues with or trusts for other purposes")


def _common_name(subject: str) -> str:
    names = [part.partition("=")[2] for part in subject.split(",") if part.startswith("CN=")]
    return names[0] if names else subject
