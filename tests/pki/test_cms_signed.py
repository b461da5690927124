"""Signed messages: what verifies, and every way in which one must not."""

from __future__ import annotations

import base64

import pytest
from asn1crypto import cms as oracle
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pki.core import algorithms, asn1, cms
from pki.core.certificates import describe
from pki.core.cms import Attribute, CmsError, UnsupportedAlgorithm, sign, verify_signed_data
from tests.pki.conftest import NOW, Party, openssl, self_signed, vector
from tests.pki.messages import (
    MD5,
    SHA1,
    SHA512,
    Message,
    attribute,
    content_type,
    identifier,
    indefinite,
    message_digest,
)

CONTENT = b"<plist>content</plist>"
TRANSACTION_ID = "2.16.840.1.113733.1.9.7"


@pytest.fixture
def message(rsa_party: Party) -> Message:
    """A message that verifies; each test breaks one thing."""
    return Message(rsa_party, CONTENT)


def refused(data: bytes, **arguments: object) -> str:
    with pytest.raises(CmsError) as error:
        verify_signed_data(data, **arguments)  # type: ignore[arg-type]
    return error.value.reason


# --- What verifies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
@pytest.mark.parametrize("who", ["rsa", "ec"])
def test_what_we_sign_verifies(rsa_party: Party, ec_party: Party, who: str, digest: str) -> None:
    party = rsa_party if who == "rsa" else ec_party
    value = asn1.encode_text("id")
    data = sign(
        CONTENT,
        certificate=party.certificate,
        private_key=party.key,
        attributes=[Attribute(TRANSACTION_ID, (value,))],
        digest=digest,
        signing_time=NOW,
    )
    verified = verify_signed_data(data, require_attributes=True)
    assert verified.content == CONTENT
    assert verified.signer == party.certificate
    assert verified.certificates == (party.certificate,)
    assert verified.digest_algorithm == digest
    assert verified.attributes is not None
    assert verified.attributes[TRANSACTION_ID] == (value,)
    assert set(verified.attributes) == {
        TRANSACTION_ID,
        cms.CONTENT_TYPE,
        cms.MESSAGE_DIGEST,
        cms.SIGNING_TIME,
    }


@pytest.mark.parametrize("attributes", [(), None])
def test_detached(rsa_party: Party, attributes: tuple[()] | None) -> None:
    data = sign(
        CONTENT,
        certificate=rsa_party.certificate,
        private_key=rsa_party.key,
        detached=True,
        attributes=attributes,
    )
    verified = verify_signed_data(data, detached_content=CONTENT)
    assert verified.content == CONTENT
    assert (verified.attributes is None) == (attributes is None)
    assert "no content" in refused(data)
    assert "does not fit" in refused(data, detached_content=b"other") or attributes is None
    assert refused(data, detached_content=CONTENT + b"\n")
    assert refused(data, detached_content=b"")


def test_empty_content_is_content(message: Message) -> None:
    assert verify_signed_data(message.but(content=b"").encoded()).content == b""


def test_the_signature_algorithm_of_rsa_keys_is_plain(rsa_party: Party) -> None:
    """strongSwan refuses sha256WithRSAEncryption in a SignerInfo."""
    data = sign(CONTENT, certificate=rsa_party.certificate, private_key=rsa_party.key)
    signer = oracle.ContentInfo.load(data)["content"]["signer_infos"][0]
    assert signer["signature_algorithm"]["algorithm"].dotted == algorithms.RSA_ENCRYPTION
    assert signer["digest_algorithm"]["algorithm"].native == "sha256"


@pytest.mark.parametrize("segment", [1, 7, 1000])
@pytest.mark.parametrize("who", ["attributes", "plain"])
def test_indefinite_length(message: Message, who: str, segment: int) -> None:
    whole = message if who == "attributes" else message.but(attributes=())
    data = indefinite(whole.encoded(), segment=segment)
    assert data[:2] == b"\x30\x80"
    assert openssl("cms", "-verify", "-noverify", "-binary", "-inform", "DER", stdin=data) == CONTENT
    assert verify_signed_data(data).content == CONTENT


def test_algorithm_identifiers_without_null(message: Message) -> None:
    plain = algorithms.encode_algorithm(algorithms.RSA_ENCRYPTION)
    assert verify_signed_data(message.but(signature_algorithm=plain).encoded()).content == CONTENT


