"""The walk along the usual structure finds what the long way finds, or knows nothing.

Signatures are not checked here, so that the messages that are changed at random come further than that.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pki.core import algorithms, asn1, cms, usual_cms
from pki.core.scan import DEFAULT_LIMITS, Limits, Malformed, scan
from tests.pki.conftest import Party, vector
from tests.pki.messages import Envelope, Message, attribute, content_type, indefinite, message_digest
from tests.pki.test_cms_enveloped import IV, KEY, aes, padded, wrapped
from tests.pki.test_cms_signed import ECDSA_SHA256, _all_nodes, _with

CONTENT = b"what is signed"
IN_PLACE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
Outcome = tuple[Any, ...]


@contextmanager
def unverified() -> Iterator[list[Outcome]]:
    """With every signature taken for right. What was to be verified is in the list."""
    asked: list[Outcome] = []

    def note(key: Any, kind: str, digest: str, signature: bytes, signed: bytes) -> None:
        asked.append((key.public_numbers(), kind, digest, signature, signed))

    with mock.patch.object(algorithms, "verify_signature", note):
        yield asked


def verified(data: bytes, **arguments: Any) -> Outcome:
    """What is in the message, and what its signature would be verified over; or why it is refused."""
    with unverified() as asked:
        try:
            return cms.verify_signed_data(data, **arguments), asked
        except cms.CmsError as error:
            return type(error), error.reason


def opened(data: bytes, party: Party, **arguments: Any) -> Outcome:
    assert isinstance(party.key, rsa.RSAPrivateKey)
    drawn: list[int] = []

    def random(count: int) -> bytes:
        drawn.append(count)
        return b"\x5a" * count

    try:
        found = cms.decrypt(
            data, recipient=party.certificate, private_key=party.key, random=random, **arguments
        )
    except cms.CmsError as error:
        return type(error), error.reason, drawn
    return found, drawn


def the_long_way(find: Callable[[], Outcome]) -> Outcome:
    with (
        mock.patch.object(usual_cms, "signed", return_value=None),
        mock.patch.object(usual_cms, "enveloped", return_value=None),
    ):
        return find()


# --- messages --------------------------------------------------------------------------------------------


def as_devices_write(data: bytes) -> bytes:
    """Indefinite lengths down to certificates and algorithms, contents in pieces: so do Apple's devices."""

    def loose(node: asn1.Node, depth: int) -> bytes:
        if node.tag in {asn1.OCTET_STRING, 0x80} and depth in {4, 5}:
            pieces = [node.contents[start : start + 7] for start in range(0, len(node.contents), 7)]
            tag = 0x24 if node.tag == asn1.OCTET_STRING else 0xA0
            return bytes((tag, 0x80)) + b"".join(map(asn1.encode_octets, pieces)) + b"\0\0"
        whole = not node.tag & 0x20 or (node.tag == asn1.SET and len(node.contents) < 40)
        if whole or depth > 4 or (depth == 4 and node.tag != asn1.context(0)):
            return node.encoded
        inner = b"".join(loose(child, depth + 1) for child in asn1.children(node))
        return bytes((node.tag, 0x80)) + inner + b"\0\0"

    return loose(asn1.read(data), 0)


@pytest.fixture(scope="module")
def messages(rsa_party: Party, other_party: Party, ec_party: Party) -> dict[str, bytes]:
    """Made once: no two ECDSA signatures are alike."""
    return signed_messages(rsa_party, other_party, ec_party)


def signed_messages(first: Party, other: Party, ec: Party) -> dict[str, bytes]:
    whole = Message(first, CONTENT)
    more = [
        content_type(),
        message_digest(CONTENT),
        attribute(cms.SIGNING_TIME, asn1.encode(asn1.UTC_TIME, b"261124120000Z")),
        attribute("2.16.840.1.113733.1.9.7", asn1.encode_text("4A5B6C")),
        # S/MIME capabilities: a value that is constructed.
        attribute("1.2.840.113549.1.9.15", asn1.encode_sequence(algorithms.encode_algorithm("1.2.3"))),
    ]
    messages = {
        "attributes": whole.encoded(),
        "plain": whole.but(attributes=()).encoded(),
        "detached": whole.but(e_content=b"").encoded(),
        "detached, plain": whole.but(e_content=b"", attributes=()).encoded(),
        "more attributes": whole.but(attributes=more).encoded(),
        "a chain": whole.but(certificates=[first.certificate, other.certificate]).encoded(),
        "twice the certificate": whole.but(certificates=[first.certificate] * 2).encoded(),
        "SHA-1": whole.but(digest="sha1").encoded(),
        "SHA-512": whole.but(digest="sha512").encoded(),
        "EC": Message(ec, CONTENT, signature_algorithm=ECDSA_SHA256).encoded(),
    }
    return messages | {f"{name}, indefinite": as_devices_write(data) for name, data in messages.items()}


