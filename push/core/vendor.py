"""What Apple's portal takes: a request for a push certificate, signed by an MDM vendor.

Apple, "Setting Up Push Notifications for Your MDM Customers": SHA256withRSA over the request's DER by the key
of the MDM vendor certificate; a property list (XML) with the request and the signature in Base64 and the
chain, root included, in PEM; all of that in Base64 again.
"""

from __future__ import annotations

import base64
import binascii
import plistlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from xml.etree.ElementTree import Element, ParseError, XMLParser  # no DTD or entity passes _verify_markup

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from pki.core import pem
from push.core import chain
from push.core.pushcert import (
    MAX_CERTIFICATES,
    MAX_RSA_BITS,
    MIN_RSA_BITS,
    Expired,
    NotYetValid,
    PushCertError,
    TooLarge,
    Unreadable,
    encode_certificate_pem,
    public_key_of,
)

MAX_SIZE = 128 * 1024
# The purpose of MDM vendor certificates among Apple's own, and how their names begin.
PURPOSE = x509.ObjectIdentifier("1.2.840.113635.100.4.12")
NAME_PREFIX = "MDM Vendor:"

_KEYS = ("PushCertRequestCSR", "PushCertCertificateChain", "PushCertSignature")
_DOCTYPE = re.compile(rb'<!DOCTYPE\s+plist(\s+(PUBLIC|SYSTEM)(\s+"[^"<>\[\]%&]*"){1,2})?\s*>')


class NotAVendor(PushCertError):
    """The certificate is none of an MDM vendor's."""


class BrokenChain(PushCertError):
    """The vendor's certificate does not lead to Apple's root."""


class NotOurRequest(PushCertError):
    """The signed request is for another certificate request than the one asked about."""


class WrongSignature(PushCertError):
    """The vendor's signature does not fit the request."""


@dataclass(frozen=True)
class VendorFacts:
    """What a vendor's certificate says. ``serial_number``: hexadecimal, upper case."""

    common_name: str
    serial_number: str
    not_before: datetime
    not_after: datetime
    public_key: bytes


@dataclass(frozen=True)
class SignedRequest:
    """The request (PKCS #10, DER), the signature over it, and the vendor's chain (DER), its own first."""

    request: bytes
    signature: bytes
    chain: tuple[bytes, ...]


# --- the vendor's certificate ---