@pytest.mark.parametrize("parameters", [(), (asn1.encode_null(),)])
def test_signature_algorithms_that_name_a_digest(message: Message, parameters: tuple[bytes, ...]) -> None:
    named = algorithms.encode_algorithm("1.2.840.113549.1.1.11", *parameters)
    assert verify_signed_data(message.but(signature_algorithm=named).encoded()).content == CONTENT


def test_unsorted_attributes_are_verified_as_received(message: Message) -> None:
    attributes = [message_digest(CONTENT), content_type()]
    for order in (attributes, attributes[::-1]):
        data = message.but(attributes=order, sorted_attributes=False).encoded()
        assert verify_signed_data(data).content == CONTENT


def test_the_certificate_may_come_from_elsewhere(message: Message, other_party: Party) -> None:
    data = message.but(certificates=()).encoded()
    assert "missing" in refused(data)
    assert "missing" in refused(data, certificates=[other_party.certificate])
    supplied = [other_party.certificate, message.party.certificate]
    assert verify_signed_data(data, certificates=supplied).signer == message.party.certificate


def test_the_same_certificate_twice_is_one(message: Message) -> None:
    certificate = message.party.certificate
    data = message.but(certificates=[certificate, certificate]).encoded()
    assert verify_signed_data(data, certificates=[certificate]).signer == certificate


def test_the_signer_is_found_by_identifier_not_by_position(message: Message, other_party: Party) -> None:
    own, other = message.party.certificate, other_party.certificate
    for order in ([own, other], [other, own]):
        assert verify_signed_data(message.but(certificates=order).encoded()).signer == own


def test_the_signer_is_found_by_key_identifier(message: Message, other_party: Party) -> None:
    ski = describe(message.party.certificate).subject_key_identifier
    assert ski
    sid = asn1.encode(asn1.context(0, constructed=False), ski)
    data = message.but(sid=sid, certificates=[other_party.certificate, message.party.certificate]).encoded()
    assert verify_signed_data(data).signer == message.party.certificate
    unknown = asn1.encode(asn1.context(0, constructed=False), b"\x01" * 20)
    assert "missing" in refused(message.but(sid=unknown).encoded())
    empty = asn1.encode(asn1.context(0, constructed=False))
    assert "missing" in refused(message.but(sid=empty).encoded())


def test_sha1_only_where_it_is_allowed(message: Message) -> None:
    data = message.but(digest="sha1").encoded()
    assert verify_signed_data(data, allow_sha1=True).digest_algorithm == "sha1"
    with pytest.raises(UnsupportedAlgorithm, match="SHA-1 is not allowed"):
        verify_signed_data(data)


# --- What must not verify --------------------------------------------------------------------------------

OTHER = b"<plist>other</plist>"
RSA_PSS = algorithms.encode_algorithm("1.2.840.113549.1.1.10")
SHA512_RSA = algorithms.encode_algorithm("1.2.840.113549.1.1.13", asn1.encode_null())
ECDSA_SHA256 = algorithms.encode_algorithm("1.2.840.10045.4.3.2")
MD5_RSA = algorithms.encode_algorithm("1.2.840.113549.1.1.4", asn1.encode_null())

