"""Who signs profiles: the default issuer, another of ours, or what was imported."""

from __future__ import annotations

import base64
import contextlib
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from hypothesis import given
from hypothesis import strategies as st

from audit.models import AuditEvent
from pki import issuers, keys, profile_signers, signing
from pki.core.certificates import CertificateFields, build_certificate, build_root, encode_pem
from pki.core.cms import certificates_of, verify_signed_data
from pki.core.key_files import KeyFileRefused, decode_key_file
from pki.issuance import IssuanceRefused
from pki.models import HeldKey, Issuer, ProfileSigner, Purpose
from pki.profile_signers import SignerRefused
from tests.pki.conftest import ACTOR, NOW, Party, spki
from tests.support.snapshot import no_change

PROFILE = b"<plist/>"


def party(
    name: str, issuer: Party, *, days: int = 90, is_ca: bool = False, algorithm: str = "EC-P256"
) -> Party:
    key = keys.new_private_key(algorithm)
    fields = CertificateFields(
        subject=(("CN", name),),
        public_key=spki(key),
        serial_number=x509.random_serial_number(),
        not_before=NOW - timedelta(days=30),
        not_after=NOW + timedelta(days=days),
        is_ca=is_ca,
        key_usage=frozenset({"keyCertSign", "cRLSign"} if is_ca else {"digitalSignature"}),
    )
    der = build_certificate(fields, issuer_certificate=issuer.certificate, private_key=issuer.key)
    return Party(key, der)


@pytest.fixture(scope="module")
def root() -> Party:
    key = keys.new_private_key("EC-P256")
    der = build_root(
        (("CN", "Public Root"),),
        private_key=key,
        serial_number=x509.random_serial_number(),
        not_before=NOW - timedelta(days=100),
        not_after=NOW + timedelta(days=3000),
    )
    return Party(key, der)


@pytest.fixture(scope="module")
def middle(root: Party) -> Party:
    return party("Public Middle", root, days=1000, is_ca=True)


@pytest.fixture(scope="module")
def server(middle: Party) -> Party:
    return party("mdm.example.com", middle, algorithm="RSA-2048")


def pem_key(one: Party, password: bytes = b"") -> bytes:
    protection = BestAvailableEncryption(password) if password else NoEncryption()
    return one.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)


def pem(*parties: Party) -> bytes:
    return "".join(encode_pem(one.certificate) for one in parties).encode()


def p12(one: Party, *above: Party, password: bytes = b"") -> bytes:
    return pkcs12.serialize_key_and_certificates(
        b"server",
        one.key,
        x509.load_der_x509_certificate(one.certificate),
        [x509.load_der_x509_certificate(other.certificate) for other in above],
        BestAvailableEncryption(password) if password else NoEncryption(),
    )


# Files


def test_every_form_of_file_gives_certificate_chain_and_key(
    root: Party, middle: Party, server: Party
) -> None:
    stranger = party("stranger", root)
    for data, key, password in [
        (pem_key(server) + pem(server, middle), b"", ""),
        (pem(middle, stranger, server) + pem_key(server), b"", ""),
        (pem(server, middle), pem_key(server), ""),
        (pem(server, middle), pem_key(server, b"secret"), "secret"),
        (p12(server, middle), b"", ""),
        (p12(server, middle, password=b"secret"), b"", "secret"),
    ]:
        read = decode_key_file(data, key=key, password=password)
        assert (read.certificate, read.chain) == (server.certificate, (middle.certificate,))
        assert read.private_key.public_key() == server.key.public_key()
        assert "PrivateKey" not in repr(read)


def test_the_chain_is_put_in_order(root: Party, middle: Party, server: Party) -> None:
    read = decode_key_file(pem(root, server, middle) + pem_key(server))
    assert read.chain == (middle.certificate, root.certificate)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("no key", "no private key"),
        ("another key", "none of the certificates belongs"),
        ("wrong password", "password is wrong"),
        ("wrong password p12", "password is wrong"),
        ("ed25519", "not used here"),
        ("junk", "cannot be read"),
        ("large", "too large"),
        ("no certificate", "no certificate"),
    ],
)
def test_other_files_are_refused(middle: Party, server: Party, case: str, reason: str) -> None:
    other = ed25519.Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    data, key, password = {
        "no key": (pem(server), b"", ""),
        "another key": (pem(server), pem_key(middle), ""),
        "wrong password": (pem(server), pem_key(server, b"secret"), "wrong"),
        "wrong password p12": (p12(server, password=b"secret"), b"", "wrong"),
        "ed25519": (pem(server), other, ""),
        "junk": (b"junk", b"", ""),
        "large": (b"x" * 300_000, b"", ""),
        "no certificate": (pem_key(server), b"", ""),
    }[case]
    with pytest.raises(KeyFileRefused, match=reason):
        decode_key_file(data, key=key, password=password)


