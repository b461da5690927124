"""Online certificate status (RFC 6960): what is asked, and the signed answer.

Written by hand: the module of ``cryptography`` takes one certificate in a request and one in an answer, and
reads the clock by itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, IntEnum

from pki.core import algorithms, asn1
from pki.core.algorithms import PrivateKey
from pki.core.certificates import load_certificate, public_key_of, read_identifiers, signing_hash
from pki.core.crl import REASONS
from pki.core.scan import Limits, Malformed, scan

MAX_REQUEST = 4096
MAX_CERTIFICATES = 10
# RFC 9654 section 2.1.
MAX_NONCE = 128

REQUEST_TYPE, RESPONSE_TYPE = "application/ocsp-request", "application/ocsp-response"

_LIMITS = Limits(size=MAX_REQUEST, depth=16, nodes=400, oid=32, integer=64)
_BASIC_RESPONSE, _NONCE = "1.3.6.1.5.5.7.48.1.1", "1.3.6.1.5.5.7.48.1.2"


class OcspError(Malformed):
    """The request cannot be read; ``reason`` says what is wrong with it."""


class ResponseStatus(IntEnum):
    """OCSPResponseStatus (section 4.2.1), without those that are never sent."""

    SUCCESSFUL = 0
    MALFORMED_REQUEST = 1
    INTERNAL_ERROR = 2
    TRY_LATER = 3
    UNAUTHORIZED = 6


class Standing(Enum):
    """CertStatus (section 4.2.1)."""

    GOOD = "good"
    REVOKED = "revoked"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class CertificateId:
    """CertID: the certificate that is asked about (section 4.1.1).

    ``digest``: the name of the digest that made the two hashes, None for one that is not used here.
    ``encoded``: DER, as it goes into the answer.
    """

    digest: str | None
    issuer_name_hash: bytes
    issuer_key_hash: bytes
    serial_number: int
    encoded: bytes


@dataclass(frozen=True)
class StatusRequest:
    """What is asked. ``nonce``: to be sent back, None where there is none."""

    certificates: tuple[CertificateId, ...]
    nonce: bytes | None = None


@dataclass(frozen=True)
class CertificateStatus:
    """The answer about one certificate. ``reason`` by its name in RFC 5280, with ``revoked_at``."""

    certificate: CertificateId
    standing: Standing
    revoked_at: datetime | None = None
    reason: str = ""


# --- Issuers as requests name them -----------------------------------------------------------------------

IssuerHashes = Mapping[str, tuple[bytes, bytes]]
"""By name of the digest: the hash of the issuer's name and the hash of its key."""


def issuer_hashes(issuer_certificate: bytes) -> IssuerHashes:
    """How requests may name this issuer, by every digest that is used here. Raises :class:`Malformed`."""
    identifiers = read_identifiers(issuer_certificate)
    key = _key_bits(identifiers.public_key)
    return {
        name: (hashlib.new(name, identifiers.subject).digest(), hashlib.new(name, key).digest())
        for name in algorithms.DIGEST_OIDS
    }


def is_issuer(hashes: IssuerHashes, certificate: CertificateId) -> bool:
    """Whether a request means a certificate of the issuer with these hashes."""
    wanted = (certificate.issuer_name_hash, certificate.issuer_key_hash)
    return certificate.digest is not None and hashes.get(certificate.digest) == wanted


def _key_bits(public_key: bytes) -> bytes:
    fields = asn1.Fields(asn1.read(public_key), "public key")
    fields.take(asn1.SEQUENCE)
    return asn1.decode_bits(fields.take(asn1.BIT_STRING))


# --- Requests --------------------------------------------------------------------------------------------


def decode_request(data: bytes) -> StatusRequest:
    """OCSPRequest (section 4.1.1). Raises :class:`OcspError`, and nothing else, whatever ``data`` is.

    A signature of the requester is not asked for and not looked at.
    """
    try:
        scan(data, _LIMITS)
        fields = asn1.Fields(asn1.read(data), "OCSPRequest")
        signed = fields.take(asn1.SEQUENCE)
        fields.take_optional(asn1.context(0))
        fields.end()
        return _decode_tbs_request(signed)
    except OcspError:
        raise
    except Malformed as error:
        raise OcspError(error.reason) from None


def _decode_tbs_request(node: asn1.Node) -> StatusRequest:
    fields = asn1.Fields(node, "TBSRequest")
    version = fields.take_optional(asn1.context(0))
    if version is not None and asn1.decode_integer(_only(version, "version")) != 0:
        raise OcspError("the version is another")
    fields.take_optional(asn1.context(1))
    asked = tuple(asn1.children(fields.take(asn1.SEQUENCE)))
    extensions = fields.take_optional(asn1.context(2))
    fields.end()
    if not 1 <= len(asked) <= MAX_CERTIFICATES:
        raise OcspError(f"between 1 and {MAX_CERTIFICATES} certificates can be asked about")
    return StatusRequest(
        tuple(_decode_single(request) for request in asked),
        _find_nonce(_decode_extensions(extensions)) if extensions is not None else None,
    )


def _decode_single(node: asn1.Node) -> CertificateId:
    fields = asn1.Fields(node, "Request")
    certificate = _decode_certificate_id(fields.take(asn1.SEQUENCE))
    extensions = fields.take_optional(asn1.context(0))
    fields.end()
    if extensions is not None:
        _decode_extensions(extensions)
    return certificate


