"""OCSP messages: ours are read by others, theirs by us, and rubbish by nobody."""

from __future__ import annotations

import contextlib
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as reference
from hypothesis import given
from hypothesis import strategies as st

from pki.core import asn1, ocsp
from pki.core.ocsp import (
    CertificateStatus,
    OcspError,
    ResponseStatus,
    Standing,
    decode_request,
    encode_error,
    encode_response,
    issuer_hashes,
)
from pki.core.scan import Malformed
from tests.pki.conftest import NOW, Party

DIGESTS: dict[str, hashes.HashAlgorithm] = {
    "sha1": hashes.SHA1(),  # noqa: S303
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
NONCE_OID = "1.3.6.1.5.5.7.48.1.2"


def asked(party: Party, digest: str = "sha256", nonce: bytes | None = None) -> bytes:
    """A request about a party's own certificate, made by cryptography."""
    certificate = x509.load_der_x509_certificate(party.certificate)
    builder = reference.OCSPRequestBuilder().add_certificate(certificate, certificate, DIGESTS[digest])
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.build().public_bytes(Encoding.DER)


def explicit(number: int, *parts: bytes) -> bytes:
    return asn1.encode(asn1.context(number), *parts)


def certificate_id(party: Party, serial_number: int = 5) -> bytes:
    name, key = issuer_hashes(party.certificate)["sha256"]
    algorithm = asn1.encode_sequence(asn1.encode_oid("2.16.840.1.101.3.4.2.1"), asn1.encode_null())
    return asn1.encode_sequence(
        algorithm, asn1.encode_octets(name), asn1.encode_octets(key), asn1.encode_integer(serial_number)
    )


def request(*ids: bytes, before: bytes = b"", after: bytes = b"", outer: bytes = b"") -> bytes:
    """A request put together by hand."""
    singles = asn1.encode_sequence(*(asn1.encode_sequence(one) for one in ids))
    return asn1.encode_sequence(asn1.encode_sequence(before, singles, after), outer)


def extension(oid: str, value: bytes, critical: bytes = b"") -> bytes:
    return asn1.encode_sequence(asn1.encode_oid(oid), critical, asn1.encode_octets(value))


def extensions(*members: bytes) -> bytes:
    return explicit(2, asn1.encode_sequence(*members))


CRITICAL, NOT_CRITICAL = b"\x01\x01\xff", b"\x01\x01\x00"


@pytest.mark.parametrize("digest", DIGESTS)
@pytest.mark.parametrize("nonce", [None, b"n", b"n" * 32, b"n" * 128])
def test_requests_of_others_are_read(rsa_party: Party, digest: str, nonce: bytes | None) -> None:
    read = decode_request(asked(rsa_party, digest, nonce))
    (one,) = read.certificates
    assert read.nonce == nonce
    assert one.serial_number == x509.load_der_x509_certificate(rsa_party.certificate).serial_number
    assert ocsp.is_issuer(issuer_hashes(rsa_party.certificate), one)


def test_what_belongs_to_another_issuer_is_told_apart(rsa_party: Party, other_party: Party) -> None:
    hashes_of_issuer = issuer_hashes(rsa_party.certificate)
    (one,) = decode_request(asked(other_party)).certificates
    assert not ocsp.is_issuer(hashes_of_issuer, one)
    # The same name with another key, and the same key with another name.
    name, key = hashes_of_issuer["sha256"]
    other_name, other_key = issuer_hashes(other_party.certificate)["sha256"]
    for pair in ((name, other_key), (other_name, key), (b"", b"")):
        mixed = ocsp.CertificateId("sha256", *pair, 1, b"")
        assert not ocsp.is_issuer(hashes_of_issuer, mixed)
    # Hashes of one algorithm under the name of another, and of one that is not used here.
    assert not ocsp.is_issuer(hashes_of_issuer, ocsp.CertificateId("sha1", name, key, 1, b""))
    assert not ocsp.is_issuer(hashes_of_issuer, ocsp.CertificateId(None, name, key, 1, b""))


def test_up_to_ten_certificates_may_be_asked_about(rsa_party: Party) -> None:
    ids = [certificate_id(rsa_party, number) for number in range(11)]
    assert [one.serial_number for one in decode_request(request(*ids[:10])).certificates] == list(range(10))
    assert [one.encoded for one in decode_request(request(*ids[:10])).certificates] == ids[:10]
    for number in (0, 11):
        with pytest.raises(OcspError, match="between 1 and 10"):
            decode_request(request(*ids[:number]))


def test_what_is_optional_may_be_there(rsa_party: Party) -> None:
    one = certificate_id(rsa_party)
    version = explicit(0, asn1.encode_integer(0))
    requestor = explicit(1, explicit(4, asn1.encode_sequence()))
    signature = explicit(0, asn1.encode_sequence(asn1.encode_sequence(asn1.encode_oid("1.2.3"))))
    unknown = extensions(extension("1.2.3.4", b"\x05\x00"), extension("1.2.3.5", b"", NOT_CRITICAL))
    read = decode_request(request(one, before=version + requestor, after=unknown, outer=signature))
    assert (len(read.certificates), read.nonce) == (1, None)
    bare = asn1.encode_sequence(
        asn1.encode_sequence(asn1.encode_oid("2.16.840.1.101.3.4.2.1")),
        *(asn1.encode_octets(value) for value in issuer_hashes(rsa_party.certificate)["sha256"]),
        asn1.encode_integer(7),
    )
    assert decode_request(request(bare)).certificates[0].encoded == bare
    inside = asn1.encode_sequence(one, explicit(0, asn1.encode_sequence(extension("1.2.3.4", b""))))
    whole = asn1.encode_sequence(asn1.encode_sequence(asn1.encode_sequence(inside)))
    assert len(decode_request(whole).certificates) == 1


BAD_EXTENSIONS = {
    "critical and unknown": extensions(extension("1.2.3.4", b"", CRITICAL)),
    "twice": extensions(extension("1.2.3.4", b""), extension("1.2.3.4", b"")),
    "nonce twice": extensions(*[extension(NONCE_OID, asn1.encode_octets(b"n"))] * 2),
    "empty nonce": extensions(extension(NONCE_OID, asn1.encode_octets(b""))),
    "long nonce": extensions(extension(NONCE_OID, asn1.encode_octets(b"n" * 129))),
    "nonce that is no octet string": extensions(extension(NONCE_OID, asn1.encode_integer(1))),
    "nonce with something behind": extensions(extension(NONCE_OID, asn1.encode_octets(b"n") + b"\0")),
    "nonce of nothing": extensions(extension(NONCE_OID, b"")),
    "not a list": explicit(2, asn1.encode_integer(1)),
    "two lists": explicit(2, asn1.encode_sequence(), asn1.encode_sequence()),
}


@pytest.mark.parametrize("what", BAD_EXTENSIONS)
def test_bad_extensions_are_refused(rsa_party: Party, what: str) -> None:
    with pytest.raises(OcspError):
        decode_request(request(certificate_id(rsa_party), after=BAD_EXTENSIONS[what]))


def test_a_critical_nonce_is_known(rsa_party: Party) -> None:
    critical = extensions(extension(NONCE_OID, asn1.encode_octets(b"n"), CRITICAL))
    assert decode_request(request(certificate_id(rsa_party), after=critical)).nonce == b"n"


def test_other_bad_requests_are_refused(rsa_party: Party) -> None:
    one, good = certificate_id(rsa_party), asked(rsa_party)
    cases = [
        b"",
        b"\x30",
        good + b"\0",
        good[:-1],
        request(one, before=explicit(0, asn1.encode_integer(1))),
        request(one, outer=asn1.encode_integer(1)),
        request(asn1.encode_sequence()),
        request(one + asn1.encode_null()),
        good.ljust(ocsp.MAX_REQUEST + 1, b"\0"),
        request(one, after=extensions(extension("1.2.3.4", b"n" * ocsp.MAX_REQUEST))),
    ]
    for data in cases:
        with pytest.raises(OcspError):
            decode_request(data)


@given(st.binary(max_size=300))
def test_anything_is_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(OcspError):
        decode_request(data)


@given(st.data())
def test_a_changed_request_is_read_or_refused(rsa_party: Party, data: st.DataObject) -> None:
    changed = bytearray(asked(rsa_party, nonce=b"n" * 16))
    for _change in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(OcspError):
        decode_request(bytes(changed))


def answered(
    party: Party, standings: list[tuple[Standing, str]], nonce: bytes | None = None
) -> tuple[bytes, list[bytes]]:
    """An answer of a party about certificates 0, 1, …; and their CertIDs."""
    ids = [certificate_id(party, number) for number in range(len(standings))]
    yesterday = NOW - timedelta(days=1)
    asked_about = decode_request(request(*ids)).certificates
    statuses = [
        CertificateStatus(one, standing, yesterday if standing is Standing.REVOKED else None, reason)
        for one, (standing, reason) in zip(asked_about, standings, strict=True)
    ]
    answer = encode_response(
        statuses,
        nonce=nonce,
        produced_at=NOW,
        this_update=NOW,
        next_update=NOW + timedelta(hours=1),
        certificate=party.certificate,
        private_key=party.key,
    )
    return answer, ids


STANDINGS = {
    "good": (Standing.GOOD, "", reference.OCSPCertStatus.GOOD, None),
    "unknown": (Standing.UNKNOWN, "", reference.OCSPCertStatus.UNKNOWN, None),
    "revoked": (
        Standing.REVOKED,
        "keyCompromise",
        reference.OCSPCertStatus.REVOKED,
        x509.ReasonFlags.key_compromise,
    ),
    "revoked without a reason": (Standing.REVOKED, "unspecified", reference.OCSPCertStatus.REVOKED, None),
}


@pytest.mark.parametrize("what", STANDINGS)
@pytest.mark.parametrize("nonce", [None, b"n" * 128])
def test_our_answers_are_read_by_others(rsa_party: Party, what: str, nonce: bytes | None) -> None:
    standing, reason, expected, flag = STANDINGS[what]
    read = reference.load_der_ocsp_response(answered(rsa_party, [(standing, reason)], nonce)[0])
    assert read.response_status is reference.OCSPResponseStatus.SUCCESSFUL
    assert (read.certificate_status, read.revocation_reason) == (expected, flag)
    revoked = standing is Standing.REVOKED
    assert read.revocation_time_utc == (NOW - timedelta(days=1) if revoked else None)
    assert (read.this_update_utc, read.next_update_utc) == (NOW, NOW + timedelta(hours=1))
    assert read.produced_at_utc == NOW
    assert [one.public_bytes(Encoding.DER) for one in read.certificates] == [rsa_party.certificate]
    assert len(read.extensions) == (1 if nonce else 0)
    if nonce:
        assert read.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == nonce
    key = rsa_party.key.public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    key.verify(read.signature, read.tbs_response_bytes, padding.PKCS1v15(), hashes.SHA256())
    assert read.responder_key_hash == x509.SubjectKeyIdentifier.from_public_key(key).digest


def test_several_certificates_are_answered_in_one(ec_party: Party) -> None:
    answer, _ids = answered(
        ec_party, [(Standing.GOOD, ""), (Standing.REVOKED, "superseded"), (Standing.UNKNOWN, "")]
    )
    read = reference.load_der_ocsp_response(answer)
    assert [(one.serial_number, one.certificate_status.name) for one in read.responses] == [
        (0, "GOOD"),
        (1, "REVOKED"),
        (2, "UNKNOWN"),
    ]


def test_the_responder_signs_with_its_own_key(rsa_party: Party, other_party: Party) -> None:
    with pytest.raises(Malformed):
        answered(Party(rsa_party.key, other_party.certificate), [(Standing.GOOD, "")])
    with pytest.raises(ValueError, match="at some time"):
        ocsp._encode_standing(CertificateStatus(ocsp.CertificateId(None, b"", b"", 1, b""), Standing.REVOKED))


@pytest.mark.parametrize("status", [status for status in ResponseStatus if status])
def test_errors(status: ResponseStatus) -> None:
    read = reference.load_der_ocsp_response(encode_error(status))
    assert read.response_status.value == status.value