def greedy(data: bytes) -> bytes:
    """The same file, asking for eight million rounds for each part that asks for ``0x123456``."""
    changed = data.replace(bytes.fromhex("0203123456"), bytes.fromhex("02037fffff"))
    assert changed != data
    return changed


def test_files_that_ask_for_hours_of_work_are_refused_at_once(server: Party) -> None:
    encryption = PrivateFormat.PKCS12.encryption_builder().kdf_rounds(0x123456).build(b"p")
    certificate = x509.load_der_x509_certificate(server.certificate)
    store = pkcs12.serialize_key_and_certificates(None, server.key, certificate, None, encryption)
    with pytest.raises(KeyFileRefused, match="unreasonable"):
        decode_key_file(greedy(store), password="p")
    der = b"\x30\x0d\x04\x06saltsa\x02\x03\x7f\xff\xff"  # as in the parameters of PBES2 (RFC 8018)
    armour = base64.encodebytes(der)
    text = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n" + armour + b"-----END ENCRYPTED PRIVATE KEY-----\n"
    for data, key in [(pem(server), der), (pem(server), text), (pem(server) + text, b"")]:
        with pytest.raises(KeyFileRefused, match="unreasonable"):
            decode_key_file(data, key=key, password="p")


def test_keys_of_absurd_length_are_not_even_tried(server: Party) -> None:
    """OpenSSL tries the primes of a private key: for one of 40,000 bits that takes most of a minute."""
    text = b"-----BEGIN RSA PRIVATE KEY-----\n" + b"A" * 20_000 + b"\n-----END RSA PRIVATE KEY-----\n"
    for data, key in [
        (pem(server) + text, b""),
        (pem(server), text),
        (pem(server), b"\x30\x82\x50\x00" + b"\x00" * 20_480),
    ]:
        with pytest.raises(KeyFileRefused, match="no key used here"):
            decode_key_file(data, key=key)
    with pytest.raises(KeyFileRefused, match="give PEM files instead"):
        decode_key_file(b"\x30\x82\x50\x00" + b"\x00" * 20_480)


@pytest.mark.parametrize("label", ["CERTIFICATE", "RSA PRIVATE KEY"], ids=["certificate", "key"])
def test_a_file_of_beginnings_is_read_in_one_pass(label: str) -> None:
    """Each of them looked for its end through the whole file: minutes for a file of this size."""
    data = (f"-----BEGIN {label}-----\n" * 7000).encode()
    with pytest.raises(KeyFileRefused, match="no certificate"):
        decode_key_file(data)


@given(st.binary(max_size=300), st.binary(max_size=100), st.text(max_size=8))
def test_any_bytes_are_read_or_refused(data: bytes, key: bytes, password: str) -> None:
    with contextlib.suppress(KeyFileRefused):
        decode_key_file(data, key=key, password=password)


# Choosing


@pytest.fixture
def issuer(db: None) -> Issuer:
    return issuers.create_issuer("bramley", "Test CA", algorithm="EC-P256", actor=ACTOR, now=NOW)


def signer_of(signed: bytes) -> bytes:
    return verify_signed_data(signed).signer


@pytest.mark.django_db
def test_an_imported_certificate_signs_with_its_chain(issuer: Issuer, middle: Party, server: Party) -> None:
    signer = profile_signers.import_signer(pem(server, middle) + pem_key(server), actor=ACTOR, now=NOW)
    assert signer_of(signing.sign_profile(PROFILE, now=NOW)) != server.certificate
    profile_signers.use(signer, actor=ACTOR, now=NOW)
    signed = signing.sign_profile(PROFILE, now=NOW)
    assert (verify_signed_data(signed).content, signer_of(signed)) == (PROFILE, server.certificate)
    assert set(certificates_of(signed)) == {server.certificate, middle.certificate}
    assert signing.signer(NOW).sha256 == signer.sha256
    actions = list(AuditEvent.objects.values_list("action", flat=True))
    assert "profile_signer.imported" in actions
    assert "profile_signer.chosen" in actions


