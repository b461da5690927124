"""S1: who signs a SCEP PKIOperation, a self-signed certificate or an existing one, and how is it verified?

The answer in words: docs/questions/who-signs-a-pki-operation.md. Requests go through the door for devices;
openssl, which knows nothing of SCEP, looks at what is on the wire.
"""

# ruff: noqa: F811 - a fixture that is imported has the name of the argument

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from audit.recording import SERVER
from pki import revocation
from pki.core.certificates import describe
from pki.models import Certificate, RevocationReason
from scep.core.attributes import FailInfo, PkiStatus
from scep.core.message import Identity
from tests.scep.asking import ask, enrol, holder, issued, refused
from tests.scep.conftest import (  # noqa: F401 - fixtures
    Mint,
    at_noon,
    ca_certificate,
    door,
    issuer,
    mint,
    no_failures_counted,
    ready_made_keys,
)
from tests.scep.support import NOW, Door, csr, nothing_issued, pkcs_req, rsa_key, signer
from tests.support.openssl import Openssl

pytestmark = [pytest.mark.django_db, pytest.mark.once]


@pytest.fixture
def openssl(tmp_path: Path) -> Openssl:
    return Openssl(tmp_path, at=NOW)


def test_the_first_request_is_signed_by_a_certificate_that_signed_itself(
    door: Door, ca_certificate: bytes, mint: Mint, openssl: Openssl
) -> None:
    """It proves only that the sender holds the key. What lets it in is the challenge, which is encrypted."""
    _challenge, value = mint()
    throw_away = signer(1)
    sent = pkcs_req(csr(rsa_key(2), value), ca_certificate=ca_certificate, identity=throw_away)

    # On the wire: the signature is right, but it leads to nobody that anybody knows.
    envelope = openssl.opens_signature(sent.body)
    assert envelope is not None
    assert openssl.opens_signature(sent.body, ca_certificate) is None
    file = openssl.signer(sent.body)
    subject, above = openssl.says(file, "-subject"), openssl.says(file, "-issuer")
    assert subject.removeprefix("subject=") == above.removeprefix("issuer=")
    assert openssl.validates(throw_away.certificate, [throw_away.certificate])
    assert not openssl.validates(throw_away.certificate, [ca_certificate])
    # The request, and the challenge in it, are for the CA alone: not even who signed can open it again.
    assert value.encode() not in sent.body
    assert openssl.decrypts(envelope, throw_away.certificate, throw_away.private_key) is None

    # The answer is signed by the CA, and encrypted to the very certificate that signed the request.
    reply = door.post(sent.body).content
    certificates = openssl.opens_signature(reply, ca_certificate)
    assert certificates is not None
    opened = openssl.decrypts(certificates, throw_away.certificate, throw_away.private_key)
    assert opened is not None
    assert openssl.decrypts(certificates, throw_away.certificate, rsa_key(3)) is None
    (openssl.folder / "answer.p7").write_bytes(opened)
    pem = openssl.made("pkcs7", "-inform", "DER", "-in", "answer.p7", "-print_certs")
    (openssl.folder / "issued.pem").write_bytes(pem)
    # What was issued has the key of the CSR, not that of the throw-away certificate, and our record's name.
    openssl.write_key("csr.key", rsa_key(2))
    assert (
        openssl.says("issued.pem", "-pubkey")
        == openssl.made("pkey", "-in", "csr.key", "-pubout").decode().strip()
    )
    assert "device 1" in openssl.says("issued.pem", "-subject")
    assert openssl.validates(bytes(Certificate.objects.latest("pk").der), [ca_certificate])


def test_a_signature_of_ones_own_lets_nobody_in(
    door: Door, ca_certificate: bytes, mint: Mint, openssl: Openssl
) -> None:
    """Without the challenge, with a wrong one, and with a challenge but a broken signature: nothing."""
    _challenge, value = mint()
    for given in (None, "", "guessed"):
        sent = pkcs_req(csr(rsa_key(2), given), ca_certificate=ca_certificate)
        with nothing_issued():
            assert ask(door, sent, ca_certificate).status is PkiStatus.FAILURE
    good = pkcs_req(csr(rsa_key(2), value), ca_certificate=ca_certificate)
    broken = good.body[:-1] + bytes([good.body[-1] ^ 1])
    assert openssl.opens_signature(broken) is None
    with nothing_issued():
        assert door.post(broken).status_code == 400
    # A certificate that another key stands behind: the message does not verify against it.
    claimed = Identity(signer(4).certificate, rsa_key(5))
    forged = pkcs_req(csr(rsa_key(2), value), ca_certificate=ca_certificate, identity=claimed)
    assert openssl.opens_signature(forged.body) is None
    with nothing_issued():
        assert door.post(forged.body).status_code == 400
    # The challenge was touched by none of them.
    issued(ask(door, good, ca_certificate))


def test_a_renewal_is_signed_by_the_certificate_that_there_is(
    door: Door, ca_certificate: bytes, mint: Mint, openssl: Openssl
) -> None:
    """No challenge: the certificate is looked up in our record, and it says what the next one holds."""
    _challenge, value = mint()
    first = enrol(door, ca_certificate, value, key=1)
    sent = pkcs_req(
        csr(rsa_key(2), subject=(("CN", "somebody else"),)),
        ca_certificate=ca_certificate,
        identity=holder(first),
    )
    assert openssl.opens_signature(sent.body, ca_certificate) is not None
    second = issued(ask(door, sent, ca_certificate))
    assert (second.subject, second.renewed_from_id) == (first.subject, first.pk)
    assert openssl.validates(bytes(second.der), [ca_certificate])
    assert second.public_key_sha256 != first.public_key_sha256


@pytest.mark.parametrize("case", ["revoked", "expired", "foreign"])
def test_an_existing_certificate_that_counts_no_longer_renews_nothing(
    door: Door,
    ca_certificate: bytes,
    mint: Mint,
    openssl: Openssl,
    case: str,
) -> None:
    """What openssl still finds well signed, our record knows better."""
    _challenge, value = mint()
    first = enrol(door, ca_certificate, value, key=1)
    identity, reason = holder(first), ""
    if case == "revoked":
        revocation.revoke(first, reason=RevocationReason.KEY_COMPROMISE, actor=SERVER, now=NOW)
        reason = "revoked"
    elif case == "expired":
        Certificate.objects.filter(pk=first.pk).update(not_after=NOW - timedelta(days=1))
        reason = "expired"
    else:  # as it stands there, but self-made: same name, another key
        name = describe(bytes(first.der)).subject.removeprefix("CN=")
        identity, reason = signer(6, name), "no challenge"
    sent = pkcs_req(csr(rsa_key(2)), ca_certificate=ca_certificate, identity=identity)
    assert openssl.opens_signature(sent.body) is not None
    with nothing_issued():
        reply = ask(door, sent, ca_certificate)
    refused(reply, FailInfo.BAD_REQUEST, reason)
