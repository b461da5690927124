"""What an external CA sent back for a CA of ours: every way in which it may not fit, by name.

All that is wrong is said at once, so that nobody has to ask another CA three times.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pki.core.certificates import (
    CertificateFacts,
    authority_key_usage,
    basic_constraints,
    describe,
    key_usages_of,
    load_certificate,
    load_certificates,
    load_public_key,
    public_key_of,
    read_identifiers,
)
from pki.core.path import PathError, verify_issued_by
from pki.core.policy import KeyRefused, verify_key
from pki.core.scan import Malformed

MAX_CERTIFICATES = 20
MAX_CHAIN = 8
MAX_SERIAL_DIGITS = 40
_ANY_PURPOSE = "2.5.29.37.0"


class ImportRefused(Malformed):
    """What was sent back does not fit; ``reasons`` names every mismatch."""

    def __init__(self, *reasons: str) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


@dataclass(frozen=True)
class Wanted:
    """What the certificate has to fit. All as DER.

    ``key_identifier``: what certificates issued so far point at; None where none was issued. ``decrypts``:
    False for a key that only signs, in a token: no SCEP client encrypts to it.
    """

    subject: bytes
    subject_text: str
    public_key: bytes
    key_identifier: bytes | None = None
    decrypts: bool = True


@dataclass(frozen=True)
class Sent:
    """Certificates as they came, DER. ``ordered``: their order means something (PEM), or not (CMS)."""

    certificates: tuple[bytes, ...]
    ordered: bool = True


@dataclass(frozen=True)
class Examined:
    """A certificate that fits, and those above it, nearest first, the root last; DER.

    ``notes``: what an administrator should know all the same.
    """

    certificate: bytes
    above: tuple[bytes, ...]
    notes: tuple[str, ...] = ()


def decode_sent(*files: bytes) -> Sent:
    """The certificates in one or more files, the CA's own first. Raises :class:`ImportRefused`."""
    found: list[bytes] = []
    ordered = True
    for data in files:
        try:
            found += load_certificates(data)
        except Malformed as error:
            raise ImportRefused(error.reason) from None
        ordered = ordered and not _is_cms(data)
    if len(found) > MAX_CERTIFICATES:
        raise ImportRefused(f"the file holds more than {MAX_CERTIFICATES} certificates")
    return Sent(tuple(dict.fromkeys(found)), ordered)


def _is_cms(data: bytes) -> bool:
    """A SET of certificates has no order of its own (RFC 5652 section 10.2.3)."""
    return b"-----BEGIN PKCS7" in data or b"-----BEGIN CMS" in data or b"-----BEGIN" not in data


def examine(
    sent: Sent,
    wanted: Wanted,
    *,
    known: Sequence[bytes] = (),
    anchor_is_last: bool = False,
    now: datetime,
) -> Examined:
    """Find the certificate for our key among what was sent, and check it and the chain above it.

    ``known``: certificates that came earlier and may complete the chain. ``anchor_is_last``: the chain may
    end at a certificate that is not self-signed. Raises :class:`ImportRefused`.
    """
    facts = _describe_all((*sent.certificates, *known))
    own = _own(sent, wanted)
    reasons = list(_own_mismatches(own, facts[own], wanted, now))
    above: tuple[bytes, ...] = ()
    if _is_self_issued(own):
        reasons.append("it is self-signed: the external CA is to sign it")
    else:
        candidates = [der for der in (*sent.certificates, *known) if der != own]
        above, missing = _climb(own, candidates, facts)
        reasons += missing
        if not missing and not anchor_is_last and not _is_self_issued(([own, *above])[-1]):
            top = ([own, *above])[-1]
            reasons.append(
                f"the chain is incomplete: the certificate of {facts[top].issuer}, which issued "
                f"{facts[top].subject}, is missing"
            )
        reasons += _chain_mismatches(above, facts, now)
        reasons += _order_mismatches(sent, own, above)
    if reasons:
        raise ImportRefused(*dict.fromkeys(reasons))
    return Examined(own, above, tuple(_notes(own, above, sent, facts)))


def _describe_all(certificates: Iterable[bytes]) -> dict[bytes, CertificateFacts]:
    try:
        return {der: describe(der) for der in certificates}
    except Malformed as error:
        raise ImportRefused(error.reason) from None


def _own(sent: Sent, wanted: Wanted) -> bytes:
    """The certificate for our key."""
    own = [der for der in sent.certificates if _canonical_key(der) == wanted.public_key]
    if not own:
        raise ImportRefused(
            "wrong key: none of the certificates is for the key of this request"
            if len(sent.certificates) > 1
            else "wrong key: the certificate is not for the key of this request"
        )
    if len(own) > 1:
        raise ImportRefused("the file holds several certificates for the key of this request: give one")
    return own[0]


def _canonical_key(der: bytes) -> bytes:
    try:
        key = public_key_of(load_certificate(der))
    except Malformed:
        return b""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


# --- The CA's own certificate ----------------------------------------------------------------------------