@pytest.mark.django_db
def test_one_signs_at_a_time_and_the_default_again(issuer: Issuer, middle: Party, server: Party) -> None:
    own = signer_of(signing.sign_profile(PROFILE, now=NOW))
    first = profile_signers.use(
        profile_signers.import_signer(p12(server, middle), actor=ACTOR, now=NOW), actor=ACTOR, now=NOW
    )
    other = issuers.create_issuer("other", "Other", algorithm="EC-P256", actor=ACTOR, now=NOW)
    second = profile_signers.use_issuer(other, actor=ACTOR, now=NOW + timedelta(hours=1))
    first.refresh_from_db()
    assert (first.in_use, first.used_until) == (False, NOW + timedelta(hours=1))
    assert profile_signers.in_use() == second
    signed = signing.sign_profile(PROFILE, now=NOW)
    assert issuers.chain(other)[0] in certificates_of(signed)
    profile_signers.use_default(actor=ACTOR, now=NOW)
    assert profile_signers.in_use() is None
    assert signer_of(signing.sign_profile(PROFILE, now=NOW)) == own


@pytest.mark.django_db
def test_an_expired_one_does_not_sign_and_is_not_silently_replaced(
    issuer: Issuer, middle: Party, server: Party
) -> None:
    signer = profile_signers.import_signer(p12(server, middle), actor=ACTOR, now=NOW)
    profile_signers.use(signer, actor=ACTOR, now=NOW)
    late = NOW + timedelta(days=91)
    with no_change(), pytest.raises(IssuanceRefused, match="expired"):
        signing.sign_profile(PROFILE, now=late)
    profile_signers.use_default(actor=ACTOR, now=late)
    with no_change(), pytest.raises(SignerRefused, match="expired"):
        profile_signers.use(signer, actor=ACTOR, now=late)


@pytest.mark.django_db
def test_what_cannot_sign_is_refused(issuer: Issuer, root: Party, middle: Party, server: Party) -> None:
    data = p12(server, middle)
    profile_signers.import_signer(data, actor=ACTOR, now=NOW)
    expired = party("old", middle, days=-1)
    for refused, reason in [
        (data, "here already"),
        (p12(expired, middle), "not valid now"),
        (p12(middle, root), "certificate of a CA"),
        (pem(server), "no private key"),
    ]:
        with no_change(), pytest.raises(SignerRefused, match=reason):
            profile_signers.import_signer(refused, actor=ACTOR, now=NOW)
    issuer.state = "RETIRED"
    issuer.save()
    with no_change(), pytest.raises(SignerRefused, match="issues no certificates"):
        profile_signers.use_issuer(issuer, actor=ACTOR, now=NOW)


@pytest.mark.django_db
def test_of_two_who_choose_at_once_one_is_told(
    issuer: Issuer, middle: Party, server: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = profile_signers.import_signer(p12(server, middle), actor=ACTOR, now=NOW)
    second = profile_signers.import_signer(p12(party("b", middle), middle), actor=ACTOR, now=NOW)
    profile_signers.use(first, actor=ACTOR, now=NOW)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(profile_signers, "_stop", lambda _now: 0)  # it looked before the first was in use
        with no_change(), pytest.raises(SignerRefused, match="somebody else"):
            profile_signers.use(second, actor=ACTOR, now=NOW)
    ProfileSigner.objects.filter(pk=second.pk).delete()
    with no_change(), pytest.raises(SignerRefused, match="not here any more"):
        profile_signers.use(second, actor=ACTOR, now=NOW)
    assert profile_signers.in_use() == first


@pytest.mark.django_db
def test_the_imported_key_is_sealed(issuer: Issuer, middle: Party, server: Party) -> None:
    signer = profile_signers.import_signer(p12(server, middle), actor=ACTOR, now=NOW)
    plain = server.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    assert plain not in bytes(ProfileSigner.objects.get(pk=signer.pk).private_key_sealed or b"")
    assert keys.signer_private_key(signer).public_key() == server.key.public_key()


# Replacing a profile keeps the signer


@pytest.mark.django_db
def test_a_renewed_signer_of_ours_keeps_its_key_and_name(issuer: Issuer) -> None:
    first = signing.profile_signer(issuer, NOW).certificate
    late = first.not_after - timedelta(days=10)
    second = signing.profile_signer(issuer, late).certificate
    assert second.pk != first.pk
    assert (second.public_key_sha256, second.subject) == (first.public_key_sha256, first.subject)
    assert HeldKey.objects.filter(certificate__purpose=Purpose.PROFILE_SIGNING).count() == 2


@pytest.mark.django_db
def test_a_revoked_signer_does_not_keep_its_key(issuer: Issuer) -> None:
    first = signing.profile_signer(issuer, NOW).certificate
    first.status = "REVOKED"
    first.save()
    assert signing.profile_signer(issuer, NOW).certificate.public_key_sha256 != first.public_key_sha256
