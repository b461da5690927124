"""Keys of issuers in a PKCS #11 token, tried with SoftHSM: sign, and everything that can go wrong with it."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from copy import copy, deepcopy
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from django.utils import timezone

from pki import issuers, keys, ocsp, rollover, tokens
from pki.core import algorithms, cms
from pki.core.certificates import encode_pem, key_usages_of
from pki.core.token_uri import decode_token_uri
from pki.issuance import Grant, issue
from pki.issuers import IssuerRefused, create_issuer
from pki.keys import KeyRefused, new_issuer_key
from pki.models import Certificate, Issuer, IssuerKey, Purpose, RevocationReason
from pki.revocation import current_crl, publish_due_crls, revoke
from pki.subordinate import create_external, create_subordinate, import_certificate, request_certificate
from pki.tokens import TokenECKey, TokenRSAKey, TokenUnavailable, find_key, make_key
from tests.pki.conftest import ACTOR, NOW, openssl, spki
from tests.pki.external_ca import ExternalCa, key_usage
from tests.pki.test_ocsp import ask_about, by_openssl, certificate_of
from tests.support.device_door import DeviceClient
from tests.support.snapshot import no_change

LIBRARY = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "271828"
ALGORITHMS = ["RSA-2048", "RSA-3072", "EC-P256", "EC-P384"]


@dataclass(frozen=True)
class SoftHsm:
    """A token in a folder. ``away``: as if it were pulled out."""

    folder: Path

    @property
    def tokens(self) -> Path:
        return self.folder / "tokens"

    def remove(self) -> None:
        self.tokens.rename(self.folder / "away")

    def insert(self) -> None:
        (self.folder / "away").rename(self.tokens)

    def initialize(self, label: str) -> None:
        self.run("--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "31415926")

    def run(self, *arguments: str) -> None:
        subprocess.run(["softhsm2-util", *arguments], capture_output=True, check=True)


@pytest.fixture
def hsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SoftHsm]:
    """A fresh SoftHSM with one token, which is the installation's."""
    if not LIBRARY.exists() or not shutil.which("softhsm2-util"):
        pytest.skip("SoftHSM is not installed; make test installs it where it may")
    softhsm = SoftHsm(tmp_path)
    softhsm.tokens.mkdir()
    configuration = tmp_path / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {softhsm.tokens}\nlog.level = ERROR\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(configuration))
    monkeypatch.setenv("BRAMLEY_PKCS11_MODULE", str(LIBRARY))
    monkeypatch.setenv("BRAMLEY_PKCS11_PIN", PIN)
    monkeypatch.delenv("BRAMLEY_PKCS11_PIN_FILE", raising=False)
    softhsm.initialize("Bramley")
    tokens._start_anew()
    tokens.forget_sessions()
    yield softhsm
    if (tmp_path / "away").exists():
        softhsm.insert()
    tokens.forget_sessions()


def location(name: str = "ca") -> str:
    return f"pkcs11:token=Bramley;object={name}"


def key_in_token(algorithm: str = "RSA-2048", name: str = "ca") -> TokenRSAKey | TokenECKey:
    return make_key(decode_token_uri(location(name)), algorithm)


def issue_one(issuer: Issuer, key: ec.EllipticCurvePrivateKey, name: str = "device") -> Certificate:
    grant = Grant(issuer, Purpose.MDM_IDENTITY, (("CN", name),), reason="test")
    return issue(grant, spki(key), actor=ACTOR, now=NOW)


# --- Keys ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_in_a_token_signs_as_any_other(hsm: SoftHsm, algorithm: str) -> None:
    made = key_in_token(algorithm)
    found = find_key(decode_token_uri(location()))
    assert found is not None
    assert keys.algorithm_of(found) == algorithm
    assert spki(found) == spki(made)
    for digest in ("sha256", "sha384", "sha512"):
        signature = algorithms.sign(found, digest, b"content")
        hashed = algorithms.HASHES[digest]
        if isinstance(found, TokenRSAKey):
            found.public_key().verify(signature, b"content", padding.PKCS1v15(), hashed)
        else:
            found.public_key().verify(signature, b"content", ec.ECDSA(hashed))