def _own_mismatches(own: bytes, facts: CertificateFacts, wanted: Wanted, now: datetime) -> Iterator[str]:
    if read_identifiers(own).subject != wanted.subject:
        if facts.subject == wanted.subject_text:
            yield (
                f"wrong name: {facts.subject} reads the same but is encoded in another way than in the "
                "request; ask the CA to take the name over as it is"
            )
        else:
            yield f"wrong name: {facts.subject or 'none'} instead of {wanted.subject_text}"
    if not facts.is_ca:
        yield "it is not a CA certificate (CA:FALSE)"
    usage = key_usages_of(own)
    needed = authority_key_usage(load_public_key(wanted.public_key), decrypts=wanted.decrypts)
    if usage is None:
        yield "it has no key usage: Apple devices then do not enrol"
    elif lacking := needed - usage:
        yield f"its key usage lacks {', '.join(sorted(lacking))}"
    if wanted.key_identifier is not None and facts.subject_key_identifier != wanted.key_identifier:
        yield "it has another key identifier: certificates issued so far would no longer validate"
    if len(facts.serial_number) > MAX_SERIAL_DIGITS or facts.serial_number.startswith("-"):
        yield "its serial number is negative or longer than 20 bytes"
    yield from _time_mismatches("it", facts, now)


def _time_mismatches(what: str, facts: CertificateFacts, now: datetime) -> Iterator[str]:
    if now > facts.not_after:
        yield f"{what} expired on {facts.not_after:%Y-%m-%d}"
    elif now < facts.not_before:
        yield f"{what} is not valid before {facts.not_before:%Y-%m-%d %H:%M} UTC"


def _is_self_issued(der: bytes) -> bool:
    identifiers = read_identifiers(der)
    return identifiers.issuer == identifiers.subject


# --- The chain above -------------------------------------------------------------------------------------


def _climb(
    own: bytes, candidates: Sequence[bytes], facts: dict[bytes, CertificateFacts]
) -> tuple[tuple[bytes, ...], list[str]]:
    """From our certificate upwards as far as it goes, and why one with the right name does not fit."""
    above: list[bytes] = []
    current = own
    while len(above) < MAX_CHAIN and not (above and _is_self_issued(current)):
        wanted = read_identifiers(current).issuer
        named = [
            der
            for der in candidates
            if der != own and der not in above and read_identifiers(der).subject == wanted
        ]
        fitting, why = _issuers_among(current, named)
        if not fitting:
            if why:
                subject, issuer = facts[current].subject, facts[current].issuer
                return tuple(above), [f"{subject} does not verify with the certificate of {issuer}: {why[0]}"]
            break
        current = max(fitting, key=lambda der: facts[der].not_after)
        above.append(current)
    return tuple(above), []


def _issuers_among(certificate: bytes, named: Sequence[bytes]) -> tuple[list[bytes], list[str]]:
    fitting, why = [], []
    for der in named:
        try:
            verify_issued_by(certificate, der)
        except PathError as error:
            why.append(error.reason)
        else:
            fitting.append(der)
    return fitting, why


def _chain_mismatches(
    above: Sequence[bytes], facts: dict[bytes, CertificateFacts], now: datetime
) -> Iterator[str]:
    below = 1
    for der in above:
        subject = facts[der].subject
        yield from _time_mismatches(subject, facts[der], now)
        try:
            verify_key(read_identifiers(der).public_key)
        except KeyRefused as refused:
            yield f"the key of {subject} is weak: {refused.reason}"
        if _is_self_issued(der):
            try:
                # Nobody relies on a root's own signature: it only has to be one.
                verify_issued_by(der, der, allow_sha1=True)
            except PathError as error:
                yield f"{subject} is not the root that it says it is: {error.reason}"
        length = basic_constraints(load_certificate(der))[1]
        # RFC 5280 section 6.1.4 (l), (m): CAs that issued themselves are not counted.
        if length is not None and length < below:
            yield f"{subject} allows {length} levels of CAs below it (path length): there would be {below}"
        below += 0 if _is_self_issued(der) else 1


def _order_mismatches(sent: Sent, own: bytes, above: Sequence[bytes]) -> Iterator[str]:
    chain = [der for der in (own, *above) if der in sent.certificates]
    given = [der for der in sent.certificates if der in chain]
    if sent.ordered and given != chain:
        yield (
            "wrong order: the CA's own certificate comes first, then the one that issued it, and so on up to "
            "the root"
        )


def _notes(
    own: bytes, above: Sequence[bytes], sent: Sent, facts: dict[bytes, CertificateFacts]
) -> Iterator[str]:
    for der in sent.certificates:
        if der != own and der not in above:
            yield f"{facts[der].subject} does not belong to the chain and was left out"
    ends = min((facts[der].not_after for der in above), default=facts[own].not_after)
    if ends < facts[own].not_after:
        yield f"a certificate above it ends earlier, on {ends:%Y-%m-%d}"
    usages = facts[own].extended_key_usage
    if usages and not {"clientAuth", _ANY_PURPOSE}.intersection(usages):
        yield "it is limited to purposes that do not include clientAuth, which identities of devices have"
    certificate = load_certificate(own)
    try:
        certificate.extensions.get_extension_for_class(x509.NameConstraints)
    except x509.ExtensionNotFound:
        pass
    else:
        yield "it limits the names in the certificates that it issues (name constraints)"
    if not isinstance(public_key_of(certificate), rsa.RSAPublicKey):
        yield "its key is not RSA: devices cannot enrol by SCEP with it"
