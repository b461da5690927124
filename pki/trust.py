"""Whose certificates are accepted, and for what.

A certificate of ours is accepted because its very bytes are in our record. One of another CA is accepted
where an administrator trusts that CA for the purpose; it gets a record when it is first presented.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import transaction
from django.utils import timezone
from django.utils.text import slugify

from audit.recording import Actor, record
from database import instances
from pki.core.certificates import (
    CertificateFacts,
    describe,
    load_certificates,
    read_identifiers,
)
from pki.core.path import PathError, verify_issued_by
from pki.core.policy import KeyRefused, verify_key
from pki.core.scan import Malformed, scan
from pki.issuers import add_certificate, add_key
from pki.keys import OURS
from pki.models import (
    Certificate,
    CertificateStatus,
    Issuer,
    IssuerCertificate,
    IssuerCertificateKind,
    IssuerKey,
    IssuerKeyState,
    IssuerKind,
    IssuerState,
    Purpose,
)
from pki.records import common_name

# For how long a process goes on with the trusted issuers that it read (threats A5). Revocation and status of
# certificates are read anew each time.
ANCHORS_KEPT_SECONDS = 5.0
# All generations but closed ones: the next may issue already, earlier ones have certificates in force.
_TRUSTED_KEY_STATES = frozenset({IssuerKeyState.NEXT, IssuerKeyState.CURRENT, IssuerKeyState.PREVIOUS})
_TRUSTED_ISSUER_STATES = frozenset({IssuerState.ACTIVE, IssuerState.RETIRED})
_IDENTITY_USAGES = frozenset({"clientAuth", "2.5.29.37.0"})
_IDENTITIES = frozenset({Purpose.MDM_IDENTITY, Purpose.OTA_IDENTITY})


class Untrusted(Exception):
    """The certificate is not accepted.

    ``reason``: a short fixed word group. ``certificate``: our record of it, where there is one.
    """

    def __init__(self, reason: str, certificate: Certificate | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.certificate = certificate


class TrustRefused(Exception):
    """That CA cannot be trusted so; ``reason`` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


# --- Accepting a certificate -----------------------------------------------------------------------------


def identify(der: bytes, *, purpose: Purpose, now: datetime) -> Certificate:
    """The record of a certificate that may be used for ``purpose`` now.

    The caller has checked that whoever presents it holds its key. One indexed query for a certificate that is
    on record. Raises :class:`Untrusted`: "unknown certificate", "expired", "not yet valid", "revoked",
    "superseded", "wrong purpose", "issuer not trusted".
    """
    certificate = (
        Certificate.objects.select_related("issuer_key__issuer")
        .defer("issuer_key__private_key_sealed")
        .filter(sha256=hashlib.sha256(der).hexdigest())
        .first()
    )
    if certificate is not None:
        return verify_record(certificate, purpose=purpose, now=now)
    return _identify_foreign(der, purpose, now)


def verify_record(certificate: Certificate, *, purpose: Purpose, now: datetime) -> Certificate:
    """Check a record that was found by the fingerprint of the presented bytes, and return it.

    No query if ``issuer_key__issuer`` came with it. Raises :class:`Untrusted` as :func:`identify`.
    """
    # 1. It was neither revoked nor followed by another.
    if certificate.status == CertificateStatus.REVOKED:
        raise Untrusted("revoked", certificate)
    if certificate.status != CertificateStatus.ISSUED:
        raise Untrusted("superseded", certificate)
    # 2. It is valid now.
    if now < certificate.not_before:
        raise Untrusted("not yet valid", certificate)
    if now > certificate.not_after:
        raise Untrusted("expired", certificate)
    # 3. It was issued for this. What other CAs issued says nothing of that: there the trust in them decides.
    if not certificate.foreign and certificate.purpose != purpose:
        raise Untrusted("wrong purpose", certificate)
    # 4. Its issuer is trusted for this.
    issuer_key = certificate.issuer_key
    if not _is_trusted(issuer_key.issuer, issuer_key.state, purpose):
        raise Untrusted("issuer not trusted", certificate)
    return certificate


def still_trusted(purpose: Purpose) -> str:
    """What :func:`verify_record` asks beside the time, as SQL for PostgreSQL.

    Of a certificate ``f``, the key ``k`` of its issuer, and the issuer ``s``.
    """
    keys, issuers = (
        ", ".join(f"'{state.value}'" for state in sorted(states))
        for states in (_TRUSTED_KEY_STATES, _TRUSTED_ISSUER_STATES)
    )
    return f"""
        f.status = '{CertificateStatus.ISSUED.value}' AND k.state IN ({keys}) AND s.state IN ({issuers})
        AND (f."foreign" OR f.purpose = '{purpose.value}') AND s.trusted_for @> '["{purpose.value}"]'::jsonb
    """


def _is_trusted(issuer: Issuer, key_state: str, purpose: Purpose) -> bool:
    return (
        issuer.state in _TRUSTED_ISSUER_STATES
        and key_state in _TRUSTED_KEY_STATES
        and purpose.value in issuer.trusted_for
    )


