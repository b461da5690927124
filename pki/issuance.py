"""Issuing certificates: decide, record, sign. The certificate holds what the record says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.db import IntegrityError, transaction

from audit.recording import Actor, record
from pki import issuers, keys
from pki.core.algorithms import PublicKey
from pki.core.certificates import CertificateFields, build_certificate, describe
from pki.core.names import Name, NameRefused
from pki.core.policy import KeyRefused, verify_key
from pki.models import Certificate, Issuer, IssuerCertificate, IssuerKey, IssuerKind, IssuerState, Purpose

SERIAL_NUMBER_TRIES = 5


class IssuanceRefused(Exception):
    """No certificate is issued; ``reason`` says why, in words for an administrator."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Grant:
    """The decision to issue: everything that the certificate will hold but its key.

    ``binding``: the enrollment session it is for. ``validity_days``: None for the issuer's default.
    ``reason``: on what ground, for the record.
    """

    issuer: Issuer
    purpose: Purpose
    subject: Name
    san: tuple[tuple[str, str], ...] = ()
    binding: UUID | None = None
    validity_days: int | None = None
    renewed_from: Certificate | None = None
    reason: str = ""


class _Usage(NamedTuple):
    key_encipherment: bool
    extended: tuple[str, ...]


_USAGES: Mapping[Purpose, _Usage] = {
    Purpose.OTA_IDENTITY: _Usage(True, ("clientAuth",)),
    Purpose.MDM_IDENTITY: _Usage(True, ("clientAuth",)),
    Purpose.PROFILE_SIGNING: _Usage(False, ()),
    Purpose.SCEP_RECIPIENT: _Usage(True, ()),
    Purpose.SERVER_TLS: _Usage(True, ("serverAuth",)),
}


def issue(grant: Grant, public_key: bytes, *, actor: Actor, now: datetime) -> Certificate:
    """Issue a certificate for ``public_key`` (DER of a SubjectPublicKeyInfo) and record it.

    Works inside the caller's transaction: certificate and record are kept together or not at all. Raises
    :class:`IssuanceRefused` before anything is written.
    """
    if grant.issuer.state != IssuerState.ACTIVE or grant.issuer.kind == IssuerKind.TRUST_ONLY:
        raise IssuanceRefused("the issuer does not issue certificates")
    usage = _USAGES.get(grant.purpose)
    if usage is None:
        raise IssuanceRefused("certificates for this purpose are not issued here")
    if not grant.subject and not grant.san:
        raise IssuanceRefused("the certificate would name nobody")
    try:
        key = verify_key(public_key)
        issuer_key = issuers.current_key(grant.issuer)
        authority = issuers.current_certificate(issuer_key)
        private_key = keys.issuer_private_key(issuer_key)
    except (KeyRefused, issuers.IssuerMissing, keys.KeyUnavailable) as error:
        raise IssuanceRefused(str(error)) from None
    if key == private_key.public_key():
        raise IssuanceRefused("the key is the issuer's own")
    not_before, not_after = _validity(grant, authority, now)
    fields = CertificateFields(
        subject=grant.subject,
        # Encoded anew: nothing of the request's bytes gets into the certificate.
        public_key=key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        serial_number=0,
        not_before=not_before,
        not_after=not_after,
        san=grant.san,
        key_usage=_key_usage(usage, key),
        extended_key_usage=usage.extended,
        crl_url=issuers.crl_url(issuer_key),
        issuer_url=issuers.certificate_url(grant.issuer),
    )
    for _try in range(SERIAL_NUMBER_TRIES):
        numbered = replace(fields, serial_number=x509.random_serial_number())
        try:
            der = build_certificate(
                numbered, issuer_certificate=bytes(authority.der), private_key=private_key
            )
        except NameRefused as error:
            raise IssuanceRefused(error.reason) from None
        certificate = _record(grant, issuer_key, der, actor, now)
        if certificate is not None:
            return certificate
    raise IssuanceRefused("no unused serial number was found")


def _validity(grant: Grant, authority: IssuerCertificate, now: datetime) -> tuple[datetime, datetime]:
    """From a little earlier to the days granted, and never past the issuer's own certificate."""
    days = grant.issuer.leaf_validity_days if grant.validity_days is None else grant.validity_days
    if days < 1:
        raise IssuanceRefused("the certificate would not be valid for a day")
    if not authority.not_before <= now < authority.not_after:
        raise IssuanceRefused("the issuer's certificate is not valid now")
    return (
        max(now - issuers.BACKDATE, authority.not_before),
        min(now + timedelta(days=days), authority.not_after),
    )


def _key_usage(usage: _Usage, key: PublicKey) -> frozenset[str]:
    if usage.key_encipherment and isinstance(key, rsa.RSAPublicKey):
        return frozenset({"digitalSignature", "keyEncipherment"})
    return frozenset({"digitalSignature"})


def _record(
    grant: Grant, issuer_key: IssuerKey, der: bytes, actor: Actor, now: datetime
) -> Certificate | None:
    """Keep the certificate and who asked for it. None where its serial number is taken already."""
    facts = describe(der)
    try:
        with transaction.atomic():
            certificate = Certificate.objects.create(
                issuer_key=issuer_key,
                serial_number=facts.serial_number,
                purpose=grant.purpose,
                subject=facts.subject[:500],
                subject_alternative_name=facts.subject_alternative_name[:500],
                der=der,
                sha256=facts.sha256,
                public_key_sha256=facts.public_key_sha256,
                not_before=facts.not_before,
                not_after=facts.not_after,
                binding=grant.binding,
                renewed_from=grant.renewed_from,
            )
            record(
                "certificate.issued",
                actor=actor,
                target=certificate,
                reason=grant.reason,
                details={
                    "issuer": grant.issuer.slug,
                    "purpose": grant.purpose.value,
                    "serial_number": certificate.serial_number,
                    "sha256": certificate.sha256,
                },
                at=now,
            )
    except IntegrityError:
        if Certificate.objects.filter(issuer_key=issuer_key, serial_number=facts.serial_number).exists():
            return None
        raise
    return certificate