WRONG: dict[str, tuple[dict[str, object], str]] = {
    # C1: signed attributes
    "content changed": ({"e_content": asn1.encode(0xA0, asn1.encode_octets(OTHER))}, "message digest"),
    "digest of other content": ({"attributes": [content_type(), message_digest(OTHER)]}, "message digest"),
    "no message digest": ({"attributes": [content_type()]}, "message digest"),
    "two message digests, right first": (
        {
            "attributes": [content_type(), message_digest(CONTENT), message_digest(OTHER)],
            "sorted_attributes": False,
        },
        "message digest",
    ),
    "two message digests, right last": (
        {
            "attributes": [content_type(), message_digest(OTHER), message_digest(CONTENT)],
            "sorted_attributes": False,
        },
        "message digest",
    ),
    "two values in one message digest": (
        {
            "attributes": [
                content_type(),
                attribute(cms.MESSAGE_DIGEST, message_digest(CONTENT)[-34:], asn1.encode_octets(b"\1" * 32)),
            ]
        },
        "message digest",
    ),
    "message digest without value": (
        {"attributes": [content_type(), attribute(cms.MESSAGE_DIGEST)]},
        "message digest",
    ),
    "message digest of another algorithm": (
        {"attributes": [content_type(), message_digest(CONTENT, "sha512")]},
        "message digest",
    ),
    "no content type": ({"attributes": [message_digest(CONTENT)]}, "content type attribute"),
    "wrong content type": (
        {"attributes": [content_type(cms.SIGNED_DATA), message_digest(CONTENT)]},
        "content type attribute",
    ),
    "two content types": (
        {"attributes": [content_type(), content_type(), message_digest(CONTENT)]},
        "content type attribute",
    ),
    "content type of the content changed": (
        {"e_content_type": cms.ENVELOPED_DATA, "attributes": [content_type(), message_digest(CONTENT)]},
        "content type attribute",
    ),
    "21 attributes": (
        {
            "attributes": [
                content_type(),
                message_digest(CONTENT),
                *(attribute(f"1.2.3.{number}", b"\x05\x00") for number in range(19)),
            ]
        },
        "too many signed attributes",
    ),
    "an attribute that is none": (
        {"attributes": [content_type(), message_digest(CONTENT), b"\x05\x00"]},
        "attribute",
    ),
    # C2: no signed attributes
    "no attributes with another content type": (
        {"attributes": (), "e_content_type": cms.ENVELOPED_DATA},
        "required with this content type",
    ),
    # C3, C4: signers and certificates
    "no signer": ({"signers": 0}, "0 signers"),
    "two signers": ({"signers": 2}, "2 signers"),
    "50 signers": ({"signers": 50}, "50 signers"),
    "no certificate": ({"certificates": ()}, "certificate is missing"),
    # C6: algorithms
    "MD5": ({"digest_oid": MD5}, "is not supported"),
    "unknown digest": ({"digest_oid": "1.2.3.4"}, "is not supported"),
    "digest of another name": ({"digest_oid": SHA512}, "message digest"),
    "RSA-PSS": ({"signature_algorithm": RSA_PSS}, "is not supported"),
    "MD5 with RSA": ({"signature_algorithm": MD5_RSA}, "is not supported"),
    "digests disagree": ({"signature_algorithm": SHA512_RSA}, "disagree"),
    "ECDSA with an RSA key": ({"signature_algorithm": ECDSA_SHA256}, "do not fit"),
    "parameters that are not NULL": (
        {
            "signature_algorithm": algorithms.encode_algorithm(
                algorithms.RSA_ENCRYPTION, asn1.encode_integer(1)
            )
        },
        "unexpected parameters",
    ),
    "the message announces another digest": (
        {"digest_algorithms": [algorithms.encode_algorithm(SHA512)]},
        "not among the message's",
    ),
    "the message announces no digest": ({"digest_algorithms": []}, "not among the message's"),
    "empty signature": ({"signature": b""}, "signature"),
    "zeros for a signature": ({"signature": b"\0" * 256}, "signature"),
    "short signature": ({"signature": b"\1" * 255}, "signature"),
    "long signature": ({"signature": b"\1" * 257}, "signature"),
    "signed with the tag of the message": ({"signed": lambda signed: b"\xa0" + signed[1:]}, "signature"),
    "signed attributes without header": ({"signed": lambda signed: signed[2:]}, "signature"),
    # C10: other messages
    "EnvelopedData outside": ({"outer_type": cms.ENVELOPED_DATA}, "unexpected content type"),
    "CompressedData outside": ({"outer_type": "1.2.840.113549.1.9.16.1.9"}, "unexpected content type"),
    "no content": ({"e_content": b""}, "no content"),
    "content twice": (
        {"e_content": asn1.encode(0xA0, asn1.encode_octets(CONTENT), asn1.encode_octets(CONTENT))},
        "one value",
    ),
    "content that is no octet string": ({"e_content": asn1.encode(0xA0, asn1.encode_null())}, "octet string"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_in_one_way(message: Message, what: str) -> None:
    verify_signed_data(message.encoded())
    changes, reason = WRONG[what]
    assert reason in refused(message.but(**changes).encoded())


def test_two_different_signers_in_both_orders(message: Message, other_party: Party) -> None:
    attacker = Message(other_party, CONTENT)
    for first, second in ((message, attacker), (attacker, message)):
        data = first.but(
            more_signers=[second.signer_info()],
            certificates=[message.party.certificate, other_party.certificate],
        ).encoded()
        assert "2 signers" in refused(data)


def test_a_trusted_certificate_that_is_only_present_does_not_sign(
    message: Message, other_party: Party
) -> None:
    """C5: the attacker signs with his key and names the trusted certificate as his."""
    attacker = Message(other_party, CONTENT).but(
        sid=identifier(message.party.certificate),
        certificates=[message.party.certificate, other_party.certificate],
    )
    assert "signature is wrong" in refused(attacker.encoded())
    honest = attacker.but(sid=None)
    assert verify_signed_data(honest.encoded()).signer == other_party.certificate


def test_two_certificates_with_one_identifier(message: Message, other_rsa_key: rsa.RSAPrivateKey) -> None:
    """C4: an attacker's certificate with the same issuer and serial number."""
    serial_number = int(describe(message.party.certificate).serial_number, 16)
    clone = self_signed(other_rsa_key, "RSA signer", serial_number)
    for order in ([clone, message.party], [message.party, clone]):
        data = message.but(certificates=[party.certificate for party in order]).encoded()
        assert "several certificates" in refused(data)


def test_signed_attributes_passed_off_as_content(message: Message) -> None:
    """C2: the signature over attributes is none over content with the attributes' bytes."""
    attributes = asn1.encode(asn1.SET, *sorted([content_type(), message_digest(CONTENT)]))
    signature = algorithms.sign(message.party.key, "sha256", attributes)
    data = message.but(content=attributes, attributes=(), signature=signature).encoded()
    assert "attributes of another message" in refused(data)
    # A signature over other content that begins like a SET is one.
    other = message.but(content=b"1 is a number", attributes=()).encoded()
    assert verify_signed_data(other).content == b"1 is a number"


def test_required_attributes(message: Message) -> None:
    data = message.but(attributes=()).encoded()
    assert verify_signed_data(data).attributes is None
    assert "attributes are missing" in refused(data, require_attributes=True)


def test_content_inside_and_outside(message: Message) -> None:
    assert "beside the detached" in refused(message.encoded(), detached_content=CONTENT)
    assert "beside the detached" in refused(message.encoded(), detached_content=OTHER)


@pytest.mark.parametrize("tail", [b"\0", b"\0\0", b"\x05\x00", b"junk"])
def test_bytes_after_the_end(message: Message, tail: bytes) -> None:
    assert "after the end" in refused(message.encoded() + tail)


def test_signed_attributes_of_indefinite_length(message: Message) -> None:
    der = message.encoded()
    inner = b"".join(sorted([content_type(), message_digest(CONTENT)]))
    assert der.count(asn1.encode(0xA0, inner)) == 1
    loose = indefinite(der)
    data = loose.replace(asn1.encode(0xA0, inner), b"\xa0\x80" + inner + b"\0\0")
    assert "not in DER" in refused(data)


def test_a_certificate_of_indefinite_length(message: Message) -> None:
    certificate = message.party.certificate
    node = asn1.read(certificate)
    loose = b"\x30\x80" + node.contents + b"\0\0"
    assert "not in DER" in refused(message.but(certificates=[loose]).encoded())
    inner = next(asn1.children(node))
    rest = certificate[inner.end :]
    deeper = asn1.encode_sequence(b"\x30\x80" + inner.contents + b"\0\0" + rest)
    assert "cannot be read" in refused(message.but(certificates=[deeper]).encoded())


def test_eleven_certificates(message: Message, other_rsa_key: rsa.RSAPrivateKey) -> None:
    others = [self_signed(other_rsa_key, f"other {number}").certificate for number in range(10)]
    ten = message.but(certificates=[message.party.certificate, *others[:9]])
    assert len(verify_signed_data(ten.encoded()).certificates) == 10
    eleven = message.but(certificates=[message.party.certificate, *others])
    assert "too many certificates" in refused(eleven.encoded())


def test_a_certificate_that_is_none(message: Message) -> None:
    for junk in (b"\x30\x00", asn1.encode_sequence(asn1.encode_null()), b"\xa1\x02\x05\x00"):
        data = message.but(certificates=[message.party.certificate, junk]).encoded()
        assert refused(data)


@pytest.mark.parametrize("curve", [ec.SECP521R1(), ec.SECP256K1(), ec.SECP224R1()])
def test_other_curves(curve: ec.EllipticCurve) -> None:
    party = self_signed(ec.generate_private_key(curve))
    data = sign(CONTENT, certificate=party.certificate, private_key=party.key)
    with pytest.raises(UnsupportedAlgorithm, match="curve"):
        verify_signed_data(data)


@pytest.mark.parametrize("r_and_s", [(0, 0), (0, 1), (1, 0), (2**256, 1)])
def test_degenerate_ecdsa_signatures(ec_party: Party, r_and_s: tuple[int, int]) -> None:
    signature = asn1.encode_sequence(*(asn1.encode_integer(number) for number in r_and_s))
    message = Message(ec_party, CONTENT, signature_algorithm=ECDSA_SHA256)
    verify_signed_data(message.encoded())
    assert "signature" in refused(message.but(signature=signature).encoded())


def test_a_pss_signature_under_the_name_of_rsa(rsa_key: rsa.RSAPrivateKey, message: Message) -> None:
    attributes = asn1.encode(asn1.SET, *sorted([content_type(), message_digest(CONTENT)]))
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    signature = rsa_key.sign(attributes, pss, hashes.SHA256())
    assert "signature is wrong" in refused(message.but(signature=signature).encoded())


def test_garbage_after_the_digest_info(rsa_key: rsa.RSAPrivateKey, message: Message) -> None:
    """Bleichenbacher 2006: a lenient verifier ignores what follows the DigestInfo."""
    attributes = asn1.encode(asn1.SET, *sorted([content_type(), message_digest(CONTENT)]))
    digest = hashes.Hash(hashes.SHA256())
    digest.update(attributes)
    info = asn1.encode_sequence(
        algorithms.encode_algorithm(algorithms.DIGEST_OIDS["sha256"], asn1.encode_null()),
        asn1.encode_octets(digest.finalize()),
    )
    block = b"\x00\x01" + b"\xff" * 8 + b"\x00" + info
    block += b"\xaa" * (256 - len(block))
    numbers = rsa_key.private_numbers()
    forged = pow(int.from_bytes(block), numbers.d, numbers.public_numbers.n).to_bytes(256)
    assert "signature is wrong" in refused(message.but(signature=forged).encoded())


def key_of(certificate: bytes) -> object:
    """The signature does not cover the certificate: with other bytes altered it is another certificate, which
    nobody trusts, but the key that signed is the same."""
    return x509.load_der_x509_certificate(certificate).public_key()


# --- Properties ------------------------------------------------------------------------------------------

IN_PLACE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(CmsError):
        verify_signed_data(data)
    with pytest.raises(CmsError):
        cms.certificates_of(data)


@IN_PLACE
@given(st.data(), st.sampled_from(["attributes", "plain", "indefinite", "ec"]))
def test_one_flipped_bit(rsa_party: Party, ec_party: Party, data: st.DataObject, shape: str) -> None:
    """Whatever still verifies has the signed content and the signer's key; nothing else is ever raised."""
    whole = Message(rsa_party, CONTENT)
    if shape == "plain":
        whole = whole.but(attributes=())
    elif shape == "ec":
        whole = Message(ec_party, CONTENT, signature_algorithm=ECDSA_SHA256)
    encoded = indefinite(whole.encoded()) if shape == "indefinite" else whole.encoded()
    changed = bytearray(encoded)
    position = data.draw(st.integers(0, 1 << 16)) % len(encoded)
    changed[position] ^= 1 << data.draw(st.integers(0, 7))
    try:
        verified = verify_signed_data(bytes(changed))
    except CmsError:
        return
    assert (verified.content, key_of(verified.signer)) == (CONTENT, key_of(whole.party.certificate))


@IN_PLACE
@given(st.data())
def test_a_flipped_bit_of_the_content_never_verifies(rsa_party: Party, data: st.DataObject) -> None:
    plain = data.draw(st.booleans())
    signed = sign(
        CONTENT,
        certificate=rsa_party.certificate,
        private_key=rsa_party.key,
        detached=True,
        attributes=None if plain else (),
    )
    changed = bytearray(CONTENT)
    changed[data.draw(st.integers(0, len(CONTENT) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CmsError):
        verify_signed_data(signed, detached_content=bytes(changed))


def test_every_flipped_byte_of_the_attributes_is_refused(message: Message) -> None:
    """C7, each byte of what is signed."""
    encoded = message.encoded()
    attributes = b"".join(sorted([content_type(), message_digest(CONTENT)]))
    start = encoded.index(attributes)
    for position in range(start, start + len(attributes)):
        changed = bytearray(encoded)
        changed[position] ^= 0x01
        assert refused(bytes(changed))


@IN_PLACE
@given(st.data())
def test_cut_and_doubled_parts(rsa_party: Party, data: st.DataObject) -> None:
    """Whole TLVs removed, doubled or exchanged: refused, or the signed content and key."""
    encoded = Message(rsa_party, CONTENT).encoded()
    nodes = list(_all_nodes(asn1.read(encoded)))
    first, second = data.draw(st.sampled_from(nodes)), data.draw(st.sampled_from(nodes))
    replacement = data.draw(st.sampled_from([b"", first.encoded * 2, second.encoded]))
    changed = _with(encoded, first, replacement)
    try:
        verified = verify_signed_data(changed)
    except CmsError:
        return
    assert (verified.content, key_of(verified.signer)) == (CONTENT, key_of(rsa_party.certificate))


def _all_nodes(node: asn1.Node) -> list[asn1.Node]:
    if not node.tag & 0x20:
        return [node]
    return [node, *(inner for child in asn1.children(node) for inner in _all_nodes(child))]


def _with(encoded: bytes, target: asn1.Node, replacement: bytes) -> bytes:
    """The same tree with one node replaced and every length around it made right."""

    def build(node: asn1.Node) -> bytes:
        if (node.start, node.end) == (target.start, target.end):
            return replacement
        if not node.tag & 0x20 or not node.start < target.start < node.end:
            return node.encoded
        return asn1.encode(node.tag, *(build(child) for child in asn1.children(node)))

    return build(asn1.read(encoded))


# --- Certificates only -----------------------------------------------------------------------------------


def test_degenerate_keeps_the_order(rsa_party: Party, other_party: Party, ec_party: Party) -> None:
    for order in (
        [rsa_party.certificate, other_party.certificate, ec_party.certificate],
        [ec_party.certificate, other_party.certificate, rsa_party.certificate],
    ):
        data = cms.degenerate(order)
        assert cms.certificates_of(data) == tuple(order)
        parsed = oracle.ContentInfo.load(data)["content"]
        assert len(parsed["signer_infos"]) == 0
        assert parsed["encap_content_info"]["content"].native is None
    assert "0 signers" in refused(cms.degenerate([rsa_party.certificate]), detached_content=b"")
    assert cms.certificates_of(cms.degenerate([])) == ()


# --- Real messages ---------------------------------------------------------------------------------------


def test_the_signature_of_a_real_device_decodes() -> None:
    """BER of indefinite length, SHA-1, no signed attributes, empty subject; its signed body is not known."""
    data = base64.b64decode(vector("mdm-signature/header-without-body.b64"))
    assert data[:2] == b"\x30\x80"
    message = cms.decode_signed_data(data)
    assert (message.content, len(message.signers), len(message.certificates)) == (None, 1, 1)
    facts = describe(message.certificates[0])
    assert (facts.subject, facts.serial_number, facts.key) == ("", "04", "RSA 2048")
    with pytest.raises(UnsupportedAlgorithm, match="SHA-1"):
        verify_signed_data(data, detached_content=b"another body")
    with pytest.raises(CmsError, match="the signature is wrong"):
        verify_signed_data(data, detached_content=b"another body", allow_sha1=True)
    with pytest.raises(CmsError, match="attributes are missing"):
        verify_signed_data(data, detached_content=b"x", allow_sha1=True, require_attributes=True)


@pytest.mark.parametrize(
    ("name", "signer"),
    [("scep_req2.der", "CN=Test SCEP PKI user"), ("scep_resp2.der", "CN=Dave's SCEP CA")],
)
def test_messages_of_the_rfc_author_verify(name: str, signer: str) -> None:
    verified = verify_signed_data(vector(f"scep/{name}"), require_attributes=True)
    assert describe(verified.signer).subject.startswith(signer)
    assert verified.digest_algorithm == "sha256"
    assert oracle.ContentInfo.load(verified.content)["content_type"].native == "enveloped_data"


def test_the_degenerate_message_of_the_rfc_author() -> None:
    (certificate,) = cms.certificates_of(vector("scep/scep_resp0.der"))
    assert "Wetaburgers" in describe(certificate).subject


def test_sha1_oid_is_the_one_of_devices() -> None:
    assert algorithms.DIGESTS[SHA1] == "sha1"