USUAL = [
    name + form
    for form in ("", ", indefinite")
    for name in (
        "attributes",
        "plain",
        "detached",
        "detached, plain",
        "more attributes",
        "a chain",
        "twice the certificate",
        "SHA-1",
        "SHA-512",
        "EC",
    )
]


def arguments_for(name: str) -> dict[str, Any]:
    return {"detached_content": CONTENT if "detached" in name else None, "allow_sha1": True}


@pytest.mark.parametrize("name", USUAL)
def test_usual_signatures_are_known(messages: dict[str, bytes], name: str) -> None:
    data = messages[name]
    assert usual_cms.signed(data) is not None
    found = verified(data, **arguments_for(name))
    assert isinstance(found[0], cms.SignedContent)
    assert found == the_long_way(lambda: verified(data, **arguments_for(name)))
    # And its signature is right.
    assert cms.verify_signed_data(data, **arguments_for(name)) == found[0]


def test_the_messages_of_real_devices_and_clients_are_known() -> None:
    device = base64.b64decode(vector("mdm-signature/header-without-body.b64"))
    assert device[:2] == b"\x30\x80"
    for data in (device, vector("scep/scep_req2.der"), vector("scep/scep_resp2.der")):
        found = usual_cms.signed(data)
        assert found is not None
        message = cms.decode_signed_data(data)
        assert (found.content, found.certificates) == (message.content, message.certificates)


@pytest.mark.parametrize("name", USUAL)
@pytest.mark.parametrize(
    "changes",
    [
        {"allow_sha1": False},
        {"require_attributes": True},
        {"detached_content": b"other"},
        {"detached_content": None},
        {"detached_content": b"\x31\x00"},
    ],
    ids=str,
)
def test_what_the_caller_asks_for_counts_on_both_ways(
    messages: dict[str, bytes], name: str, changes: dict[str, Any]
) -> None:
    data = messages[name]
    asked = arguments_for(name) | changes
    assert verified(data, **asked) == the_long_way(lambda: verified(data, **asked))


@pytest.mark.parametrize("cipher", ["aes128_cbc", "aes256_cbc", "des_ede3_cbc"])
def test_usual_envelopes_are_known(rsa_party: Party, other_party: Party, cipher: str) -> None:
    data = cms.encrypt(CONTENT * 9, recipient=rsa_party.certificate, cipher=cipher, random=Bytes())
    for form in (data, as_devices_write(data)):
        assert usual_cms.enveloped(form, rsa_party.certificate) is not None
        assert opened(form, rsa_party)[0] == cms.Decrypted(CONTENT * 9, cipher)
        for party in (rsa_party, other_party):
            for accepted in (None, ["aes128_cbc"], []):
                asked = partial(opened, form, party, ciphers=accepted)
                assert asked() == the_long_way(asked)


class Bytes:
    """Bytes that are all different."""

    def __call__(self, count: int) -> bytes:
        return bytes(range(count))


# --- messages that are changed -----------------------------------------------------------------------------


@st.composite
def changed(draw: st.DrawFn, original: bytes) -> bytes:
    """Some bytes changed, left out, or put in; or whole parts, with all lengths made right."""
    data = bytearray(original)
    for _ in range(draw(st.integers(1, 3))):
        position = draw(st.integers(0, len(data) - 1))
        match draw(st.sampled_from(["bit", "byte", "cut", "put", "small"])):
            case "bit":
                data[position] ^= 1 << draw(st.integers(0, 7))
            case "byte":
                data[position] = draw(st.sampled_from([0, 1, 0x80, 0x81, 0x82, 0x84, 0xFF]))
            case "cut":
                del data[position : position + draw(st.integers(1, 4))]
            case "put":
                data[position:position] = draw(st.sampled_from([b"\0", b"\0\0", b"\x05\0", b"\x30\x80"]))
            case "small":
                data[position] = (data[position] + draw(st.sampled_from([1, 255]))) % 256
    return bytes(data)


