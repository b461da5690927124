"""Choosing who signs profiles: an issuer of ours, or a certificate that was brought with its key.

A device lets a signed profile be replaced by hand only by one of the same signer; what comes by MDM it takes
from any. So a change is told with its consequences, and who signed what a device has is kept with its
enrolment.
"""

from __future__ import annotations

import uuid
from datetime import datetime

from django.db import IntegrityError, transaction

from audit.recording import Actor, record
from pki import keys
from pki.core.certificates import describe, encode_pem, read_identifiers
from pki.core.key_files import KeyFileRefused, decode_key_file
from pki.core.policy import KeyRefused, verify_key
from pki.models import Issuer, IssuerKind, IssuerState, ProfileSigner


class SignerRefused(Exception):
    """It cannot sign profiles; ``reason`` says why, for the administrator."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def import_signer(
    data: bytes, *, key: bytes = b"", password: str = "", actor: Actor, now: datetime
) -> ProfileSigner:
    """Keep a certificate with its key and chain (PEM or PKCS #12), not in use yet.

    ``key``: the private key where it is in a file of its own. Raises :class:`SignerRefused`.
    """
    try:
        brought = decode_key_file(data, key=key, password=password)
        facts = describe(brought.certificate)
        verify_key(read_identifiers(brought.certificate).public_key)
    except (KeyFileRefused, KeyRefused) as error:
        raise SignerRefused(error.reason) from None
    if facts.is_ca:
        raise SignerRefused("that is the certificate of a CA")
    if not facts.not_before <= now <= facts.not_after:
        raise SignerRefused("the certificate is not valid now")
    if ProfileSigner.objects.filter(sha256=facts.sha256).exists():
        raise SignerRefused("that certificate is here already")
    identifier = uuid.uuid4()
    with transaction.atomic():
        signer = ProfileSigner.objects.create(
            uuid=identifier,
            subject=facts.subject[:500],
            issued_by=facts.issuer[:500],
            serial_number=facts.serial_number[:40],
            sha256=facts.sha256,
            not_before=facts.not_before,
            not_after=facts.not_after,
            der=brought.certificate,
            chain="".join(encode_pem(der) for der in brought.chain).encode(),
            private_key_sealed=keys.seal_signer_key(brought.private_key, identifier),
        )
        record(
            "profile_signer.imported",
            actor=actor,
            target=signer,
            details={"sha256": signer.sha256, "chain": len(brought.chain)},
            at=now,
        )
    return signer


def use(signer: ProfileSigner, *, actor: Actor, now: datetime) -> ProfileSigner:
    """Let this one sign from now on. Raises :class:`SignerRefused`."""
    if signer.not_after is not None and signer.not_after <= now:
        raise SignerRefused("the certificate has expired")
    try:
        with transaction.atomic():
            _stop(now)
            rows = ProfileSigner.objects.filter(pk=signer.pk)
            if not rows.update(in_use=True, used_since=now, used_until=None):
                raise SignerRefused("it is not here any more")
            record("profile_signer.chosen", actor=actor, target=signer, at=now)
    except IntegrityError:
        raise SignerRefused("somebody else has just chosen another one: look at it again") from None
    signer.refresh_from_db()
    return signer


def use_issuer(issuer: Issuer, *, actor: Actor, now: datetime) -> ProfileSigner:
    """Let an issuer of ours sign from now on. Raises :class:`SignerRefused`."""
    if issuer.kind == IssuerKind.TRUST_ONLY or issuer.state != IssuerState.ACTIVE:
        raise SignerRefused("that issuer issues no certificates")
    signer, _created = ProfileSigner.objects.get_or_create(issuer=issuer)
    return use(signer, actor=actor, now=now)


def remove(signer: ProfileSigner, *, actor: Actor, now: datetime) -> None:
    """Forget an imported certificate and its key for good. Raises :class:`SignerRefused`."""
    with transaction.atomic():
        row = ProfileSigner.objects.select_for_update().filter(pk=signer.pk).first()
        if row is None or row.in_use:
            raise SignerRefused("it signs profiles now: let another one sign first")
        record("profile_signer.removed", actor=actor, target=row, details={"sha256": row.sha256}, at=now)
        row.delete()


def use_default(*, actor: Actor, now: datetime) -> None:
    """Let the default issuer sign again, as it does where nothing was chosen."""
    with transaction.atomic():
        stopped = _stop(now)
        record("profile_signer.default", actor=actor, details={"stopped": stopped}, at=now)


def _stop(now: datetime) -> int:
    # One row decides who is next: two administrators at once take turns at it.
    rows = ProfileSigner.objects.select_for_update().filter(in_use=True)
    return ProfileSigner.objects.filter(pk__in=[row.pk for row in rows]).update(in_use=False, used_until=now)


def in_use() -> ProfileSigner | None:
    """The one that was chosen, if any."""
    return ProfileSigner.objects.select_related("issuer").filter(in_use=True).first()
