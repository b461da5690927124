"""Object identifiers of algorithms, and which of them are used at all (RFC 5754, RFC 8894 section 2.9)."""

from __future__ import annotations

from collections.abc import Mapping

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from pki.core import asn1
from pki.core.scan import Malformed

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

RSA_ENCRYPTION = "1.2.840.113549.1.1.1"
RSASSA_PSS = "1.2.840.113549.1.1.10"
EC_PUBLIC_KEY = "1.2.840.10045.2.1"

DIGESTS: Mapping[str, str] = {
    "1.3.14.3.2.26": "sha1",
    "2.16.840.1.101.3.4.2.1": "sha256",
    "2.16.840.1.101.3.4.2.2": "sha384",
    "2.16.840.1.101.3.4.2.3": "sha512",
}
DIGEST_OIDS: Mapping[str, str] = {name: oid for oid, name in DIGESTS.items()}
HASHES: Mapping[str, hashes.HashAlgorithm] = {
    "sha1": hashes.SHA1(),  # noqa: S303
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
# signatureAlgorithm -> kind of key, and the digest where it names one.
SIGNATURES: Mapping[str, tuple[str, str | None]] = {
    RSA_ENCRYPTION: ("rsa", None),
    "1.2.840.113549.1.1.5": ("rsa", "sha1"),
    "1.3.14.3.2.29": ("rsa", "sha1"),
    "1.2.840.113549.1.1.11": ("rsa", "sha256"),
    "1.2.840.113549.1.1.12": ("rsa", "sha384"),
    "1.2.840.113549.1.1.13": ("rsa", "sha512"),
    EC_PUBLIC_KEY: ("ec", None),
    "1.2.840.10045.4.1": ("ec", "sha1"),
    "1.2.840.10045.4.3.2": ("ec", "sha256"),
    "1.2.840.10045.4.3.3": ("ec", "sha384"),
    "1.2.840.10045.4.3.4": ("ec", "sha512"),
}
ECDSA_OIDS: Mapping[str, str] = {
    digest: oid for oid, (kind, digest) in SIGNATURES.items() if kind == "ec" and digest
}
RSA_SIGNATURE_OIDS: Mapping[str, str] = {
    digest: oid for oid, (kind, digest) in SIGNATURES.items() if kind == "rsa" and digest
}

# A verifier does the sender's arithmetic: beyond these it would be work for nothing.
MAX_RSA_BITS = 8192
MAX_RSA_EXPONENT_BITS = 64


class Unsupported(Malformed):
    """An algorithm that is not used here."""


def decode_algorithm(node: asn1.Node) -> tuple[str, asn1.Node | None]:
    """AlgorithmIdentifier: the OID, and the parameters where there are any (RFC 5280 section 4.1.1.2)."""
    fields = asn1.Fields(node, "algorithm")
    oid = asn1.decode_oid(fields.take())
    parameters = fields.take_optional()
    fields.end()
    return oid, parameters


def encode_algorithm(oid: str, *parameters: bytes) -> bytes:
    """AlgorithmIdentifier."""
    return asn1.encode_sequence(asn1.encode_oid(oid), *parameters)


def encode_signature_algorithm(key: PrivateKey, digest: str) -> bytes:
    """AlgorithmIdentifier of what :func:`sign` makes with this key and digest."""
    if isinstance(key, rsa.RSAPrivateKey):
        return encode_algorithm(RSA_SIGNATURE_OIDS[digest], asn1.encode_null())
    return encode_algorithm(ECDSA_OIDS[digest])


def decode_digest(node: asn1.Node, *, allow_sha1: bool) -> str:
    """The name of a digest algorithm. Raises :class:`Unsupported` for MD5 and what else is not allowed."""
    oid, parameters = decode_algorithm(node)
    _verify_no_parameters(parameters)
    digest = DIGESTS.get(oid)
    if digest is None:
        raise Unsupported(f"digest algorithm {oid} is not supported")
    if digest == "sha1" and not allow_sha1:
        raise Unsupported("SHA-1 is not allowed here")
    return digest


def signature_digest(oid: str, parameters: asn1.Node | None, digest: str | None) -> tuple[str, str]:
    """The kind of key and the digest that a signatureAlgorithm stands for.

    ``digest``: what was named beside it (digestAlgorithm of a SignerInfo); both must agree.
    """
    kind, named = SIGNATURES.get(oid, (None, None))
    if kind is None:
        raise Unsupported(f"signature algorithm {oid} is not supported")
    # id-ecPublicKey may carry the curve; nothing else carries anything but NULL.
    if oid != EC_PUBLIC_KEY:
        _verify_no_parameters(parameters)
    if named and digest and named != digest:
        raise Malformed("digest algorithm and signature algorithm disagree")
    chosen = named or digest
    if chosen is None:
        raise Unsupported("the signature algorithm names no digest")
    return kind, chosen


def _verify_no_parameters(parameters: asn1.Node | None) -> None:
    if parameters is not None and parameters.encoded != b"\x05\x00":
        raise Malformed("unexpected parameters of an algorithm")


def verify_signature(key: PublicKeyTypes, kind: str, digest: str, signature: bytes, signed: bytes) -> None:
    """Check one signature: RSA PKCS #1 v1.5 or ECDSA on P-256 or P-384. Raises :class:`Malformed`."""
    algorithm = HASHES[digest]
    try:
        if kind == "rsa" and isinstance(key, rsa.RSAPublicKey):
            verify_rsa_bounds(key)
            key.verify(signature, signed, padding.PKCS1v15(), algorithm)
        elif kind == "ec" and isinstance(key, ec.EllipticCurvePublicKey):
            if not isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
                raise Unsupported("the curve is not supported")
            key.verify(signature, signed, ec.ECDSA(algorithm))
        else:
            raise Malformed("signature algorithm and key do not fit")
    except InvalidSignature:
        raise Malformed("the signature is wrong") from None
    except (ValueError, UnsupportedAlgorithm):
        raise Malformed("the signature cannot be checked") from None


def verify_rsa_bounds(key: rsa.RSAPublicKey) -> None:
    """Refuse keys that cost a verifier more than any real one would."""
    numbers = key.public_numbers()
    if key.key_size > MAX_RSA_BITS or numbers.e.bit_length() > MAX_RSA_EXPONENT_BITS:
        raise Unsupported("the RSA key is out of bounds")


def sign(key: PrivateKey, digest: str, content: bytes) -> bytes:
    """RSA PKCS #1 v1.5 or ECDSA signature of ``content``."""
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(content, padding.PKCS1v15(), HASHES[digest])
    return key.sign(content, ec.ECDSA(HASHES[digest]))