@st.composite
def rearranged(draw: st.DrawFn, original: bytes) -> bytes:
    nodes = _all_nodes(asn1.read(original))
    first, second = draw(st.sampled_from(nodes)), draw(st.sampled_from(nodes))
    contents = draw(st.sampled_from([first.contents, second.contents, b"", b"\0", b"\1" * 65]))
    replacement = draw(
        st.sampled_from(
            [
                b"",
                first.encoded * 2,
                second.encoded,
                first.encoded + second.encoded,
                asn1.encode(first.tag, contents),
                asn1.encode(second.tag, first.contents),
            ]
        )
    )
    return _with(original, first, replacement)


@IN_PLACE
@given(st.data(), st.sampled_from(USUAL))
def test_changed_signatures(messages: dict[str, bytes], data: st.DataObject, name: str) -> None:
    original = messages[name]
    ways = [changed(original)] + ([] if "indefinite" in name else [rearranged(original)])
    message = data.draw(st.one_of(ways))
    asked = arguments_for(name)
    assert verified(message, **asked) == the_long_way(lambda: verified(message, **asked))


@IN_PLACE
@given(st.data(), st.booleans())
def test_changed_envelopes(rsa_party: Party, data: st.DataObject, in_der: bool) -> None:
    encrypted = aes(KEY, padded(CONTENT * 4))
    original = Envelope(rsa_party.certificate, wrapped(rsa_party, KEY), IV, encrypted).encoded()
    ways = (
        [changed(original), rearranged(original)]
        if in_der
        else [changed(as_devices_write(original)), changed(indefinite(original))]
    )
    message = data.draw(st.one_of(ways))
    assert opened(message, rsa_party) == the_long_way(lambda: opened(message, rsa_party))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_not_known(data: bytes) -> None:
    assert usual_cms.signed(data) is None
    assert usual_cms.enveloped(data, b"") is None


# --- the limits hold ---------------------------------------------------------------------------------------


def nested(depth: int) -> bytes:
    inner = asn1.encode_null()
    for _ in range(depth):
        inner = asn1.encode_sequence(inner)
    return inner


def many(nodes: int) -> bytes:
    return asn1.encode_sequence(asn1.encode_null() * (nodes - 1))


@pytest.mark.parametrize("value", [nested(10), nested(15), nested(16), nested(30), many(1700), many(1990)])
def test_large_values_of_attributes(rsa_party: Party, value: bytes) -> None:
    attributes = [content_type(), message_digest(CONTENT), attribute("1.2.3", value)]
    data = Message(rsa_party, CONTENT, attributes=attributes).encoded()
    assert verified(data) == the_long_way(lambda: verified(data))
    if isinstance(verified(data)[0], cms.SignedContent):
        assert scan(data) <= DEFAULT_LIMITS.nodes


@pytest.mark.parametrize("extra", [nested(13), nested(20), many(300), many(900), many(1200), many(1800)])
def test_large_certificates_and_names(rsa_party: Party, extra: bytes) -> None:
    """In front of the issuer's name, and in it: there it stands in the SignerInfo too."""
    tbs, algorithm, signature = asn1.children(asn1.read(rsa_party.certificate))
    parts = [part.encoded for part in asn1.children(tbs)]
    for place, part in ((2, extra), (3, asn1.encode_sequence(asn1.encode(asn1.SET, extra)))):
        body = asn1.encode_sequence(*parts[:place], part, *parts[place + 1 :])
        certificate = asn1.encode_sequence(body, algorithm.encoded, signature.encoded)
        data = Message(Party(rsa_party.key, certificate), CONTENT).encoded()
        assert verified(data) == the_long_way(partial(verified, data))
        if usual_cms.signed(data) is not None:
            assert scan(data) <= DEFAULT_LIMITS.nodes


def test_what_is_too_large_is_not_known(rsa_party: Party) -> None:
    data = Message(rsa_party, b"\0" * DEFAULT_LIMITS.size).encoded()
    assert usual_cms.signed(data) is None
    with pytest.raises(Malformed):
        cms.verify_signed_data(data)
    small = Message(rsa_party, CONTENT).encoded()
    with pytest.raises(Malformed, match="too large"):
        cms.verify_signed_data(small, limits=Limits(size=len(small) - 1))