def test_what_was_hashed_before(hsm: SoftHsm) -> None:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(b"content")
    hashed, prehashed = digest.finalize(), utils.Prehashed(hashes.SHA256())
    rsa_key = key_in_token("RSA-2048", "r")
    assert isinstance(rsa_key, TokenRSAKey)
    signature = rsa_key.sign(hashed, padding.PKCS1v15(), prehashed)
    rsa_key.public_key().verify(signature, b"content", padding.PKCS1v15(), hashes.SHA256())


def test_a_key_in_a_token_does_nothing_else(hsm: SoftHsm) -> None:
    rsa_key, ec_key = key_in_token("RSA-2048", "r"), key_in_token("EC-P256", "e")
    assert isinstance(rsa_key, TokenRSAKey)
    assert isinstance(ec_key, TokenECKey)
    for key in (rsa_key, ec_key):
        assert copy(key) is deepcopy(key) is key
        assert not keys.decrypts(key)
        assert "pkcs11:token=Bramley;object=" in repr(key)
        with pytest.raises(ValueError, match="read out"):
            key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        with pytest.raises(ValueError, match="read out"):
            key.private_numbers()
    with pytest.raises(ValueError, match="only sign"):
        rsa_key.decrypt(b"", padding.PKCS1v15())
    with pytest.raises(ValueError, match="only sign"):
        ec_key.exchange(ec.ECDH(), ec_key.public_key())
    with pytest.raises(ValueError, match="PKCS #1"):
        rsa_key.sign(b"", padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    with pytest.raises(ValueError, match="SHA-2"):
        rsa_key.sign(b"", padding.PKCS1v15(), hashes.MD5())  # noqa: S303


def test_the_private_key_cannot_be_read_out_of_the_token(hsm: SoftHsm) -> None:
    import pkcs11

    key_in_token()
    token = pkcs11.lib(str(LIBRARY)).get_token(token_label="Bramley")
    tokens.forget_sessions()
    with token.open(user_pin=PIN) as session:
        private = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label="ca")
        assert private[pkcs11.Attribute.SENSITIVE]
        assert not private[pkcs11.Attribute.EXTRACTABLE]
        assert not private[pkcs11.Attribute.DECRYPT]
        with pytest.raises(pkcs11.AttributeSensitive):
            private[pkcs11.Attribute.PRIVATE_EXPONENT]


def test_an_envelope_to_a_key_in_a_token_fails_as_any_other(hsm: SoftHsm) -> None:
    """No oracle: what cannot be decrypted looks like what is wrong (threats C8)."""
    key = key_in_token()
    assert isinstance(key, rsa.RSAPrivateKey)
    certificate = issuers._build_root("root", "", key, 1, NOW)
    envelope = cms.encrypt(b"content", recipient=certificate, random=os.urandom)
    with pytest.raises(cms.DecryptionFailed):
        cms.decrypt(envelope, recipient=certificate, private_key=key, random=os.urandom)


# --- What goes wrong -------------------------------------------------------------------------------------


def test_a_token_that_was_away_works_again(hsm: SoftHsm) -> None:
    key = key_in_token("EC-P256")
    hsm.remove()
    for _again in range(2):
        with pytest.raises(TokenUnavailable):
            algorithms.sign(key, "sha256", b"content")
    hsm.insert()
    assert algorithms.sign(key, "sha256", b"content")


