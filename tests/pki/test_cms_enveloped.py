"""Encrypted messages: what opens, and that what does not open says nothing about why."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from dataclasses import replace

import pytest
from asn1crypto import cms as oracle
from cryptography import x509
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pki.core import algorithms, asn1
from pki.core.cms import (
    CmsError,
    Decrypted,
    DecryptionFailed,
    UnsupportedAlgorithm,
    decrypt,
    encrypt,
    find_recipient,
)
from tests.pki.conftest import Party, vector
from tests.pki.messages import Envelope, indefinite

CONTENT = b"a certification request"
IV = bytes(range(16))
CIPHERS = ["aes128_cbc", "aes256_cbc", "des_ede3_cbc"]
IN_PLACE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


class Random:
    """Bytes for random ones, and how many were asked for each time.

    Always the same: one time in 256 a content key that is really random leaves valid padding.
    """

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, count: int) -> bytes:
        self.asked.append(count)
        return b"\x5a" * count


def opened(data: bytes, party: Party, random: Callable[[int], bytes] = secrets.token_bytes) -> Decrypted:
    assert isinstance(party.key, rsa.RSAPrivateKey)
    return decrypt(data, recipient=party.certificate, private_key=party.key, random=random)


def wrapped(party: Party, key: bytes) -> bytes:
    public = party.key.public_key()
    assert isinstance(public, rsa.RSAPublicKey)
    return public.encrypt(key, padding.PKCS1v15())


def aes(key: bytes, padded: bytes) -> bytes:
    encryptor = Cipher(AES(key), CBC(IV)).encryptor()
    return encryptor.update(padded) + encryptor.finalize()


def padded(content: bytes, block: int = 16) -> bytes:
    count = block - len(content) % block
    return content + bytes([count]) * count


KEY = bytes(range(100, 116))


@pytest.fixture
def envelope(rsa_party: Party) -> Envelope:
    """An envelope that opens; each test breaks one thing."""
    return Envelope(rsa_party.certificate, wrapped(rsa_party, KEY), IV, aes(KEY, padded(CONTENT)))


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 8, 1000])
def test_what_we_encrypt_opens(rsa_party: Party, cipher: str, size: int) -> None:
    content = secrets.token_bytes(size)
    data = encrypt(content, recipient=rsa_party.certificate, cipher=cipher, random=secrets.token_bytes)
    assert opened(data, rsa_party) == Decrypted(content, cipher)
    parsed = oracle.ContentInfo.load(data, strict=True)
    assert parsed["content_type"].native == "enveloped_data"
    (recipient,) = parsed["content"]["recipient_infos"]
    assert recipient.chosen["key_encryption_algorithm"]["algorithm"].native == "rsaes_pkcs1v15"


@pytest.mark.parametrize("segment", [1, 7, 1000])
def test_indefinite_length(rsa_party: Party, envelope: Envelope, segment: int) -> None:
    der = envelope.encoded()
    assert opened(indefinite(der, segment=segment), rsa_party).content == CONTENT
    # Encrypted content in segments: [0] constructed.
    primitive = asn1.encode(0x80, envelope.encrypted)
    parts = b"".join(
        asn1.encode_octets(envelope.encrypted[start : start + segment])
        for start in range(0, len(envelope.encrypted), segment)
    )
    loose = indefinite(der).replace(primitive, b"\xa0\x80" + parts + b"\0\0")
    assert loose != indefinite(der)
    assert opened(loose, rsa_party).content == CONTENT


def test_among_other_recipients(rsa_party: Party, other_party: Party, envelope: Envelope) -> None:
    other = Envelope(other_party.certificate, b"\1" * 256, IV, envelope.encrypted)
    both = envelope.encoded()
    one = _recipient(envelope)
    both = _with_recipients(envelope, [_recipient(other), one])
    assert opened(both, rsa_party).content == CONTENT
    assert opened(_with_recipients(envelope, [one, _recipient(other)]), rsa_party).content == CONTENT


def _recipient(envelope: Envelope) -> bytes:
    enveloped = asn1.Fields(asn1.read(envelope.encoded()), "")
    enveloped.take()
    inner = asn1.Fields(next(asn1.children(enveloped.take())), "")
    inner.take()
    return next(asn1.children(inner.take())).encoded


def _with_recipients(envelope: Envelope, recipients: list[bytes]) -> bytes:
    whole = asn1.read(envelope.encoded())
    content_type, explicit = asn1.children(whole)
    version, _recipients, content = asn1.children(next(asn1.children(explicit)))
    enveloped = asn1.encode_sequence(version.encoded, asn1.encode(asn1.SET, *recipients), content.encoded)
    return asn1.encode_sequence(content_type.encoded, asn1.encode(0xA0, enveloped))


def test_recipient_by_key_identifier(rsa_party: Party, envelope: Envelope) -> None:
    certificate = x509.load_der_x509_certificate(rsa_party.certificate)
    ski = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    recipient = asn1.encode_sequence(
        asn1.encode_integer(2),
        asn1.encode(0x80, ski),
        envelope.key_algorithm,
        asn1.encode_octets(envelope.encrypted_key),
    )
    assert opened(_with_recipients(envelope, [recipient]), rsa_party).content == CONTENT


# --- One failure for every cause -------------------------------------------------------------------------


def rsa_raw(party: Party, block: bytes) -> bytes:
    """RSA without any padding of its own."""
    numbers = party.key.public_key().public_numbers()
    assert isinstance(numbers, rsa.RSAPublicNumbers)
    return pow(int.from_bytes(block), numbers.e, numbers.n).to_bytes(256)


def block(start: bytes, filler: int, key: bytes) -> bytes:
    return start + b"\x55" * (256 - len(start) - 1 - len(key) + filler) + b"\0" + key


KeyMaker = Callable[[Party], bytes]
BAD_KEYS: dict[str, KeyMaker] = {
    "random bytes": lambda party: secrets.token_bytes(255).rjust(256, b"\0"),
    "block type 1": lambda party: rsa_raw(party, block(b"\x00\x01", 0, KEY)),
    "first byte not zero": lambda party: rsa_raw(party, block(b"\x01\x02", 0, KEY)),
    "no zero after the filler": lambda party: rsa_raw(party, b"\x00\x02" + b"\x55" * 254),
    "filler of 7 bytes": lambda party: rsa_raw(party, b"\x00\x02" + b"\x55" * 7 + b"\0" + b"\x66" * 246),
    "zero at once": lambda party: rsa_raw(party, b"\x00\x02\x00" + b"\x55" * 237 + KEY),
    "key of 0 bytes": lambda party: wrapped(party, b""),
    "key of 8 bytes": lambda party: wrapped(party, KEY[:8]),
    "key of 15 bytes": lambda party: wrapped(party, KEY[:15]),
    "key of 17 bytes": lambda party: wrapped(party, KEY + b"\0"),
    "key of 24 bytes": lambda party: wrapped(party, KEY + KEY[:8]),
    "key of 32 bytes": lambda party: wrapped(party, KEY + KEY),
    "another key": lambda party: wrapped(party, KEY[::-1]),
    "all zeros": lambda party: bytes(256),
    "all ones, above the modulus": lambda party: b"\xff" * 256,
    "empty": lambda party: b"",
    "a byte too short": lambda party: wrapped(party, KEY)[1:],
    "a byte too long": lambda party: b"\0" + wrapped(party, KEY),
    "of 1 kB": lambda party: b"\x01" * 1000,
}


def failure(data: bytes, party: Party) -> str:
    """The failure in words; that the steps were the same is seen by what randomness was asked for."""
    random = Random()
    with pytest.raises(CmsError) as error:
        opened(data, party, random)
    assert type(error.value) is DecryptionFailed
    assert error.value.__cause__ is None
    assert error.value.__context__ is None
    assert random.asked == [16]
    return str(error.value)


UNIFORM = "the message could not be decrypted"


@pytest.mark.parametrize("what", BAD_KEYS)
def test_a_content_key_that_is_wrong(rsa_party: Party, envelope: Envelope, what: str) -> None:
    data = Envelope(rsa_party.certificate, BAD_KEYS[what](rsa_party), IV, envelope.encrypted).encoded()
    assert failure(data, rsa_party) == UNIFORM


BAD_CONTENT: dict[str, bytes] = {
    "empty": b"",
    "1 byte": b"\x01",
    "15 bytes": b"\x01" * 15,
    "17 bytes": b"\x01" * 17,
    "padding of 0": aes(KEY, b"\x41" * 15 + b"\x00"),
    "padding of 17": aes(KEY, b"\x11" * 16 + b"\x11" * 16),
    "padding of 200": aes(KEY, b"\xc8" * 16),
    "padding of 255": aes(KEY, b"\xff" * 16),
    "padding with another byte first": aes(KEY, b"\x41" * 8 + b"\x07" + b"\x08" * 7),
    "padding with another byte in the middle": aes(KEY, b"\x41" * 8 + b"\x08" * 3 + b"\x09" + b"\x08" * 4),
    "a whole block of padding with another byte first": aes(KEY, b"\x0f" + b"\x10" * 15),
}


@pytest.mark.parametrize("what", BAD_CONTENT)
def test_content_that_is_wrong(rsa_party: Party, envelope: Envelope, what: str) -> None:
    data = Envelope(rsa_party.certificate, envelope.encrypted_key, IV, BAD_CONTENT[what]).encoded()
    assert failure(data, rsa_party) == UNIFORM


def test_nobody_we_know(rsa_party: Party, other_party: Party, envelope: Envelope) -> None:
    foreign = Envelope(other_party.certificate, envelope.encrypted_key, IV, envelope.encrypted)
    twice = Envelope(rsa_party.certificate, envelope.encrypted_key, IV, envelope.encrypted, recipients=2)
    for data in (foreign.encoded(), twice.encoded(), _with_recipients(envelope, [])):
        assert failure(data, rsa_party) == UNIFORM


def test_all_last_bytes_of_a_captured_envelope(rsa_party: Party, envelope: Envelope) -> None:
    """C9: who asks 256 times for one byte learns what opens, and not why the rest does not."""
    results = set()
    for value in range(256):
        changed = bytearray(envelope.encrypted)
        changed[-17] ^= value
        data = Envelope(rsa_party.certificate, envelope.encrypted_key, IV, bytes(changed)).encoded()
        try:
            opened(data, rsa_party)
        except CmsError as error:
            results.add((type(error), str(error)))
    assert results == {(DecryptionFailed, UNIFORM)}


def test_single_des_in_the_wrapper_of_triple_des(rsa_party: Party) -> None:
    eight = bytes(range(8))
    other = bytes(range(50, 58))
    third = bytes(range(80, 88))

    def sealed(key: bytes) -> bytes:
        encryptor = Cipher(TripleDES(key), CBC(IV[:8])).encryptor()
        encrypted = encryptor.update(padded(CONTENT, 8)) + encryptor.finalize()
        return Envelope(
            rsa_party.certificate, wrapped(rsa_party, key), IV[:8], encrypted, cipher_oid="1.2.840.113549.3.7"
        ).encoded()

    assert opened(sealed(eight + other + third), rsa_party).content == CONTENT
    assert opened(sealed(eight + other + eight), rsa_party).content == CONTENT  # two-key 3DES
    for key in (eight * 3, eight + eight + other, other + eight + eight):
        with pytest.raises(DecryptionFailed):
            _no_luck(sealed(key), rsa_party)
    short = Envelope(
        rsa_party.certificate, wrapped(rsa_party, eight), IV[:8], b"\1" * 24, cipher_oid="1.2.840.113549.3.7"
    )
    with pytest.raises(DecryptionFailed):
        _no_luck(short.encoded(), rsa_party)


def _no_luck(data: bytes, party: Party) -> None:
    """One time in 256 the substituted key gives valid padding by chance; not five times."""
    for _try in range(5):
        opened(data, party)


# --- What the clear part tells anybody -------------------------------------------------------------------

REFUSED_CIPHERS = {
    "DES-CBC": "1.3.14.3.2.7",
    "RC2-CBC": "1.2.840.113549.3.2",
    "RC4": "1.2.840.113549.3.4",
    "AES-192-CBC": "2.16.840.1.101.3.4.1.22",
    "AES-128-GCM": "2.16.840.1.101.3.4.1.6",
    "none": "1.2.3.4",
}


@pytest.mark.parametrize("name", REFUSED_CIPHERS)
def test_other_ciphers_are_refused_before_any_key_is_used(
    rsa_party: Party, envelope: Envelope, name: str
) -> None:
    random = Random()
    data = Envelope(
        rsa_party.certificate,
        envelope.encrypted_key,
        IV,
        envelope.encrypted,
        cipher_oid=REFUSED_CIPHERS[name],
    ).encoded()
    with pytest.raises(UnsupportedAlgorithm, match=r"content encryption algorithm .* is not supported"):
        opened(data, rsa_party, random)
    assert random.asked == []


def test_oaep_is_refused(rsa_party: Party, envelope: Envelope) -> None:
    oaep = algorithms.encode_algorithm("1.2.840.113549.1.1.7")
    data = Envelope(
        rsa_party.certificate, envelope.encrypted_key, IV, envelope.encrypted, key_algorithm=oaep
    ).encoded()
    with pytest.raises(UnsupportedAlgorithm, match="key encryption algorithm"):
        opened(data, rsa_party)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"recipients": 11}, "too many recipients"),
        ({"iv": b"\0" * 15}, "initialisation vector"),
        ({"iv": b"\0" * 17}, "initialisation vector"),
        ({"parameters": b""}, "initialisation vector"),
        ({"parameters": asn1.encode_null()}, "octet string"),
        ({"inner_type": "1.2.840.113549.1.7.2"}, "encrypted content type"),
    ],
)
def test_malformed_in_the_clear_part(
    rsa_party: Party, envelope: Envelope, changes: dict[str, object], reason: str
) -> None:
    with pytest.raises(CmsError, match=reason) as error:
        opened(replace(envelope, **changes).encoded(), rsa_party)  # type: ignore[arg-type]
    assert type(error.value) is CmsError


def test_ten_recipients(rsa_party: Party, other_party: Party, envelope: Envelope) -> None:
    other = Envelope(other_party.certificate, b"\1" * 256, IV, envelope.encrypted)
    data = _with_recipients(envelope, [*[_recipient(other)] * 9, _recipient(envelope)])
    assert opened(data, rsa_party).content == CONTENT


def test_other_kinds_of_recipients_are_passed_over(rsa_party: Party, envelope: Envelope) -> None:
    password = asn1.encode(0xA3, asn1.encode_integer(0))
    assert opened(_with_recipients(envelope, [password, _recipient(envelope)]), rsa_party).content == CONTENT


def test_bytes_after_the_end(rsa_party: Party, envelope: Envelope) -> None:
    with pytest.raises(CmsError, match="after the end"):
        opened(envelope.encoded() + b"\0\0", rsa_party)


def test_encrypting_to_who_cannot_decrypt(ec_party: Party) -> None:
    with pytest.raises(CmsError, match="not an RSA key"):
        encrypt(CONTENT, recipient=ec_party.certificate, random=secrets.token_bytes)
    with pytest.raises(CmsError, match="cannot be read"):
        encrypt(CONTENT, recipient=b"\x30\x00", random=secrets.token_bytes)


def test_what_was_secret_is_not_in_a_repr(rsa_party: Party, envelope: Envelope) -> None:
    assert "request" not in repr(opened(envelope.encoded(), rsa_party))


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused(rsa_party: Party, data: bytes) -> None:
    with pytest.raises(CmsError):
        opened(data, rsa_party)


@IN_PLACE
@given(st.data())
def test_one_changed_byte(rsa_party: Party, data: st.DataObject) -> None:
    """Opened to something, or refused with our own error; nothing else is ever raised."""
    envelope = Envelope(rsa_party.certificate, wrapped(rsa_party, KEY), IV, aes(KEY, padded(CONTENT)))
    encoded = bytearray(envelope.encoded())
    encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(CmsError):
        opened(bytes(encoded), rsa_party)


def test_the_envelopes_of_the_rfc_author_are_read(rsa_party: Party) -> None:
    """Their keys are not published: they are for somebody else, which looks like every other failure."""
    for name in ("scep_req1.der", "scep_resp1.der"):
        with pytest.raises(DecryptionFailed):
            _no_luck(vector(f"scep/{name}"), rsa_party)


@pytest.mark.parametrize("cipher", CIPHERS)
def test_a_cipher_that_is_not_accepted_is_refused_before_anything_is_decrypted(
    rsa_party: Party, cipher: str
) -> None:
    assert isinstance(rsa_party.key, rsa.RSAPrivateKey)
    sealed = encrypt(CONTENT, recipient=rsa_party.certificate, cipher=cipher, random=secrets.token_bytes)
    for accepted in CIPHERS:
        if accepted == cipher:
            opened_ = decrypt(
                sealed,
                recipient=rsa_party.certificate,
                private_key=rsa_party.key,
                random=secrets.token_bytes,
                ciphers=[accepted],
            )
            assert opened_.content == CONTENT
            continue
        with pytest.raises(UnsupportedAlgorithm, match="not accepted here"):
            decrypt(
                sealed,
                recipient=rsa_party.certificate,
                private_key=rsa_party.key,
                random=secrets.token_bytes,
                ciphers=[accepted],
            )


def test_the_recipient_is_named_in_clear(rsa_party: Party, ec_party: Party) -> None:
    sealed = encrypt(CONTENT, recipient=rsa_party.certificate, random=secrets.token_bytes)
    both = [ec_party.certificate, rsa_party.certificate]
    assert find_recipient(sealed, both) == rsa_party.certificate
    assert find_recipient(sealed, [ec_party.certificate]) is None
    assert find_recipient(b"garbage", both) is None
    assert find_recipient(b"", both) is None


@given(st.binary(max_size=400))
def test_no_bytes_make_the_search_for_a_recipient_fail(rsa_party: Party, data: bytes) -> None:
    assert find_recipient(data, [rsa_party.certificate]) is None
