"""Issuing certificates: decide, record, sign. The certificate holds what the record says."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID

from cryptography import x509
from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone

from audit.models import AuditEvent
from audit.recording import Actor, event_of
from database import instances
from pki import issuers, keys, profiles
from pki.core.algorithms import PrivateKey
from pki.core.certificates import CertificateFields, RecordedFacts, build_certificate, recorded_facts
from pki.core.names import Name, NameRefused, encode_alternative_names, encode_name
from pki.core.policy import KeyRefused, verify_key
from pki.core.profile import Addresses, Rules, certificate_by, verify_key_by
from pki.models import (
    Certificate,
    Issuer,
    IssuerCertificate,
    IssuerKey,
    IssuerKeyState,
    IssuerKind,
    IssuerState,
    Purpose,
)

SERIAL_NUMBER_TRIES = 5
_ISSUING_STATES = frozenset({IssuerState.ACTIVE})
_ISSUING_KEY_STATES = frozenset({IssuerKeyState.CURRENT, IssuerKeyState.NEXT})
_SELF_ISSUING_STATES = frozenset({IssuerState.ACTIVE, IssuerState.RETIRED})
_SELF_ISSUING_KEY_STATES = frozenset(IssuerKeyState)


class IssuanceRefused(Exception):
    """No certificate is issued; ``reason`` says why, in words for an administrator."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Grant:
    """The decision to issue: everything that the certificate will hold but its key.

    ``binding``: the enrollment session it is for. ``validity_days``: None for what profile and issuer say;
    more than the profile says is not given. ``issuer_key``: the generation that signs, None for the current.
    ``reason``: on what ground, for the record.
    """

    issuer: Issuer
    purpose: Purpose
    subject: Name
    san: tuple[tuple[str, str], ...] = ()
    binding: UUID | None = None
    validity_days: int | None = None
    renewed_from: Certificate | None = None
    issuer_key: IssuerKey | None = None
    reason: str = ""


@dataclass(frozen=True)
class Means:
    """What is signed with, for who has read it just now: else :func:`issue` reads it.

    ``authority``: the certificate handed out for ``issuer_key``, with its bytes in ``der``.
    """

    issuer_key: IssuerKey
    authority: IssuerCertificate
    der: bytes = field(repr=False)
    private_key: PrivateKey = field(repr=False)
    rules: Rules


@dataclass(frozen=True)
class Prepared:
    """A certificate that is signed and not recorded: nobody may see it before both rows are written."""

    certificate: Certificate
    event: AuditEvent


def prepare(grant: Grant, public_key: bytes, means: Means, *, actor: Actor, now: datetime) -> Prepared:
    """What :func:`issue` makes and writes, for who writes it together with more in one statement.

    The caller makes sure that the issuer still issues when it is written. Raises :class:`IssuanceRefused`.
    """
    plan = _plan(grant, public_key, means, now, x509.random_serial_number())
    certificate = _row_of(grant, plan.means.issuer_key, *_signed(plan))
    return Prepared(certificate, _event_of(grant, certificate, actor, now))


def issue(grant: Grant, public_key: bytes, *, actor: Actor, now: datetime) -> Certificate:
    """Issue a certificate for ``public_key`` (DER of a SubjectPublicKeyInfo) and record it.

    What it holds follows from the certificate profile of its purpose and from the grant. Works inside the
    caller's transaction: certificate and record are kept together or not at all. Raises
    :class:`IssuanceRefused` before anything is written.
    """
    plan = _plan(grant, public_key, _means(grant), now, x509.random_serial_number())
    for again in range(SERIAL_NUMBER_TRIES):
        if again:
            plan = replace(plan, fields=replace(plan.fields, serial_number=x509.random_serial_number()))
        certificate = _row_of(grant, plan.means.issuer_key, *_signed(plan))
        if _record(grant, certificate, actor, now):
            return certificate
    raise IssuanceRefused("no unused serial number was found")


def preview(grant: Grant, public_key: bytes, *, now: datetime) -> CertificateFields:
    """What :func:`issue` would put into the certificate now, but for its number. Signs and writes nothing.

    Raises :class:`IssuanceRefused` where :func:`issue` would.
    """
    fields = _plan(grant, public_key, _means(grant), now, 0).fields
    try:
        encode_name(fields.subject)
        encode_alternative_names(fields.san)
    except NameRefused as error:
        raise IssuanceRefused(error.reason) from None
    return fields


@dataclass(frozen=True)
class _Plan:
    """What will be signed, under a serial number of its own, with what."""

    fields: CertificateFields
    means: Means


def _means(grant: Grant) -> Means:
    try:
        issuer_key = _signing_key(grant)
        _verify_issues(grant, issuer_key)  # before a key is opened that may not be used
        rules = profiles.rules_for(grant.purpose, grant.issuer)
        authority = issuers.current_certificate(issuer_key)
        private_key = keys.issuer_private_key(issuer_key)
    except (issuers.IssuerMissing, keys.KeyUnavailable) as error:
        raise IssuanceRefused(str(error)) from None
    return Means(issuer_key, authority, bytes(authority.der), private_key, rules)