def _decode_certificate_id(node: asn1.Node) -> CertificateId:
    fields = asn1.Fields(node, "CertID")
    oid, parameters = algorithms.decode_algorithm(fields.take(asn1.SEQUENCE))
    name_hash = asn1.decode_octets(fields.take())
    key_hash = asn1.decode_octets(fields.take())
    serial_number = asn1.decode_integer(fields.take(asn1.INTEGER))
    fields.end()
    encoded = asn1.encode_sequence(
        algorithms.encode_algorithm(oid, *((asn1.encode_null(),) if parameters is not None else ())),
        asn1.encode_octets(name_hash),
        asn1.encode_octets(key_hash),
        asn1.encode_integer(serial_number),
    )
    return CertificateId(algorithms.DIGESTS.get(oid), name_hash, key_hash, serial_number, encoded)


def _decode_extensions(node: asn1.Node) -> dict[str, bytes]:
    """Extensions by their identifiers. What is critical and not known here is refused (section 4.4)."""
    found: dict[str, bytes] = {}
    for extension in asn1.children(_only(node, "extensions", asn1.SEQUENCE)):
        fields = asn1.Fields(extension, "extension")
        oid = asn1.decode_oid(fields.take(asn1.OID))
        critical = fields.take_optional(asn1.BOOLEAN)
        value = asn1.decode_octets(fields.take())
        fields.end()
        if oid in found:
            raise OcspError("an extension occurs twice")
        if critical is not None and critical.contents != b"\0" and oid != _NONCE:
            raise OcspError("an extension is critical and not known here")
        found[oid] = value
    return found


def _find_nonce(extensions: Mapping[str, bytes]) -> bytes | None:
    value = extensions.get(_NONCE)
    if value is None:
        return None
    scan(value, _LIMITS)
    nonce = asn1.decode_octets(asn1.read(value))
    if not 1 <= len(nonce) <= MAX_NONCE:
        raise OcspError(f"a nonce has 1 to {MAX_NONCE} bytes")
    return nonce


def _only(node: asn1.Node, what: str, tag: int = asn1.INTEGER) -> asn1.Node:
    """The one member of an explicit tag."""
    fields = asn1.Fields(node, what, node.tag)
    member = fields.take(tag)
    fields.end()
    return member


# --- Answers ---------------------------------------------------------------------------------------------


def encode_error(status: ResponseStatus) -> bytes:
    """An answer that says nothing but why there is none; it is not signed (section 2.3)."""
    return asn1.encode_sequence(asn1.encode(asn1.ENUMERATED, bytes((status,))))


def encode_response(
    statuses: Sequence[CertificateStatus],
    *,
    nonce: bytes | None = None,
    produced_at: datetime,
    this_update: datetime,
    next_update: datetime,
    certificate: bytes,
    private_key: PrivateKey,
) -> bytes:
    """OCSPResponse with a BasicOCSPResponse (section 4.2.1), DER.

    ``certificate``: the responder's, DER, which goes along. ``private_key`` is its key. Of times, which are
    aware, whole seconds are told. Raises :class:`Malformed` where key and certificate do not fit.
    """
    if private_key.public_key() != public_key_of(load_certificate(certificate)):
        raise Malformed("the key is not that of the responder's certificate")
    updates = asn1.encode_generalized_time(this_update) + asn1.encode(
        asn1.context(0), asn1.encode_generalized_time(next_update)
    )
    # Responders are named by their key: SHA-1 by definition (section 4.2.1, KeyHash).
    responder = hashlib.sha1(_key_bits(read_identifiers(certificate).public_key)).digest()  # noqa: S324
    signed = asn1.encode_sequence(
        asn1.encode(asn1.context(2), asn1.encode_octets(responder)),
        asn1.encode_generalized_time(produced_at),
        asn1.encode_sequence(*(_encode_single(status, updates) for status in statuses)),
        _encode_nonce(nonce) if nonce is not None else b"",
    )
    digest = signing_hash(private_key).name
    basic = asn1.encode_sequence(
        signed,
        algorithms.encode_signature_algorithm(private_key, digest),
        asn1.encode(asn1.BIT_STRING, b"\0" + algorithms.sign(private_key, digest, signed)),
        asn1.encode(asn1.context(0), asn1.encode_sequence(certificate)),
    )
    return asn1.encode_sequence(
        asn1.encode(asn1.ENUMERATED, bytes((ResponseStatus.SUCCESSFUL,))),
        asn1.encode(
            asn1.context(0),
            asn1.encode_sequence(asn1.encode_oid(_BASIC_RESPONSE), asn1.encode_octets(basic)),
        ),
    )


def _encode_single(status: CertificateStatus, updates: bytes) -> bytes:
    return asn1.encode_sequence(status.certificate.encoded, _encode_standing(status), updates)


def _encode_standing(status: CertificateStatus) -> bytes:
    if status.standing is Standing.GOOD:
        return asn1.encode(asn1.context(0, constructed=False), b"")
    if status.standing is Standing.UNKNOWN:
        return asn1.encode(asn1.context(2, constructed=False), b"")
    if status.revoked_at is None:
        raise ValueError("a revoked certificate was revoked at some time")
    return asn1.encode(asn1.context(1), *_encode_revocation(status.revoked_at, REASONS[status.reason]))


def _encode_revocation(revoked_at: datetime, code: int) -> Iterable[bytes]:
    yield asn1.encode_generalized_time(revoked_at)
    # "unspecified" is said by saying nothing, as on a CRL.
    if code:
        yield asn1.encode(asn1.context(0), asn1.encode(asn1.ENUMERATED, bytes((code,))))


def _encode_nonce(nonce: bytes) -> bytes:
    extension = asn1.encode_sequence(asn1.encode_oid(_NONCE), asn1.encode_octets(asn1.encode_octets(nonce)))
    return asn1.encode(asn1.context(1), asn1.encode_sequence(extension))