def describe(certificate: bytes) -> VendorFacts:
    """Read a certificate (DER) and verify that it is one of an MDM vendor.

    Raises :class:`Unreadable` and :class:`NotAVendor`.
    """
    try:
        loaded = x509.load_der_x509_certificate(certificate)
        key = loaded.public_key()
        names = [str(name.value) for name in loaded.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        topics = loaded.subject.get_attributes_for_oid(NameOID.USER_ID)
        marked = _has_purpose(loaded)
        span = loaded.not_valid_before_utc, loaded.not_valid_after_utc
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise Unreadable("The certificate cannot be read.") from error
    name = names[0] if names else ""
    if any(str(topic.value).startswith("com.apple.") for topic in topics):
        raise NotAVendor(
            "This is a push certificate, not the certificate of an MDM vendor: "
            "import it under Push certificates."
        )
    if not marked and not name.startswith(NAME_PREFIX):
        raise NotAVendor(
            "This is not the certificate of an MDM vendor: it is not marked for signing requests, and its "
            f"name does not begin with “{NAME_PREFIX}”. Apple gives one to members of its developer "
            "programme who asked to be MDM vendors; a developer's or a push certificate will not do."
        )
    if not isinstance(key, rsa.RSAPublicKey) or not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        raise NotAVendor(f"The vendor's key is not RSA of {MIN_RSA_BITS} to {MAX_RSA_BITS} bits.")
    return VendorFacts(
        common_name=name[:200],
        serial_number=f"{loaded.serial_number:X}",
        not_before=span[0],
        not_after=span[1],
        public_key=key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
    )


def _has_purpose(certificate: x509.Certificate) -> bool:
    """Apple marks purposes in the extended key usage, or by an extension of that very number."""
    for extension in certificate.extensions:
        if extension.oid == PURPOSE:
            return True
        if isinstance(extension.value, x509.ExtendedKeyUsage) and PURPOSE in extension.value:
            return True
    return False


def verify_current(facts: VendorFacts, *, now: datetime) -> VendorFacts:
    """Raises :class:`Expired` or :class:`NotYetValid`."""
    if now >= facts.not_after:
        raise Expired(f"The vendor's certificate expired on {facts.not_after:%d %B %Y}.")
    if now < facts.not_before:
        raise NotYetValid(f"The vendor's certificate is not valid before {facts.not_before:%d %B %Y}.")
    return facts


def complete_chain(
    certificate: bytes,
    others: Sequence[bytes],
    *,
    intermediates: Sequence[bytes],
    roots: Sequence[bytes],
    now: datetime,
) -> tuple[bytes, ...]:
    """All certificates (DER) above the vendor's, root included, as the portal demands.

    ``others``: what came with it; ``intermediates``: what is known without. Raises :class:`BrokenChain`.
    """
    try:
        return chain.build(certificate, [*others, *intermediates], roots=roots, now=now)
    except chain.ChainError as error:
        raise BrokenChain(f"{error} It has to lead to Apple's root.") from error


# --- the signed request ---


def sign(request: bytes, private_key: bytes, certificates: Sequence[bytes]) -> bytes:
    """The file for Apple's portal: Base64 of the property list.

    ``request``: PKCS #10, DER; ``private_key``: the vendor's, PKCS #8, DER; ``certificates``: DER, from the
    vendor's own up to the root. Raises :class:`NotAVendor` where the key is not RSA, or not the first
    certificate's.
    """
    key = serialization.load_der_private_key(private_key, None)
    leaf = describe(certificates[0])
    if not isinstance(key, rsa.RSAPrivateKey) or public_key_of(private_key) != leaf.public_key:
        raise NotAVendor("The key does not belong to the vendor's certificate.")
    signature = key.sign(request, padding.PKCS1v15(), hashes.SHA256())
    plist = plistlib.dumps(
        {
            "PushCertRequestCSR": base64.b64encode(request).decode(),
            "PushCertCertificateChain": encode_certificate_pem(*certificates).decode(),
            "PushCertSignature": base64.b64encode(signature).decode(),
        },
        sort_keys=False,
    )
    return base64.b64encode(plist)


def normalise(data: bytes) -> bytes:
    """The same file as one line of Base64: vendors send it wrapped, or the property list itself.

    Raises :class:`TooLarge` and :class:`Unreadable`.
    """
    return base64.b64encode(_plist_in(data))


def decode(data: bytes) -> SignedRequest:
    """Read what a vendor returned. Raises :class:`TooLarge` and :class:`Unreadable`, nothing else."""
    values = _read(_plist_in(data))
    if missing := [key for key in _KEYS if key not in values]:
        raise Unreadable(f"The file is not a signed request: it has no {', '.join(missing)}.")
    request, certificates, signature = (values[key] for key in _KEYS)
    blocks = [block for label, block in pem.blocks(certificates.encode()) if label == b"CERTIFICATE"]
    if not blocks:
        raise Unreadable("The signed request holds no certificate of the vendor (PushCertCertificateChain).")
    if len(blocks) > MAX_CERTIFICATES:
        raise Unreadable(f"The signed request holds more than {MAX_CERTIFICATES} certificates.")
    return SignedRequest(
        _from_base64(request, "PushCertRequestCSR"),
        _from_base64(signature, "PushCertSignature"),
        tuple(_load(block) for block in blocks),
    )


def verify(signed: SignedRequest, *, request: bytes) -> VendorFacts:
    """Who signed: if it is this very request (DER), signed by the key of the chain's first certificate.

    Raises :class:`NotOurRequest`, :class:`WrongSignature`, :class:`Unreadable`, :class:`NotAVendor`.
    """
    if signed.request != request:
        raise NotOurRequest(
            "The vendor signed another request than this one. Send them the request of this page, "
            "or open the page of the request that they signed."
        )
    facts = describe(signed.chain[0])
    key = serialization.load_der_public_key(facts.public_key)
    assert isinstance(key, rsa.RSAPublicKey)  # noqa: S101 - describe() has looked
    if _fits(key, signed, hashes.SHA256()):
        return facts
    if _fits(key, signed, hashes.SHA1()):  # noqa: S303 - to name it, not to accept it
        raise WrongSignature("The vendor signed with SHA-1. Apple asks for SHA-256: have it signed again.")
    raise WrongSignature("The vendor's signature does not fit the request: the file is damaged or forged.")


def _fits(key: rsa.RSAPublicKey, signed: SignedRequest, algorithm: hashes.HashAlgorithm) -> bool:
    try:
        key.verify(signed.signature, signed.request, padding.PKCS1v15(), algorithm)
    except (InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


# --- reading ---


def _plist_in(data: bytes) -> bytes:
    if len(data) > MAX_SIZE:
        raise TooLarge(f"The file is larger than {MAX_SIZE // 1024} KiB.")
    bare = data.removeprefix(b"\xef\xbb\xbf").strip()
    if bare.startswith(b"<"):
        return bare
    try:
        inside = base64.b64decode(b"".join(bare.split()), validate=True).strip()
    except binascii.Error as error:
        raise Unreadable(
            "The file is neither Base64 nor a property list: it is not a signed request."
        ) from error
    if not inside.startswith((b"<?xml", b"<!DOCTYPE", b"<plist")):
        raise Unreadable("There is no property list in the file: it is not a signed request.")
    return inside


def _read(plist: bytes) -> dict[str, str]:
    """The texts of the dictionary at the top; other values are left out."""
    top = _parse(_verify_markup(plist))
    inner = list(top)
    if top.tag != "plist" or len(inner) != 1 or inner[0].tag != "dict" or len(inner[0]) % 2:
        raise Unreadable("The property list is not the dictionary of a signed request.")
    entries = list(inner[0])
    values: dict[str, str] = {}
    for key, value in zip(entries[::2], entries[1::2], strict=True):
        if key.tag != "key" or key.text is None or key.text in values:
            raise Unreadable("The property list's keys are not in order.")
        if value.tag in {"string", "data"}:
            values[key.text] = value.text or ""
    return values


def _verify_markup(plist: bytes) -> str:
    """No entities, no document type but Apple's own, before any parser sees it."""
    if b"<!" in _DOCTYPE.sub(b"", plist, count=1) or b"\0" in plist:
        raise Unreadable("The property list holds markup that has no place in a signed request.")
    try:
        return plist.decode()
    except UnicodeDecodeError as error:
        raise Unreadable("The property list is not UTF-8.") from error


def _parse(text: str) -> Element:
    parser = XMLParser()  # noqa: S314 - see _verify_markup
    try:
        parser.feed(text)
        return parser.close()
    except ParseError as error:
        raise Unreadable("The property list cannot be read.") from error


def _from_base64(text: str, key: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Unreadable(f"{key} is not Base64.") from error


def _load(block: bytes) -> bytes:
    try:
        return x509.load_pem_x509_certificate(block).public_bytes(serialization.Encoding.DER)
    except ValueError as error:
        raise Unreadable("A certificate in the signed request cannot be read.") from error