def _plan(grant: Grant, public_key: bytes, means: Means, now: datetime, serial_number: int) -> _Plan:
    _verify_issues(grant, means.issuer_key)
    try:
        key = verify_key_by(means.rules, verify_key(public_key))
    except KeyRefused as error:
        raise IssuanceRefused(str(error)) from None
    if key == means.private_key.public_key():
        raise IssuanceRefused("the key is the issuer's own")
    not_before, not_after = _validity(grant, means.rules, means.authority, now)
    fields = certificate_by(
        means.rules,
        subject=grant.subject,
        san=grant.san,
        key=key,
        not_before=not_before,
        not_after=not_after,
        addresses=_addresses(means.issuer_key),
        serial_number=serial_number,
    )
    if not fields.subject and not fields.san:
        raise IssuanceRefused("the certificate would name nobody")
    return _Plan(fields, means)


def _signed(plan: _Plan) -> tuple[bytes, RecordedFacts]:
    """The certificate, and what its record says. Raises :class:`IssuanceRefused`."""
    fields, means = plan.fields, plan.means
    try:
        der = build_certificate(fields, issuer_certificate=means.der, private_key=means.private_key)
        return der, recorded_facts(der, fields)
    except NameRefused as error:
        raise IssuanceRefused(error.reason) from None


def _addresses(issuer_key: IssuerKey) -> Addresses:
    place = (settings.BRAMLEY_PUBLIC_URL, issuer_key.issuer.slug, issuer_key.generation)
    if place not in _known_addresses:
        if len(_known_addresses) >= _MOST_ADDRESSES:
            _known_addresses.clear()
        _known_addresses[place] = issuers.addresses(issuer_key)
    return _known_addresses[place]


# Finding a path by its name takes long, and it is always the same one.
_known_addresses: dict[tuple[str, str, int], Addresses] = {}
_MOST_ADDRESSES = 64


def _signing_key(grant: Grant) -> IssuerKey:
    """The generation that signs, read anew: the issuer may have been retired since the caller looked.

    The current one, or the one that the grant names. The next may issue already: who encrypts a request to it
    is answered by it. This server's own certificates are issued by earlier generations too, as long as these
    have something to say (OCSP).
    """
    rows = IssuerKey.objects.select_related("issuer").filter(issuer=grant.issuer)
    if grant.issuer_key is None:
        issuer_key = rows.filter(state=IssuerKeyState.CURRENT).first()
    else:
        issuer_key = rows.filter(pk=grant.issuer_key.pk).first()
    if issuer_key is None:
        raise issuers.IssuerMissing(f"the issuer {grant.issuer.slug} has no current key")
    return issuer_key


def _verify_issues(grant: Grant, issuer_key: IssuerKey) -> None:
    own = grant.purpose in issuers.SELF_RENEWED
    issuer = issuer_key.issuer
    states = _SELF_ISSUING_STATES if own else _ISSUING_STATES
    if issuer.state not in states or issuer.kind == IssuerKind.TRUST_ONLY:
        raise IssuanceRefused("the issuer does not issue certificates")
    if issuer_key.state not in (_SELF_ISSUING_KEY_STATES if own else _ISSUING_KEY_STATES):
        raise IssuanceRefused("this key generation of the issuer does not issue certificates")


def _validity(
    grant: Grant, rules: Rules, authority: IssuerCertificate, now: datetime
) -> tuple[datetime, datetime]:
    """From a little earlier to the days granted, and never past the issuer's own certificate."""
    days = grant.validity_days
    if days is None:
        days = rules.validity_days or grant.issuer.leaf_validity_days
    elif rules.validity_days is not None:
        days = min(days, rules.validity_days)
    if days < 1:
        raise IssuanceRefused("the certificate would not be valid for a day")
    if not authority.not_before <= now < authority.not_after:
        raise IssuanceRefused("the issuer's certificate is not valid now")
    return (
        max(now - issuers.BACKDATE, authority.not_before),
        min(now + timedelta(days=days), authority.not_after),
    )


def _record(grant: Grant, certificate: Certificate, actor: Actor, now: datetime) -> bool:
    """Keep the certificate and who asked for it. False where its serial number is taken already."""
    try:
        with transaction.atomic():
            certificate.save(force_insert=True)
            _event_of(grant, certificate, actor, now).save(force_insert=True)
    except IntegrityError:
        same = {"issuer_key": certificate.issuer_key, "serial_number": certificate.serial_number}
        if Certificate.objects.filter(**same).exists():
            return False
        raise
    return True


def _row_of(grant: Grant, issuer_key: IssuerKey, der: bytes, facts: RecordedFacts) -> Certificate:
    return instances.new(
        Certificate,
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
        created_at=timezone.now(),
    )


def _event_of(grant: Grant, certificate: Certificate, actor: Actor, now: datetime) -> AuditEvent:
    return event_of(
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