def test_a_wrong_pin_is_tried_once(hsm: SoftHsm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens lock themselves after a few wrong ones."""
    key = key_in_token("EC-P256")
    tokens.forget_sessions()
    monkeypatch.setenv("BRAMLEY_PKCS11_PIN", "wrong")
    with pytest.raises(TokenUnavailable, match=r"refused the PIN$"):
        algorithms.sign(key, "sha256", b"content")
    for _again in range(20):
        with pytest.raises(TokenUnavailable, match="tried again after a change") as refused:
            algorithms.sign(key, "sha256", b"content")
        assert "wrong" not in str(refused.value)
    monkeypatch.setenv("BRAMLEY_PKCS11_PIN", PIN)
    assert algorithms.sign(key, "sha256", b"content")


def test_the_pin_from_a_file(hsm: SoftHsm, monkeypatch: pytest.MonkeyPatch) -> None:
    key = key_in_token("EC-P256")
    tokens.forget_sessions()
    monkeypatch.delenv("BRAMLEY_PKCS11_PIN")
    with pytest.raises(TokenUnavailable, match="neither"):
        algorithms.sign(key, "sha256", b"content")
    file = hsm.folder / "pin"
    monkeypatch.setenv("BRAMLEY_PKCS11_PIN_FILE", str(file))
    with pytest.raises(TokenUnavailable, match="cannot be read"):
        algorithms.sign(key, "sha256", b"content")
    file.write_text(f"{PIN}\n")
    assert algorithms.sign(key, "sha256", b"content")


@pytest.mark.parametrize("module", ["", "/nowhere.so", "/etc/passwd"])
def test_a_library_that_does_not_start(hsm: SoftHsm, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setenv("BRAMLEY_PKCS11_MODULE", module)
    with pytest.raises(TokenUnavailable, match=r"BRAMLEY_PKCS11_MODULE|does not start"):
        find_key(decode_token_uri(location()))


def test_tokens_and_keys_that_are_not_there_or_twice(hsm: SoftHsm) -> None:
    assert find_key(decode_token_uri(location("nothing"))) is None
    with pytest.raises(TokenUnavailable, match="no token Other"):
        find_key(decode_token_uri("pkcs11:token=Other;object=ca"))
    hsm.initialize("Bramley")
    with pytest.raises(TokenUnavailable, match="several tokens"):
        find_key(decode_token_uri(location()))


def test_another_key_under_the_same_name_signs_nothing(
    hsm: SoftHsm, ec_key: ec.EllipticCurvePrivateKey
) -> None:
    """What the token signs is checked against the public key on record."""
    key_in_token("EC-P256")
    on_record = tokens.token_key(location(), spki(ec_key))
    with pytest.raises(TokenUnavailable, match="not the one on record"):
        algorithms.sign(on_record, "sha256", b"content")


def test_after_a_fork_the_child_has_a_session_of_its_own(hsm: SoftHsm) -> None:
    key = key_in_token("EC-P256")
    algorithms.sign(key, "sha256", b"content")
    child = os.fork()
    if child == 0:
        try:
            algorithms.sign(key, "sha256", b"content")
        except BaseException:  # noqa: BLE001 - whatever it is, the parent is told
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert algorithms.sign(key, "sha256", b"content")


# --- An issuer -------------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOW, tick=False) as traveller:
        yield traveller


@pytest.fixture
def issuer(db: None, hsm: SoftHsm, clock: time_machine.Traveller) -> Issuer:
    return create_issuer(
        "bramley", "Token CA", algorithm="RSA-2048", actor=ACTOR, now=NOW, key_location=location()
    )


def test_an_issuer_in_a_token(
    issuer: Issuer, ec_key: ec.EllipticCurvePrivateKey, clock: time_machine.Traveller, tmp_path: Path
) -> None:
    """Certificate, CRL and OCSP, checked by openssl; across a re-key into the token and a renewal."""
    issuer_key = issuers.current_key(issuer)
    assert (issuer_key.key_location, issuer_key.private_key_sealed) == (location(), None)
    assert issuer_key.is_ours
    assert PIN not in str(IssuerKey.objects.values())
    root = x509.load_der_x509_certificate(issuers.chain(issuer)[0])
    usage = root.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.crl_sign, usage.key_encipherment) == (True, True, False)

    good, bad = (issue_one(issuer, ec_key, name) for name in ("good", "bad"))
    revoke(bad, reason=RevocationReason.KEY_COMPROMISE, actor=ACTOR, now=NOW)
    verify_by_openssl(issuer, tmp_path, good, bad)
    assert "Cert Status: good" in by_openssl(tmp_path, issuers.chain(issuer)[0], good)
    assert "Cert Status: revoked" in by_openssl(tmp_path, issuers.chain(issuer)[0], bad)

    clock.shift(timedelta(hours=1))
    rollover.rekey(issuer, actor=ACTOR, now=timezone.now(), key_location=location("ca-2"))
    rollover.activate(issuer, actor=ACTOR, now=timezone.now())
    ocsp.forget()
    assert issuers.current_key(issuer).key_location == location("ca-2")
    new = issue(
        Grant(issuer, Purpose.MDM_IDENTITY, (("CN", "new"),), reason="test"),
        spki(ec_key),
        actor=ACTOR,
        now=timezone.now(),
    )
    renewed = rollover.renew(issuer, years=20, actor=ACTOR, now=timezone.now())
    (tmp_path / "root.pem").write_text(encode_pem(bytes(renewed.der)))
    (tmp_path / "new.pem").write_text(encode_pem(bytes(new.der)))
    at = str(int((timezone.now() + timedelta(minutes=1)).timestamp()))
    openssl("verify", "-attime", at, "-CAfile", tmp_path / "root.pem", tmp_path / "new.pem")


def key_usages(der: bytes) -> frozenset[str]:
    found = key_usages_of(der)
    assert found is not None
    return found


def test_no_certificate_invites_to_encrypt_to_a_key_in_a_token(
    issuer: Issuer, clock: time_machine.Traveller
) -> None:
    """A root, the next key of one, a CA below it, and what an external CA is asked for and may send."""
    signing = frozenset({"digitalSignature", "keyCertSign", "cRLSign"})
    token: Any = {"algorithm": "RSA-2048", "actor": ACTOR, "now": NOW}
    below = create_subordinate("below", "B", parent=issuer, key_location=location("below"), **token)
    made = rollover.rekey(issuer, key_location=location("ca-2"), **token)
    for der in (*issuers.chain(issuer), *issuers.chain(below), bytes(issuers.current_certificate(made).der)):
        assert key_usages(der) == signing
    external = create_external("ext", "E", key_location=location("ext"), **token)
    request = request_certificate(external, actor=ACTOR, now=NOW)
    asked = x509.load_der_x509_csr(request).extensions.get_extension_for_class(x509.KeyUsage).value
    assert (asked.key_cert_sign, asked.digital_signature, asked.key_encipherment) == (True, True, False)
    corp = ExternalCa(not_before=NOW - timedelta(days=9), not_after=NOW + timedelta(days=900))
    answer = corp.answer(request, usage=key_usage(key_encipherment=False), not_after=NOW + timedelta(days=90))
    import_certificate(external, answer, corp.der, actor=ACTOR, now=NOW)
    assert key_usages(issuers.chain(external)[0]) == signing
    # One that is kept here is encrypted to, as ever.
    plain = create_subordinate("plain", "P", parent=issuer, **token)
    assert key_usages(issuers.chain(plain)[0]) == signing | {"keyEncipherment"}


def verify_by_openssl(issuer: Issuer, folder: Path, good: Certificate, bad: Certificate) -> None:
    crl = bytes(current_crl(issuers.current_key(issuer)).der)
    (folder / "root.pem").write_text(encode_pem(issuers.chain(issuer)[0]))
    openssl("crl", "-inform", "DER", "-out", folder / "crl.pem", stdin=crl)
    at = str(int((NOW + timedelta(minutes=1)).timestamp()))
    for row, accepted in ((good, True), (bad, False)):
        (folder / "leaf.pem").write_text(encode_pem(bytes(row.der)))
        check = (
            *("verify", "-attime", at, "-crl_check", "-x509_strict", "-CAfile", folder / "root.pem"),
            *("-CRLfile", folder / "crl.pem", folder / "leaf.pem"),
        )
        if accepted:
            openssl(*check)
        else:
            with pytest.raises(AssertionError, match="revoked"):
                openssl(*check)


def test_while_the_token_is_away_nothing_is_half_done(
    issuer: Issuer,
    hsm: SoftHsm,
    ec_key: ec.EllipticCurvePrivateKey,
    clock: time_machine.Traveller,
    caplog: pytest.LogCaptureFixture,
) -> None:
    certificate = issue_one(issuer, ec_key)
    root = x509.load_der_x509_certificate(issuers.chain(issuer)[0])
    request = ask_about((certificate_of(certificate), root))
    client = DeviceClient()
    assert client.post("/pki/bramley/ocsp", request).status == 200
    hsm.remove()
    caplog.set_level(logging.CRITICAL)
    with no_change():
        with pytest.raises(TokenUnavailable):
            issue_one(issuer, ec_key)
        with pytest.raises(IssuerRefused, match="does not start"):
            create_issuer("other", "Other", algorithm="RSA-2048", actor=ACTOR, key_location=location("x"))
        assert publish_due_crls(NOW + timedelta(days=2)) == 0
        # What was published, and what is said of certificates, needs no token.
        assert client.get("/pki/bramley/1.crl").status == 200
        assert client.post("/pki/bramley/ocsp", request).status == 200
    revoke(certificate, reason=RevocationReason.KEY_COMPROMISE, actor=ACTOR, now=NOW)
    assert current_crl(issuers.current_key(issuer)).entries == 0
    hsm.insert()
    assert publish_due_crls(NOW) == 1
    assert current_crl(issuers.current_key(issuer)).entries == 1
    assert issue_one(issuer, ec_key, "again").issuer_key.issuer == issuer


def test_devices_are_told_to_come_later(
    issuer: Issuer, hsm: SoftHsm, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """GetCACert: the certificate to which clients encrypt has yet to be signed by the token."""
    from scep import services

    services.of_issuer(issuer)
    hsm.remove()
    client = DeviceClient()
    with no_change(), caplog.at_level(logging.ERROR):
        answer = client.get("/scep/bramley?operation=GetCACert")
    assert (answer.status, answer.headers["Retry-After"], answer.body) == (503, "30", b"")
    assert "a key is not available" in caplog.text
    assert PIN not in caplog.text
    hsm.insert()
    answer = client.get("/scep/bramley?operation=GetCACert")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/x-x509-ca-ra-cert")
    assert issuer.keys.get().issued.get().purpose == Purpose.SCEP_RECIPIENT


@pytest.mark.django_db
def test_which_keys_an_issuer_may_have(hsm: SoftHsm) -> None:
    made = new_issuer_key(location(), "RSA-2048")
    # One that is there already is used, as after a failure between the token and the database.
    assert spki(new_issuer_key(location(), "RSA-2048")) == spki(made)
    with no_change():
        with pytest.raises(KeyRefused, match=r"RSA-2048.*EC-P256 is asked for"):
            new_issuer_key(location(), "EC-P256")
        with pytest.raises(KeyRefused, match="may not name a PIN"):
            new_issuer_key(f"{location()}?pin-value={PIN}", "RSA-2048")
        with pytest.raises(KeyRefused, match="needs a label"):
            new_issuer_key("pkcs11:token=Bramley;id=%01", "RSA-2048")
    create_issuer("one", "One", algorithm="RSA-2048", actor=ACTOR, key_location=location())
    with no_change(), pytest.raises(IssuerRefused, match="an issuer already"):
        create_issuer("two", "Two", algorithm="RSA-2048", actor=ACTOR, key_location=location())
