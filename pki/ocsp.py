"""Saying what became of certificates (RFC 6960), and the certificates that sign what is said.

Each key generation of an issuer answers for what it issued, with a responder of its own: a certificate for
OCSP signing that this server holds and renews. The issuer's key, which may be in a token, is not needed to
answer.

What is said of a certificate is read from the database for each request. Signatures are used again: an answer
without a nonce is kept for a minute, by all that it says.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q

from audit.recording import SERVER
from pki import issuers, keys
from pki.core import ocsp
from pki.core.algorithms import PrivateKey
from pki.core.certificates import format_serial_number
from pki.core.ocsp import (
    CertificateId,
    IssuerHashes,
    OcspError,
    ResponseStatus,
    Standing,
    StatusRequest,
)
from pki.issuance import Grant, IssuanceRefused, issue
from pki.models import (
    Certificate,
    CertificateStatus,
    HeldKey,
    IssuerCertificate,
    IssuerCertificateKind,
    IssuerKey,
    IssuerKeyState,
    IssuerKind,
    Purpose,
)
from pki.signing import hold

logger = logging.getLogger(__name__)

# Of a responder's certificate: thirty days with the minutes by which it is dated back.
RESPONDER_DAYS = 29
RENEW_BEFORE = timedelta(days=10)
# What has expired answers no more: its key is not kept.
KEPT_AFTER_EXPIRY = timedelta(days=1)
# After how long a relying party asks again (nextUpdate).
VALID_FOR = timedelta(hours=1)
# For how long the signature of an answer is used again, and for how long a cache in between may keep it.
SIGNATURE_KEPT = timedelta(seconds=60)
FRESH_FOR = timedelta(seconds=30)
MAX_SIGNATURES = 1000
# For how long a process goes on with the generations and responders that it read.
GENERATIONS_KEPT_SECONDS = 5.0
MAX_SERIAL_NUMBER = 1 << 160

_ORDER = (IssuerKeyState.CURRENT, IssuerKeyState.PREVIOUS, IssuerKeyState.NEXT, IssuerKeyState.CLOSED)


@dataclass(frozen=True)
class Answer:
    """What goes back. ``fresh_until``: caches may keep it so long; None where they may not keep it at all."""

    body: bytes
    status: ResponseStatus
    produced_at: datetime | None = None
    fresh_until: datetime | None = None


@dataclass(frozen=True)
class _Signer:
    """A responder: its certificate, DER, and the key of that."""

    certificate: bytes
    private_key: PrivateKey = field(repr=False)


@dataclass(frozen=True)
class _Generation:
    """A key generation, and who answers for it; where nobody does, what is said instead."""

    issuer_key: IssuerKey
    hashes: IssuerHashes = field(repr=False)
    signer: _Signer | ResponseStatus


# --- Answering -------------------------------------------------------------------------------------------


def answer(slug: str, data: bytes, now: datetime) -> Answer:
    """The answer to an OCSPRequest (DER) about certificates of the issuer ``slug``.

    Whatever is wrong is an answer too: an OCSPResponse with its error status, the same for all. Raises
    :class:`pki.issuers.IssuerMissing` where there is no such issuer of ours.
    """
    generations = _generations(slug, now)
    try:
        request = ocsp.decode_request(data)
    except OcspError:
        return _error(ResponseStatus.MALFORMED_REQUEST)
    generation = _responsible(generations, request)
    signer = generation.signer
    if not isinstance(signer, _Signer):
        return _error(signer)
    statuses = _look_up(generation, request.certificates)
    if request.nonce is not None:
        return Answer(_sign(signer, statuses, request.nonce, now), ResponseStatus.SUCCESSFUL, now)
    produced_at, body = _signed(signer, statuses, now)
    return Answer(body, ResponseStatus.SUCCESSFUL, produced_at, now + FRESH_FOR)


def _error(status: ResponseStatus) -> Answer:
    return Answer(ocsp.encode_error(status), status)


def _responsible(generations: Sequence[_Generation], request: StatusRequest) -> _Generation:
    """The generation that is asked about; where none is, the current one says that it knows nothing.

    Who asks about several at once gets the first one's answer, and "unknown" for certificates of the others:
    one answer has one signature, and relying parties accept it only from the certificate's own issuer.
    """
    for certificate in request.certificates:
        for generation in generations:
            if ocsp.is_issuer(generation.hashes, certificate):
                return generation
    return generations[0]


def _look_up(generation: _Generation, asked: Iterable[CertificateId]) -> list[ocsp.CertificateStatus]:
    """What the database says now. Two queries, however many are asked about."""
    ours = {
        certificate.encoded: format_serial_number(certificate.serial_number)
        for certificate in asked
        if ocsp.is_issuer(generation.hashes, certificate)
        and 0 < certificate.serial_number < MAX_SERIAL_NUMBER
    }
    found = _standings(generation.issuer_key, set(ours.values())) if ours else {}
    unknown = (Standing.UNKNOWN, None, "")
    return [
        ocsp.CertificateStatus(certificate, *found.get(ours.get(certificate.encoded, ""), unknown))
        for certificate in asked
    ]


_Found = dict[str, tuple[Standing, datetime | None, str]]


def _standings(issuer_key: IssuerKey, serial_numbers: set[str]) -> _Found:
    """Of what the key issued: leaf certificates, and those of CAs, its own among them."""
    issued = Certificate.objects.filter(
        issuer_key=issuer_key, foreign=False, serial_number__in=serial_numbers
    ).values_list("serial_number", "status", "revoked_at", "revocation_reason")
    authorities = IssuerCertificate.objects.filter(
        Q(signed_by=issuer_key)
        | Q(signed_by=None, issuer_key=issuer_key, kind=IssuerCertificateKind.SELF_SIGNED),
        serial_number__in=serial_numbers,
    ).values_list("serial_number", "revoked_at", "revocation_reason")
    found: _Found = {}
    for serial_number, revoked_at, reason in authorities:
        found[serial_number] = _standing(revoked_at, reason)
    for serial_number, status, revoked_at, reason in issued:
        found[serial_number] = _standing(revoked_at if status == CertificateStatus.REVOKED else None, reason)
    return found


def _standing(revoked_at: datetime | None, reason: str) -> tuple[Standing, datetime | None, str]:
    if revoked_at is None:
        return Standing.GOOD, None, ""
    return Standing.REVOKED, revoked_at, reason or "unspecified"


# --- Signing ---------------------------------------------------------------------------------------------

_lock = threading.Lock()
_signatures: dict[tuple[object, ...], tuple[datetime, bytes]] = {}


def _signed(
    signer: _Signer, statuses: Sequence[ocsp.CertificateStatus], now: datetime
) -> tuple[datetime, bytes]:
    """An answer without a nonce, and when it was made: one of the last minute that says the same, or new."""
    says = (
        signer.certificate,
        *((one.certificate.encoded, one.standing, one.revoked_at, one.reason) for one in statuses),
    )
    kept = _signatures.get(says)
    if kept is not None and kept[0] <= now < kept[0] + SIGNATURE_KEPT:
        return kept
    made = (now, _sign(signer, statuses, None, now))
    with _lock:
        _signatures.pop(says, None)
        while len(_signatures) >= MAX_SIGNATURES:
            del _signatures[next(iter(_signatures))]
        _signatures[says] = made
    return made


def _sign(
    signer: _Signer, statuses: Sequence[ocsp.CertificateStatus], nonce: bytes | None, now: datetime
) -> bytes:
    return ocsp.encode_response(
        statuses,
        nonce=nonce,
        produced_at=now,
        this_update=now,
        next_update=now + VALID_FOR,
        certificate=signer.certificate,
        private_key=signer.private_key,
    )


# --- Generations -----------------------------------------------------------------------------------------

_generations_read: dict[str, tuple[float, datetime, tuple[_Generation, ...]]] = {}


def forget() -> None:
    """Read generations and responders anew at the next occasion, and sign anew."""
    with _lock:
        _generations_read.clear()
        _signatures.clear()


def _generations(slug: str, now: datetime) -> tuple[_Generation, ...]:
    """The key generations of an issuer with their responders, the current one first."""
    read_at, ends_at, generations = _generations_read.get(slug, (float("-inf"), now, ()))
    if time.monotonic() - read_at > GENERATIONS_KEPT_SECONDS or now >= ends_at:
        generations, ends_at = _read_generations(slug, now)
        with _lock:
            _generations_read[slug] = (time.monotonic(), ends_at, generations)
    return generations


def _read_generations(slug: str, now: datetime) -> tuple[tuple[_Generation, ...], datetime]:
    """What there is now, and until when it may be relied upon at most."""
    found, ends_at = [], now + timedelta(days=1)
    rows = IssuerKey.objects.filter(keys.OURS, issuer__slug=slug).select_related("issuer")
    for issuer_key in sorted(rows, key=_place):
        try:
            authority = issuers.current_certificate(issuer_key)
        except issuers.IssuerMissing:
            continue
        signer, until = _signer(issuer_key, now)
        ends_at = min(ends_at, until or ends_at)
        found.append(_Generation(issuer_key, ocsp.issuer_hashes(bytes(authority.der)), signer))
    if not found:
        raise issuers.IssuerMissing(f"there is no issuer {slug} of ours")
    return tuple(found), ends_at


def _place(issuer_key: IssuerKey) -> tuple[int, int]:
    return _ORDER.index(IssuerKeyState(issuer_key.state)), -issuer_key.generation


def _signer(issuer_key: IssuerKey, now: datetime) -> tuple[_Signer | ResponseStatus, datetime | None]:
    """Who answers for a generation, and until when."""
    try:
        held = responder(issuer_key, now)
        private_key = keys.held_private_key(held)
    except IssuanceRefused:
        return ResponseStatus.UNAUTHORIZED, None
    except keys.CANNOT_SIGN:
        logger.exception("no OCSP responder for %s: a key does not sign", issuer_key)
        return ResponseStatus.TRY_LATER, None
    return _Signer(bytes(held.certificate.der), private_key), held.certificate.not_after


# --- Responders ------------------------------------------------------------------------------------------


def responder(issuer_key: IssuerKey, now: datetime) -> HeldKey:
    """The key that signs answers for one key generation, with its certificate; made anew where it is time.

    One that cannot be renewed goes on as long as it is valid. Raises
    :class:`pki.issuance.IssuanceRefused` where the generation issues nothing any more, and any of
    :data:`pki.keys.CANNOT_SIGN`.
    """
    held = _newest_responder(issuer_key, now)
    if held is not None and not _is_due(held, issuer_key, now):
        return held
    try:
        return _renewed(issuer_key, now)
    except (IssuanceRefused, *keys.CANNOT_SIGN) as error:
        if held is None:
            raise
        logger.warning("the OCSP responder of %s is not renewed: %s", issuer_key, error)
        return held


def _newest_responder(issuer_key: IssuerKey, now: datetime) -> HeldKey | None:
    return (
        HeldKey.objects.select_related("certificate")
        .filter(
            certificate__issuer_key=issuer_key,
            certificate__purpose=Purpose.OCSP_SIGNING,
            certificate__status=CertificateStatus.ISSUED,
            certificate__not_before__lte=now,
            certificate__not_after__gt=now,
        )
        .order_by("-certificate__not_after", "-pk")
        .first()
    )


def _is_due(held: HeldKey, issuer_key: IssuerKey, now: datetime) -> bool:
    """Whether it ends soon, and a new one would end later."""
    ends_at = held.certificate.not_after
    return ends_at - now < RENEW_BEFORE and ends_at < issuers.current_certificate(issuer_key).not_after


def _renewed(issuer_key: IssuerKey, now: datetime) -> HeldKey:
    algorithm = "RSA-2048" if issuer_key.algorithm.startswith("RSA") else "EC-P256"
    private_key = keys.new_private_key(algorithm)
    with transaction.atomic():
        # Who comes second finds what the first has made.
        IssuerKey.objects.select_for_update(of=("self",)).get(pk=issuer_key.pk)
        held = _newest_responder(issuer_key, now)
        if held is not None and not _is_due(held, issuer_key, now):
            return held
        grant = Grant(
            issuer=issuer_key.issuer,
            issuer_key=issuer_key,
            purpose=Purpose.OCSP_SIGNING,
            subject=(("CN", f"{issuer_key.issuer.name[:50]} OCSP {issuer_key.generation}"),),
            validity_days=RESPONDER_DAYS,
            reason="signs what is said of certificates (OCSP)",
        )
        certificate = issue(grant, keys.public_key_der(private_key), actor=SERVER, now=now)
        return hold(certificate, private_key)


def renew_responders(now: datetime) -> int:
    """Give every key generation that answers a responder that lasts; returns how many were made.

    Keys of responders that have expired are deleted. What cannot be renewed is logged, and tried again.
    """
    HeldKey.objects.filter(
        certificate__purpose=Purpose.OCSP_SIGNING, certificate__not_after__lt=now - KEPT_AFTER_EXPIRY
    ).delete()
    made = 0
    rows = IssuerKey.objects.filter(keys.OURS).exclude(issuer__kind=IssuerKind.TRUST_ONLY)
    for issuer_key in rows.select_related("issuer"):
        before = _newest_responder(issuer_key, now)
        try:
            made += responder(issuer_key, now) != before
        except (IssuanceRefused, issuers.IssuerMissing):
            continue
        except keys.CANNOT_SIGN:
            logger.exception("no OCSP responder for %s: its key does not sign", issuer_key)
    return made