@dataclass(frozen=True)
class _Anchor:
    """A certificate of a CA that is only trusted."""

    issuer_key: IssuerKey
    der: bytes
    subject: bytes
    not_before: datetime
    not_after: datetime


_anchors_read: tuple[float, tuple[_Anchor, ...]] = (float("-inf"), ())


def _anchors() -> tuple[_Anchor, ...]:
    """The trusted CAs of others, as read at most :data:`ANCHORS_KEPT_SECONDS` ago."""
    global _anchors_read  # noqa: PLW0603 - one small cache in the process, replaced as a whole
    read_at, anchors = _anchors_read
    if time.monotonic() - read_at > ANCHORS_KEPT_SECONDS:
        rows = IssuerCertificate.objects.select_related("issuer_key__issuer").filter(
            issuer_key__issuer__kind=IssuerKind.TRUST_ONLY
        )
        anchors = tuple(
            _Anchor(
                row.issuer_key,
                bytes(row.der),
                read_identifiers(bytes(row.der)).subject,
                row.not_before,
                row.not_after,
            )
            for row in rows
        )
        _anchors_read = (time.monotonic(), anchors)
    return anchors


def forget_anchors() -> None:
    """Read the trusted CAs anew at the next occasion."""
    global _anchors_read  # noqa: PLW0603
    _anchors_read = (float("-inf"), ())


def _identify_foreign(der: bytes, purpose: Purpose, now: datetime) -> Certificate:
    """Accept the certificate of another CA that is trusted for the purpose, and put it on record."""
    examined = examine(der, purpose=purpose, now=now)
    certificate, _created = Certificate.objects.select_related("issuer_key__issuer").get_or_create(
        sha256=examined.sha256,
        defaults={"issuer_key": examined.issuer_key, **{name: getattr(examined, name) for name in RECORDED}},
    )
    return verify_record(certificate, purpose=purpose, now=now)


RECORDED = (
    *("serial_number", "purpose", "foreign", "subject", "subject_alternative_name", "der"),
    *("public_key_sha256", "not_before", "not_after"),
)
"""What a record says of a certificate that another CA issued, beside its fingerprint and its issuer's key."""


def examine(der: bytes, *, purpose: Purpose, now: datetime) -> Certificate:
    """The record that a certificate of another CA gets, not yet written: it may be used for ``purpose`` now.

    It is not on record, as far as the caller knows. Raises :class:`Untrusted` as :func:`identify`.
    """
    try:
        scan(der)
        anchor = _find_anchor(der, purpose, now)
        facts = describe(der)
    except Malformed:
        raise Untrusted("unknown certificate") from None
    _verify_foreign(facts, purpose, now)
    return instances.new(
        Certificate,
        issuer_key=anchor.issuer_key,
        serial_number=facts.serial_number,
        purpose=purpose,
        foreign=True,
        subject=facts.subject[:500],
        subject_alternative_name=facts.subject_alternative_name[:500],
        der=der,
        sha256=facts.sha256,
        public_key_sha256=facts.public_key_sha256,
        not_before=facts.not_before,
        not_after=facts.not_after,
    )


def _find_anchor(der: bytes, purpose: Purpose, now: datetime) -> _Anchor:
    """The trusted CA whose key signed it. ``der`` has been scanned. Raises :class:`Untrusted`."""
    issuer = read_identifiers(der).issuer
    reason = "unknown certificate"
    for anchor in _anchors():
        if anchor.subject != issuer:
            continue
        try:
            verify_issued_by(der, anchor.der, scanned=True)
        except PathError:
            continue
        key = anchor.issuer_key
        if _is_trusted(key.issuer, key.state, purpose) and anchor.not_before <= now <= anchor.not_after:
            return anchor
        reason = "issuer not trusted"
    raise Untrusted(reason)


def _verify_foreign(facts: CertificateFacts, purpose: Purpose, now: datetime) -> None:
    if now < facts.not_before:
        raise Untrusted("not yet valid")
    if now > facts.not_after:
        raise Untrusted("expired")
    usages = facts.extended_key_usage
    if facts.is_ca or (purpose in _IDENTITIES and usages and not _IDENTITY_USAGES.intersection(usages)):
        raise Untrusted("wrong purpose")
    # The record could not hold it, and RFC 5280 section 4.1.2.2 forbids it.
    if len(facts.serial_number) > 40 or facts.serial_number.startswith("-"):
        raise Untrusted("unknown certificate")
    # Nor this (PostgreSQL), and no name is spelt so (section 4.2.1.6).
    if "\0" in facts.subject_alternative_name:
        raise Untrusted("unknown certificate")


def authorities(purpose: Purpose) -> list[bytes]:
    """The certificates (DER) of the CAs whose certificates are accepted for ``purpose``, of all generations.

    Also of one that is only made: what it issues from one moment to the next is then known already.
    """
    keys = IssuerKey.objects.filter(state__in=_TRUSTED_KEY_STATES, issuer__state__in=_TRUSTED_ISSUER_STATES)
    keys = keys.select_related("issuer").defer("private_key_sealed")
    trusted = [key.pk for key in keys if purpose.value in key.issuer.trusted_for]
    rows = IssuerCertificate.objects.filter(issuer_key__in=trusted, revoked_at=None).order_by("pk")
    return [bytes(der) for der in rows.values_list("der", flat=True)]


