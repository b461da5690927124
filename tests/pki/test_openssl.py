"""openssl and we understand each other, both ways."""

from __future__ import annotations

import secrets
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from pki.core import cms
from pki.core.certificates import CertificateFields, build_certificate, build_root, encode_pem
from pki.core.crl import RevokedCertificate, build_crl
from tests.pki.conftest import NOW, Party, openssl, spki

CONTENT = b"<plist>\r\ncontent\n</plist>"


@pytest.fixture
def folder(tmp_path: Path, rsa_party: Party, ec_party: Party) -> Path:
    (tmp_path / "content").write_bytes(CONTENT)
    rsa_party.write(tmp_path, "rsa")
    ec_party.write(tmp_path, "ec")
    return tmp_path


SIGNING = {
    "attached": ["-nodetach"],
    "detached": [],
    "without attributes": ["-nodetach", "-noattr"],
    "detached without attributes": ["-noattr"],
    "BER": ["-nodetach", "-stream", "-indef"],
    "BER without attributes": ["-nodetach", "-stream", "-indef", "-noattr"],
    "SHA-1": ["-nodetach", "-md", "sha1"],
    "SHA-384": ["-nodetach", "-md", "sha384"],
    "SHA-512": ["-nodetach", "-md", "sha512"],
    "by key identifier": ["-nodetach", "-keyid"],
    "without certificates": ["-nodetach", "-nocerts"],
}


@pytest.mark.parametrize("who", ["rsa", "ec"])
@pytest.mark.parametrize("how", SIGNING)
def test_what_openssl_signs_verifies(
    folder: Path, rsa_party: Party, ec_party: Party, who: str, how: str
) -> None:
    party = rsa_party if who == "rsa" else ec_party
    data = openssl(
        *("cms", "-sign", "-binary", "-in", folder / "content", "-outform", "DER"),
        *("-signer", folder / f"{who}.pem", "-inkey", folder / f"{who}.key"),
        *SIGNING[how],
    )
    if "BER" in how:
        assert data[:2] == b"\x30\x80"
    verified = cms.verify_signed_data(
        data,
        detached_content=CONTENT if "detached" in how else None,
        allow_sha1=how == "SHA-1",
        certificates=[rsa_party.certificate, ec_party.certificate] if "certificates" in how else (),
    )
    assert (verified.content, verified.signer) == (CONTENT, party.certificate)
    assert (verified.attributes is None) == ("attributes" in how)


def test_what_openssl_signs_with_pss_is_refused(folder: Path) -> None:
    data = openssl(
        *("cms", "-sign", "-binary", "-nodetach", "-in", folder / "content", "-outform", "DER"),
        *("-signer", folder / "rsa.pem", "-inkey", folder / "rsa.key", "-keyopt", "rsa_padding_mode:pss"),
    )
    with pytest.raises(cms.UnsupportedAlgorithm):
        cms.verify_signed_data(data)


def test_two_signers_of_openssl_are_refused(folder: Path) -> None:
    data = openssl(
        *("cms", "-sign", "-binary", "-nodetach", "-in", folder / "content", "-outform", "DER"),
        *("-signer", folder / "rsa.pem", "-inkey", folder / "rsa.key"),
        *("-signer", folder / "ec.pem", "-inkey", folder / "ec.key"),
    )
    with pytest.raises(cms.CmsError, match="2 signers"):
        cms.verify_signed_data(data)


def test_compressed_data_is_refused() -> None:
    if b"zlib" not in openssl("version", "-a") and b"ZLIB" not in openssl("list", "-disabled"):
        data = openssl("cms", "-compress", "-binary", "-outform", "DER", stdin=b"\0" * 1000)
        with pytest.raises(cms.CmsError, match="unexpected content type"):
            cms.verify_signed_data(data)


@pytest.mark.parametrize("who", ["rsa_party", "ec_party"])
@pytest.mark.parametrize("attributes", [(), None])
@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
def test_openssl_verifies_what_we_sign(
    folder: Path, request: pytest.FixtureRequest, who: str, attributes: tuple[()] | None, digest: str
) -> None:
    party: Party = request.getfixturevalue(who)
    data = cms.sign(
        CONTENT,
        certificate=party.certificate,
        private_key=party.key,
        attributes=attributes,
        digest=digest,
        signing_time=NOW if attributes is not None else None,
    )
    verify = ("cms", "-verify", "-binary", "-inform", "DER", "-noverify")
    assert openssl(*verify, stdin=data) == CONTENT
    detached = cms.sign(
        CONTENT,
        certificate=party.certificate,
        private_key=party.key,
        attributes=attributes,
        digest=digest,
        detached=True,
    )
    assert openssl(*verify, "-content", folder / "content", stdin=detached) == CONTENT


