"""Signing profiles: by whoever was chosen, else with a certificate of our own that is renewed by itself."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db import transaction

from audit.recording import SERVER
from pki import issuers, keys
from pki.core import cms
from pki.core.algorithms import PrivateKey
from pki.core.certificates import load_certificates
from pki.issuance import Grant, IssuanceRefused, issue
from pki.models import Certificate, CertificateStatus, HeldKey, Issuer, ProfileSigner, Purpose

SIGNER_ALGORITHM = "RSA-2048"
RENEW_BEFORE = timedelta(days=60)


@dataclass(frozen=True)
class Signer:
    """Who signs profiles now: its certificate (DER), what goes along, and the key."""

    certificate: bytes
    chain: tuple[bytes, ...]
    private_key: PrivateKey = field(repr=False)

    @property
    def sha256(self) -> str:
        """Fingerprint of the certificate: lower-case hexadecimal."""
        return hashlib.sha256(self.certificate).hexdigest()


def sign_profile(content: bytes, *, now: datetime) -> bytes:
    """A profile (XML property list) as CMS SignedData, DER, with the signer's certificate and its chain.

    Raises as :func:`signer`.
    """
    return sign_by(signer(now), content, now=now)


def sign_by(by: Signer, content: bytes, *, now: datetime) -> bytes:
    """The same with a signer that the caller has looked up, and keeps."""
    return cms.sign(
        content,
        certificate=by.certificate,
        private_key=by.private_key,
        chain=by.chain,
        signing_time=now,
    )


def signer(now: datetime) -> Signer:
    """The signer that was chosen (:mod:`pki.profile_signers`), else that of the default issuer.

    That of an issuer has purpose PROFILE_SIGNING and is made at the first use. After a re-key the links go
    along: a device that knows only the earlier root finds its way by them. An imported one that has expired
    does not sign. Raises :class:`pki.issuers.IssuerMissing` where there is no issuer,
    :class:`pki.issuance.IssuanceRefused` where the issuer issues none.
    """
    chosen = ProfileSigner.objects.select_related("issuer").filter(in_use=True).first()
    if chosen is not None and chosen.issuer is None:
        if chosen.not_after is None or chosen.not_after <= now:
            raise IssuanceRefused(f"the certificate of {chosen}, which was chosen to sign, has expired")
        chain = bytes(chosen.chain)
        above = load_certificates(chain) if chain else ()
        return Signer(bytes(chosen.der), above, keys.signer_private_key(chosen))
    issuer = chosen.issuer if chosen is not None and chosen.issuer else issuers.default_issuer()
    held = profile_signer(issuer, now)
    links = issuers.links_to(issuers.current_key(issuer))
    return Signer(bytes(held.certificate.der), (*issuers.chain(issuer), *links), keys.held_private_key(held))


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
    private_key = _same_key(issuer) or keys.new_private_key(SIGNER_ALGORITHM)
    grant = Grant(
        issuer=issuer,
        purpose=Purpose.PROFILE_SIGNING,
        subject=(("CN", f"{issuer.name[:46]} Profile Signing"),),
        reason="signs enrolment and configuration profiles",
    )
    certificate = issue(grant, keys.public_key_der(private_key), actor=SERVER, now=now)
    return hold(certificate, private_key)


def _same_key(issuer: Issuer) -> PrivateKey | None:
    """The key of the last signer of this issuer: a renewal keeps the signer, so it keeps the key.

    Not one whose certificate was revoked.
    """
    last = (
        HeldKey.objects.select_related("certificate")
        .filter(certificate__issuer_key__issuer=issuer, certificate__purpose=Purpose.PROFILE_SIGNING)
        .order_by("-pk")
        .first()
    )
    if last is None or last.certificate.status == CertificateStatus.REVOKED:
        return None
    return keys.held_private_key(last)


def hold(certificate: Certificate, private_key: PrivateKey) -> HeldKey:
    """Keep, sealed, the private key of a certificate that this server itself uses."""
    identifier = uuid.uuid4()
    return HeldKey.objects.create(
        uuid=identifier,
        certificate=certificate,
        private_key_sealed=keys.seal_held_key(private_key, identifier),
    )