# --- Trusting another CA ---------------------------------------------------------------------------------


def trust_issuer(
    certificates_pem: bytes, *, purpose: Purpose, actor: Actor, name: str = "", now: datetime | None = None
) -> Issuer:
    """Accept from now on, for ``purpose``, the certificates that another CA issued.

    ``certificates_pem``: its certificate (PEM, DER or CMS), and those above it where there are any. What
    issues no other certificate in the file is trusted to issue; what stands above only goes along. Trusting
    the same CA for one more purpose adds the purpose. Raises :class:`TrustRefused`.
    """
    now = now or timezone.now()
    try:
        found = tuple(dict.fromkeys(load_certificates(certificates_pem)))
        described = {der: describe(der) for der in found}
    except Malformed as error:
        raise TrustRefused(error.reason) from None
    issuing = [der for der in found if not any(_issued(der, other) for other in found if other != der)]
    for der in issuing:
        _verify_authority(der, described[der], now)
    with transaction.atomic():
        known = IssuerCertificate.objects.select_related("issuer_key__issuer").filter(
            sha256__in=[described[der].sha256 for der in issuing]
        )
        issuers = {row.issuer_key.issuer for row in known}
        if any(issuer.kind != IssuerKind.TRUST_ONLY for issuer in issuers):
            raise TrustRefused("that is an issuer of our own")
        if issuers and (len(issuers) > 1 or len(known) < len(issuing)):
            raise TrustRefused("some of these CAs are trusted already, and some are not: one file each")
        issuer = issuers.pop() if issuers else _add_issuer(name, issuing, found, described)
        if purpose.value not in issuer.trusted_for:
            issuer.trusted_for = [*issuer.trusted_for, purpose.value]
        issuer.state = IssuerState.ACTIVE
        issuer.save(update_fields=["trusted_for", "state"])
        record(
            "issuer.trusted",
            actor=actor,
            target=issuer,
            details={"purpose": purpose.value, "sha256": [described[der].sha256 for der in issuing]},
            at=now,
        )
    forget_anchors()
    return issuer


def _issued(authority: bytes, certificate: bytes) -> bool:
    try:
        verify_issued_by(certificate, authority)
    except PathError:
        return False
    return read_identifiers(authority).public_key != read_identifiers(certificate).public_key


def _verify_authority(der: bytes, facts: CertificateFacts, now: datetime) -> None:
    if not facts.is_ca:
        raise TrustRefused(f"{facts.subject} is not a CA certificate")
    if not facts.not_before <= now <= facts.not_after:
        raise TrustRefused(f"{facts.subject} is not valid now")
    if len(facts.serial_number) > 40:
        raise TrustRefused(f"{facts.subject} has too long a serial number")
    try:
        verify_key(read_identifiers(der).public_key)
    except KeyRefused as error:
        raise TrustRefused(error.reason) from None
    # As another system's its certificates would count without being on record here.
    if IssuerKey.objects.filter(OURS, public_key=read_identifiers(der).public_key).exists():
        raise TrustRefused("that is an issuer of our own")


def _add_issuer(
    name: str,
    issuing: Sequence[bytes],
    found: Sequence[bytes],
    described: dict[bytes, CertificateFacts],
) -> Issuer:
    subject = described[issuing[0]].subject
    name = name or common_name(subject) or subject
    issuer = Issuer.objects.create(
        slug=_unused_slug(name),
        name=name[:200],
        kind=IssuerKind.TRUST_ONLY,
        trusted_for=[],
    )
    above = tuple(der for der in found if der not in issuing)
    by_key: dict[bytes, list[bytes]] = {}
    for der in sorted(issuing, key=lambda der: described[der].not_after, reverse=True):
        by_key.setdefault(read_identifiers(der).public_key, []).append(der)
    for generation, certificates in enumerate(by_key.values()):
        issuer_key = add_key(
            issuer,
            certificate=certificates[0],
            algorithm=described[certificates[0]].key[:20],
            state=IssuerKeyState.PREVIOUS if generation else IssuerKeyState.CURRENT,
        )
        for position, der in enumerate(certificates):
            self_signed = read_identifiers(der).issuer == read_identifiers(der).subject
            add_certificate(
                issuer_key,
                der,
                kind=IssuerCertificateKind.SELF_SIGNED if self_signed else IssuerCertificateKind.SUBORDINATE,
                above=above,
                is_current=position == 0,
            )
    return issuer


def _unused_slug(text: str) -> str:
    base = slugify(text)[:40] or "trusted"
    taken = set(Issuer.objects.filter(slug__startswith=base).values_list("slug", flat=True))
    return next(
        slug for slug in (base, *(f"{base}-{number}" for number in range(2, 10000))) if slug not in taken
    )
