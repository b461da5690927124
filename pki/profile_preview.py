"""What a certificate by some rules would look like: a sample that nobody can use, and nothing is stored.

The sample has a throw-away key, and a throw-away key in the place of the issuer's signs it: a certificate
that the issuer itself signs has to be on record.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from django.utils.functional import Promise
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from pki import certificate_words, issuers, keys
from pki.core.certificate_text import certificate_text, places_of
from pki.core.certificates import (
    CertificateFacts,
    CertificateFields,
    build_certificate,
    describe,
    key_usages_of,
    load_certificate,
    sign_certificate,
    subject_key_identifier,
)
from pki.core.names import Name, NameRefused
from pki.core.profile import Rules, certificate_by
from pki.issuers import IssuerMissing
from pki.models import Issuer, IssuerCertificate, IssuerKey, IssuerState

# What a record may say; the rules choose of it.
SAMPLE_SUBJECT: Name = (
    ("CN", "sample.example.com"),
    ("OU", "Sales"),
    ("O", "Sample Ltd"),
    ("L", "Leeds"),
    ("C", "GB"),
    ("serialNumber", "C02XG0FDH7JY"),
    ("emailAddress", "anna@example.com"),
)
SAMPLE_NAMES: tuple[tuple[str, str], ...] = (
    ("DNS", "sample.example.com"),
    ("email", "anna@example.com"),
    ("URI", "urn:example:sample"),
    ("IP", "192.0.2.7"),
)


class PreviewRefused(Exception):
    """There is nothing to show; ``reason`` says why, in words for an administrator."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


Shown = tuple[tuple[str | Promise, str | Promise], ...]


@dataclass(frozen=True)
class Sample:
    """A certificate as it would be. ``shown``: title and value, field by field."""

    issuer: Issuer
    der: bytes
    facts: CertificateFacts
    text: str
    shown: Shown


def sample(rules: Rules, issuer: Issuer | None, *, now: datetime) -> Sample:
    """A certificate by ``rules`` as ``issuer`` (None: the default one) would issue it now.

    Raises :class:`PreviewRefused`.
    """
    try:
        issuer = issuer or issuers.default_issuer()
        issuer_key = issuers.current_key(issuer)
        authority = issuers.current_certificate(issuer_key)
    except IssuerMissing as missing:
        raise PreviewRefused(str(missing)) from None
    if issuer.state != IssuerState.ACTIVE:
        raise PreviewRefused(gettext("%(name)s is not active: it issues nothing.") % {"name": issuer})
    if not authority.not_before <= now < authority.not_after:
        raise PreviewRefused(gettext("The certificate of %(name)s is not valid now.") % {"name": issuer})
    fields = sample_fields(rules, issuer_key, authority, now)
    if not fields.subject and not fields.san:
        raise PreviewRefused(gettext("The certificate would name nobody."))
    try:
        der = _sign(fields, bytes(authority.der), issuer_key)
    except NameRefused as refused:
        raise PreviewRefused(refused.reason) from None
    facts = describe(der)
    return Sample(issuer, der, facts, certificate_text(der), shown_fields(der, facts))


def sample_fields(
    rules: Rules, issuer_key: IssuerKey, authority: IssuerCertificate, now: datetime
) -> CertificateFields:
    """What the certificate holds: what :func:`pki.issuance.preview` says once the rules are stored."""
    days = rules.validity_days or issuer_key.issuer.leaf_validity_days
    return certificate_by(
        rules,
        subject=SAMPLE_SUBJECT,
        san=SAMPLE_NAMES,
        key=throw_away_key(f"RSA-{rules.min_rsa_bits}").public_key(),
        not_before=max(now - issuers.BACKDATE, authority.not_before),
        not_after=min(now + timedelta(days=days), authority.not_after),
        addresses=issuers.addresses(issuer_key),
    )


def _sign(fields: CertificateFields, authority: bytes, issuer_key: IssuerKey) -> bytes:
    """Signed by a stand-in with the issuer's name and key identifier, and another key."""
    algorithm = "RSA-2048" if issuer_key.algorithm.startswith("RSA") else issuer_key.algorithm
    private_key = throw_away_key(algorithm)
    real = load_certificate(authority)
    stand_in = sign_certificate(
        CertificateFields(
            subject=(),
            public_key=keys.public_key_der(private_key),
            serial_number=x509.random_serial_number(),
            not_before=fields.not_before,
            not_after=fields.not_after,
            is_ca=True,
            key_identifier=subject_key_identifier(real),
        ),
        subject=real.subject,
        issuer=None,
        private_key=private_key,
    )
    numbered = replace(fields, serial_number=x509.random_serial_number())
    return build_certificate(numbered, issuer_certificate=stand_in, private_key=private_key)


@lru_cache(maxsize=8)
def throw_away_key(algorithm: str) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    """Made once in a process, since that takes its time, and never kept."""
    return keys.new_private_key(algorithm)


def shown_fields(der: bytes, facts: CertificateFacts) -> Shown:
    """Title and value of what people look at in a certificate, as its own page shows them."""
    places = places_of(der)
    none = _("none")
    return (
        (_("subject"), facts.subject or none),
        (_("alternative names"), facts.subject_alternative_name or none),
        (_("issuer"), facts.issuer),
        (_("valid from"), f"{facts.not_before:%Y-%m-%d %H:%M} UTC"),
        (_("valid until"), f"{facts.not_after:%Y-%m-%d %H:%M} UTC"),
        (_("key"), facts.key),
        (
            _("the key may be used for"),
            certificate_words.in_words(key_usages_of(der) or (), certificate_words.KEY_USAGES),
        ),
        (
            _("purposes in the certificate"),
            certificate_words.in_words(facts.extended_key_usage, certificate_words.EXTENDED_KEY_USAGES),
        ),
        (_("address of the CRL"), ", ".join(places.crl) or none),
        (_("address of OCSP"), ", ".join(places.ocsp) or none),
        (_("address of the issuer's certificate"), ", ".join(places.issuer) or none),
    )
