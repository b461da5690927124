"""CAs below another one: of ours, or of an external root that gets a request and sends a certificate back."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from textwrap import wrap

from cryptography import x509
from django.db import transaction

from audit.recording import Actor, record
from pki import issuers, keys, revocation
from pki.core.authority import (
    Term,
    certify_subordinate,
    describe_subject,
    encode_authority_request,
    encode_subject,
)
from pki.core.certificates import describe, load_certificates, read_identifiers
from pki.core.csr import decode_signing_request
from pki.core.names import NameRefused
from pki.core.scan import Malformed
from pki.core.subordinate import ImportRefused, Wanted, decode_sent, examine
from pki.issuers import IssuerRefused
from pki.models import (
    Issuer,
    IssuerCertificate,
    IssuerCertificateKind,
    IssuerKey,
    IssuerKeyState,
    IssuerKind,
    IssuerState,
    Purpose,
)

__all__ = [
    "ImportRefused",
    "Imported",
    "awaiting_key",
    "create_external",
    "create_subordinate",
    "import_certificate",
    "request_certificate",
    "request_pem",
]


@dataclass(frozen=True)
class Imported:
    """``new``: False where it was imported before. ``notes``: what to know of it all the same."""

    certificate: IssuerCertificate
    new: bool
    notes: tuple[str, ...] = ()


# --- Below an issuer of ours -----------------------------------------------------------------------------


def create_subordinate(
    slug: str,
    name: str,
    *,
    parent: Issuer,
    organization: str = "",
    algorithm: str = issuers.DEFAULT_ALGORITHM,
    years: int = 5,
    path_length: int | None = 0,
    actor: Actor,
    now: datetime,
    key_location: str = "",
) -> Issuer:
    """Make a CA whose certificate an issuer of ours signs; never valid for longer than its parent.

    ``path_length``: how many levels of CAs may come below it, None for any. Raises :class:`IssuerRefused`.
    """
    issuers.verify_new(slug, algorithm, years)
    _verify_parent(parent, path_length)
    private_key = issuers.make_private_key(key_location, algorithm)
    with transaction.atomic():
        parent = Issuer.objects.select_for_update(of=("self",)).get(pk=parent.pk)
        _verify_parent(parent, path_length)
        _verify_unused(slug)
        try:
            signer = issuers.current_key(parent)
            authority = issuers.current_certificate(signer)
            if not authority.not_before <= now < authority.not_after:
                raise IssuerRefused(f"the certificate of {parent} is not valid now")
            der = certify_subordinate(
                issuers.subject_of_new(name, organization),
                keys.public_key_der(private_key),
                _term(signer, authority, years, now),
                path_length=path_length,
                private_key=keys.issuer_private_key(signer),
                issuer_certificate=bytes(authority.der),
                decrypts=keys.decrypts(private_key),
            )
        except (Malformed, issuers.IssuerMissing, *keys.CANNOT_SIGN) as error:
            raise IssuerRefused(str(error)) from error
        issuer = _add_issuer(
            slug,
            name,
            IssuerKind.SUBORDINATE,
            IssuerState.ACTIVE,
            subject_der=read_identifiers(der).subject,
            parent=parent,
            path_length=path_length,
        )
        issuer_key = issuers.add_key(
            issuer, certificate=der, private_key=private_key, algorithm=algorithm, now=now
        )
        issuers.add_certificate(issuer_key, der, kind=IssuerCertificateKind.SUBORDINATE, signed_by=signer)
        _publish(issuer_key, now)
        record(
            "issuer.created",
            actor=actor,
            target=issuer,
            details={"algorithm": algorithm, "parent": parent.slug, "sha256": describe(der).sha256},
            at=now,
        )
    return issuer


def _verify_parent(parent: Issuer, path_length: int | None) -> None:
    if parent.kind == IssuerKind.TRUST_ONLY:
        raise IssuerRefused(f"{parent} is only trusted: it cannot sign a certificate here")
    if parent.state != IssuerState.ACTIVE:
        raise IssuerRefused(f"{parent} is not active")
    if parent.path_length is None:
        return
    if parent.path_length == 0:
        raise IssuerRefused(f"{parent} may not have CAs below it (path length 0)")
    if path_length is None or path_length >= parent.path_length:
        raise IssuerRefused(
            f"{parent} allows {parent.path_length} levels of CAs below it: this one may have at most "
            f"{parent.path_length - 1}"
        )


def _term(signer: IssuerKey, authority: IssuerCertificate, years: int, now: datetime) -> Term:
    addresses = issuers.addresses(signer)
    return Term(
        serial_number=x509.random_serial_number(),
        not_before=max(now - issuers.BACKDATE, authority.not_before),
        not_after=min(issuers.end_of_term(now, years), authority.not_after),
        crl_url=addresses.crl,
        issuer_url=addresses.issuer,
        ocsp_url=addresses.ocsp,
    )


# --- Below an external CA --------------------------------------------------------------------------------


def create_external(
    slug: str,
    name: str,
    *,
    organization: str = "",
    algorithm: str = issuers.DEFAULT_ALGORITHM,
    path_length: int | None = 0,
    actor: Actor,
    now: datetime,
    key_location: str = "",
) -> Issuer:
    """Make a CA that an external one is to certify: a name and a key. It issues once its certificate is in.

    Raises :class:`IssuerRefused`.
    """
    issuers.verify_new(slug, algorithm, 1)
    try:
        subject_der = encode_subject(issuers.subject_of_new(name, organization))
    except NameRefused as refused:
        raise IssuerRefused(refused.reason) from None
    private_key = issuers.make_private_key(key_location, algorithm)
    with transaction.atomic():
        _verify_unused(slug)
        issuer = _add_issuer(
            slug,
            name,
            IssuerKind.EXTERNAL,
            IssuerState.DRAFT,
            subject_der=subject_der,
            path_length=path_length,
        )
        issuer_key = issuers.add_key(issuer, private_key=private_key, algorithm=algorithm, now=now)
        IssuerKey.objects.filter(pk=issuer_key.pk).update(activated_at=None)
        record("issuer.created", actor=actor, target=issuer, details={"algorithm": algorithm}, at=now)
    return issuer


def request_certificate(issuer: Issuer, *, actor: Actor, now: datetime) -> bytes:
    """The certification request (PKCS #10, DER) for the external CA: name and key as they are, byte by byte.

    For the next key where there is one without a certificate, else for the key in use: then it asks for a
    renewal. A request that is not answered yet is given again. Raises :class:`IssuerRefused`.
    """
    with transaction.atomic():
        issuer = Issuer.objects.select_for_update(of=("self",)).get(pk=issuer.pk)
        if issuer.kind != IssuerKind.EXTERNAL:
            raise IssuerRefused("only a subordinate of an external CA needs a request")
        if issuer.state not in (IssuerState.DRAFT, IssuerState.AWAITING, IssuerState.ACTIVE):
            raise IssuerRefused("the issuer is not active")
        issuer_key = awaiting_key(issuer)
        if issuer_key.requested_at is not None:
            return bytes(issuer_key.signing_request)
        try:
            der = encode_authority_request(
                bytes(issuer.subject_der),
                private_key=keys.issuer_private_key(issuer_key),
                path_length=issuer.path_length,
                decrypts=keys.decrypts(issuer_key),
            )
        except keys.CANNOT_SIGN as error:
            raise IssuerRefused(str(error)) from error
        IssuerKey.objects.filter(pk=issuer_key.pk).update(signing_request=der, requested_at=now)
        if issuer.state == IssuerState.DRAFT:
            Issuer.objects.filter(pk=issuer.pk).update(state=IssuerState.AWAITING)
        record(
            "issuer.certificate_requested",
            actor=actor,
            target=issuer,
            details={"generation": issuer_key.generation, "sha256": decode_signing_request(der).sha256},
            at=now,
        )
    return der


def request_pem(der: bytes) -> str:
    """A request as PEM, as other CAs take it."""
    body = "\n".join(wrap(b64encode(der).decode(), 64))
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n"


def awaiting_key(issuer: Issuer) -> IssuerKey:
    """The key for which a certificate is, or would be, asked. Raises :class:`IssuerRefused`."""
    made = issuers.next_key(issuer)
    if made is not None and not made.certificates.filter(is_current=True).exists():
        return made
    try:
        return issuers.current_key(issuer)
    except issuers.IssuerMissing as missing:
        raise IssuerRefused(str(missing)) from None


# --- The answer ------------------------------------------------------------------------------------------


def import_certificate(
    issuer: Issuer, *files: bytes, anchor_is_last: bool = False, actor: Actor, now: datetime
) -> Imported:
    """Take in what the external CA sent: the certificate and the chain above it, in one or several files.

    It is for whichever key of the issuer it names: the first one makes the issuer active, another one for the
    key in use renews it, one for the next key lets that be activated. The same again changes nothing. Raises
    :class:`ImportRefused` with every mismatch.
    """
    sent = decode_sent(*files)
    with transaction.atomic():
        issuer = Issuer.objects.select_for_update(of=("self",)).get(pk=issuer.pk)
        _verify_may_import(issuer)
        known = _known(issuer, sent.certificates)
        if known is not None:
            return Imported(known, new=False)
        issuer_key = _key_of(issuer, sent.certificates)
        examined = examine(
            sent,
            _wanted(issuer, issuer_key),
            known=_chains(issuer),
            anchor_is_last=anchor_is_last,
            now=now,
        )
        facts = describe(examined.certificate)
        if IssuerCertificate.objects.filter(sha256=facts.sha256).exists():
            raise ImportRefused("another issuer has this certificate already")
        replaced = issuer_key.certificates.filter(is_current=True).first()
        issuer_key.certificates.filter(is_current=True).update(is_current=False)
        certificate = issuers.add_certificate(
            issuer_key,
            examined.certificate,
            kind=IssuerCertificateKind.SUBORDINATE,
            above=examined.above,
        )
        _note_import(issuer, issuer_key, facts.subject_key_identifier, now)
        try:
            revocation.publish_crl(issuer_key, now)
        except keys.CANNOT_SIGN as error:
            raise ImportRefused(str(error)) from error
        record(
            "issuer.certificate_imported",
            actor=actor,
            target=issuer,
            details={
                "generation": issuer_key.generation,
                "sha256": facts.sha256,
                "not_after": facts.not_after.isoformat(),
                "replaced": replaced.serial_number if replaced else "",
            },
            at=now,
        )
    return Imported(certificate, new=True, notes=examined.notes)


def _verify_may_import(issuer: Issuer) -> None:
    if issuer.kind != IssuerKind.EXTERNAL:
        raise ImportRefused("only a subordinate of an external CA takes in a certificate")
    if issuer.state == IssuerState.DRAFT:
        raise ImportRefused("no request was made yet: fetch it, and have the external CA sign it")
    if issuer.state == IssuerState.REVOKED:
        raise ImportRefused("the issuer is revoked")


def _known(issuer: Issuer, sent: Sequence[bytes]) -> IssuerCertificate | None:
    """A certificate of this issuer that was imported before."""
    return IssuerCertificate.objects.filter(
        issuer_key__issuer=issuer, sha256__in=[describe(der).sha256 for der in sent]
    ).first()


def _key_of(issuer: Issuer, sent: Sequence[bytes]) -> IssuerKey:
    """The generation that one of the certificates is for; else the one that waits for a certificate."""
    found = issuer.keys.filter(public_key__in=[read_identifiers(der).public_key for der in sent]).first()
    if found is None:
        try:
            return awaiting_key(issuer)
        except IssuerRefused as refused:
            raise ImportRefused(refused.reason) from None
    if found.state in (IssuerKeyState.CLOSED, IssuerKeyState.PREVIOUS):
        raise ImportRefused(f"the certificate is for key generation {found.generation}, which is not in use")
    return found


def _wanted(issuer: Issuer, issuer_key: IssuerKey) -> Wanted:
    certified = issuer_key.certificates.exists()
    subject = bytes(issuer.subject_der)
    return Wanted(
        subject=subject,
        subject_text=describe_subject(subject),
        public_key=bytes(issuer_key.public_key),
        key_identifier=bytes(issuer_key.key_identifier) if certified else None,
        decrypts=keys.decrypts(issuer_key),
    )


def _chains(issuer: Issuer) -> list[bytes]:
    """Certificates above this issuer that came with earlier imports."""
    stored = IssuerCertificate.objects.filter(issuer_key__issuer=issuer).exclude(chain=b"")
    found = (
        der for chain in stored.values_list("chain", flat=True) for der in load_certificates(bytes(chain))
    )
    return list(dict.fromkeys(found))


def _note_import(issuer: Issuer, issuer_key: IssuerKey, key_identifier: bytes | None, now: datetime) -> None:
    """The request is answered; the first answer makes the issuer active."""
    changes: dict[str, object] = {"requested_at": None}
    if key_identifier:
        changes["key_identifier"] = key_identifier
    if issuer.state == IssuerState.AWAITING:
        Issuer.objects.filter(pk=issuer.pk).update(state=IssuerState.ACTIVE)
        changes["activated_at"] = now
    IssuerKey.objects.filter(pk=issuer_key.pk).update(**changes)


# --- Pieces ----------------------------------------------------------------------------------------------


def _verify_unused(slug: str) -> None:
    if Issuer.objects.filter(slug=slug).exists():
        raise IssuerRefused(f"there is an issuer {slug} already")


def _add_issuer(
    slug: str,
    name: str,
    kind: IssuerKind,
    state: IssuerState,
    *,
    subject_der: bytes,
    path_length: int | None,
    parent: Issuer | None = None,
) -> Issuer:
    return Issuer.objects.create(
        slug=slug,
        name=name,
        kind=kind,
        state=state,
        subject_der=subject_der,
        parent=parent,
        path_length=path_length,
        trusted_for=[purpose.value for purpose in Purpose],
    )


def _publish(issuer_key: IssuerKey, now: datetime) -> None:
    try:
        revocation.publish_crl(issuer_key, now)
    except keys.CANNOT_SIGN as error:
        raise IssuerRefused(str(error)) from error