ENVELOPES = {
    "AES-128": (["-aes128"], "aes128_cbc"),
    "AES-256": (["-aes256"], "aes256_cbc"),
    "3DES": (["-des3"], "des_ede3_cbc"),
    "BER": (["-aes128", "-stream", "-indef"], "aes128_cbc"),
    "BER, 3DES": (["-des3", "-stream", "-indef"], "des_ede3_cbc"),
    "by key identifier": (["-aes128", "-keyid"], "aes128_cbc"),
}


@pytest.mark.parametrize("how", ENVELOPES)
def test_what_openssl_encrypts_opens(
    folder: Path, rsa_party: Party, rsa_key: rsa.RSAPrivateKey, how: str
) -> None:
    options, cipher = ENVELOPES[how]
    data = openssl(
        *("cms", "-encrypt", "-binary", "-in", folder / "content", "-outform", "DER"),
        *options,
        folder / "rsa.pem",
    )
    opened = cms.decrypt(
        data, recipient=rsa_party.certificate, private_key=rsa_key, random=secrets.token_bytes
    )
    assert opened == cms.Decrypted(CONTENT, cipher)


@pytest.mark.parametrize("cipher", ["aes128_cbc", "aes256_cbc", "des_ede3_cbc"])
def test_openssl_opens_what_we_encrypt(folder: Path, rsa_party: Party, cipher: str) -> None:
    data = cms.encrypt(CONTENT, recipient=rsa_party.certificate, cipher=cipher, random=secrets.token_bytes)
    decrypt = ("cms", "-decrypt", "-binary", "-inform", "DER", "-inkey", folder / "rsa.key")
    assert openssl(*decrypt, stdin=data) == CONTENT
    assert openssl(*decrypt, "-recip", folder / "rsa.pem", stdin=data) == CONTENT


def test_openssl_reads_certificates_and_lists(tmp_path: Path, rsa_party: Party, ec_party: Party) -> None:
    root = build_root(
        (("CN", "Root é"), ("O", "Orchard")),
        private_key=rsa_party.key,
        serial_number=x509.random_serial_number(),
        not_before=NOW - timedelta(days=1),
        not_after=NOW + timedelta(days=1000),
    )
    leaves = {
        name: build_certificate(
            CertificateFields(
                subject=(("CN", name),),
                public_key=spki(ec_party.key),
                serial_number=x509.random_serial_number(),
                not_before=NOW,
                not_after=NOW + timedelta(days=100),
                extended_key_usage=("clientAuth",),
                crl_url="http://127.0.0.1/1.crl",
            ),
            issuer_certificate=root,
            private_key=rsa_party.key,
        )
        for name in ("good", "revoked")
    }
    serial = x509.load_der_x509_certificate(leaves["revoked"]).serial_number
    crl = build_crl(
        [RevokedCertificate(serial, NOW, "keyCompromise")],
        number=7,
        this_update=NOW,
        next_update=NOW + timedelta(days=7),
        issuer_certificate=root,
        private_key=rsa_party.key,
    )
    files = {name: tmp_path / f"{name}.pem" for name in ("root", "good", "revoked")}
    files["root"].write_text(encode_pem(root))
    for name, der in leaves.items():
        files[name].write_text(encode_pem(der))
    (tmp_path / "crl.der").write_bytes(crl)
    at = str(int((NOW + timedelta(hours=1)).timestamp()))
    verify = ("verify", "-x509_strict", "-attime", at, "-CAfile", files["root"])
    openssl(*verify, "-purpose", "sslclient", files["good"])
    openssl(*verify, files["root"])
    assert b"crlNumber=0x07" in openssl(
        *("crl", "-inform", "DER", "-in", tmp_path / "crl.der", "-CAfile", files["root"]),
        *("-noout", "-verify", "-crlnumber"),
    )
    openssl("crl", "-inform", "DER", "-in", tmp_path / "crl.der", "-out", tmp_path / "crl.pem")
    checked = (*verify, "-crl_check", "-CRLfile", tmp_path / "crl.pem")
    openssl(*checked, files["good"])
    with pytest.raises(AssertionError, match="certificate revoked"):
        openssl(*checked, files["revoked"])


def test_openssl_reads_certificates_only(rsa_party: Party, ec_party: Party) -> None:
    data = cms.degenerate([rsa_party.certificate, ec_party.certificate])
    printed = openssl("pkcs7", "-inform", "DER", "-print_certs", stdin=data)
    assert printed.index(b"RSA signer") < printed.index(b"EC signer")
