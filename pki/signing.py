"""Signing configuration profiles: a key and certificate of this server's own, renewed by itself."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta

from django.db import transaction

from audit.recording import SERVER
from pki import issuers, keys
from pki.core import cms
from pki.core.algorithms import PrivateKey
from pki.issuance import Grant, issue
from pki.models import Certificate, CertificateStatus, HeldKey, Issuer, Purpose

SIGNER_ALGORITHM = "RSA-2048"
RENEW_BEFORE = timedelta(days=60)


def sign_profile(content: bytes, *, now: datetime) -> bytes:
    """A profile (XML property list) as CMS SignedData, DER, with the signer's certificate and its chain.

    After a re-key the links go along: a device that knows only the earlier root finds its way by them. The
    signer is a certificate of the default issuer with purpose PROFILE_SIGNING, made at the first use.
    Raises :class:`pki.issuers.IssuerMissing` where there is no issuer.
    """
    issuer = issuers.default_issuer()
    held = profile_signer(issuer, now)
    return cms.sign(
        content,
        certificate=bytes(held.certificate.der),
        private_key=keys.held_private_key(held),
        chain=[*issuers.chain(issuer), *issuers.links_to(issuers.current_key(issuer))],
        signing_time=now,
    )


def profile_signer(issuer: Issuer, now: datetime) -> HeldKey:
    """The signer of profiles of an issuer; a new one is made where there is none or it ends soon."""
    held = _usable(issuer, now)
    if held is not None:
        return held
    with transaction.atomic():
        # Who comes second finds what the first has made.
        Issuer.objects.select_for_update().get(pk=issuer.pk)
        return _usable(issuer, now) or _make(issuer, now)


def _usable(issuer: Issuer, now: datetime) -> HeldKey | None:
    """The newest signer in force. One that ends soon counts only where the issuer itself ends then."""
    held = (
        HeldKey.objects.select_related("certificate")
        .filter(
            certificate__issuer_key=issuers.current_key(issuer),
            certificate__purpose=Purpose.PROFILE_SIGNING,
            certificate__status=CertificateStatus.ISSUED,
            certificate__not_after__gt=now,
        )
        .order_by("-certificate__not_after")
        .first()
    )
    if held is None or held.certificate.not_after - now > RENEW_BEFORE:
        return held
    authority = issuers.current_certificate(issuers.current_key(issuer))
    return held if held.certificate.not_after >= authority.not_after else None


def _make(issuer: Issuer, now: datetime) -> HeldKey:
    private_key = keys.new_private_key(SIGNER_ALGORITHM)
    grant = Grant(
        issuer=issuer,
        purpose=Purpose.PROFILE_SIGNING,
        subject=(("CN", f"{issuer.name[:46]} Profile Signing"),),
        reason="signs enrolment and configuration profiles",
    )
    certificate = issue(grant, keys.public_key_der(private_key), actor=SERVER, now=now)
    return hold(certificate, private_key)


def hold(certificate: Certificate, private_key: PrivateKey) -> HeldKey:
    """Keep, sealed, the private key of a certificate that this server itself uses."""
    identifier = uuid.uuid4()
    return HeldKey.objects.create(
        uuid=identifier,
        certificate=certificate,
        private_key_sealed=keys.seal_held_key(private_key, identifier),
    )
