"""The OCSP responder: what it says, to whom, and who signs it."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
import time_machine
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as reference
from cryptography.x509.oid import ExtendedKeyUsageOID
from django.db import connection
from django.test.utils import CaptureQueriesContext

from pki import issuers, ocsp, revocation, tasks
from pki.core.certificates import encode_pem
from pki.core.ocsp import ResponseStatus
from pki.core.path import verify_issued_by
from pki.models import (
    Certificate,
    CertificateStatus,
    HeldKey,
    Issuer,
    IssuerCertificate,
    IssuerKey,
    IssuerKeyState,
    IssuerKind,
    IssuerState,
    Purpose,
    RevocationReason,
)
from tests.pki.conftest import ACTOR, NOW, IssueCertificate, Party, openssl, self_signed
from tests.pki.test_issuance import run_in_threads
from tests.support.device_door import Answer, DeviceClient
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db

STATUS = reference.OCSPCertStatus
RESPONSE = reference.OCSPResponseStatus
DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def clock() -> Iterator[time_machine.Traveller]:
    """The clock stands at ``NOW``; ``clock.shift`` moves it."""
    with time_machine.travel(NOW, tick=False) as traveller:
        yield traveller


def certificate_of(row: Certificate | IssuerCertificate) -> x509.Certificate:
    return x509.load_der_x509_certificate(bytes(row.der))


def authority(issuer: Issuer) -> x509.Certificate:
    return x509.load_der_x509_certificate(issuers.chain(issuer)[0])


def ask_about(
    *pairs: tuple[x509.Certificate, x509.Certificate],
    digest: hashes.HashAlgorithm | None = None,
    nonce: bytes | None = None,
) -> bytes:
    """A request about one certificate, made by cryptography."""
    builder = reference.OCSPRequestBuilder()
    for certificate, issuer in pairs:
        builder = builder.add_certificate(certificate, issuer, digest or hashes.SHA256())
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.build().public_bytes(Encoding.DER)


def ask_about_number(issuer: x509.Certificate, serial_number: int) -> bytes:
    """A request about a certificate that nobody has."""
    digest = hashes.Hash(hashes.SHA1())  # noqa: S303
    digest.update(issuer.subject.public_bytes())
    key = x509.SubjectKeyIdentifier.from_public_key(issuer.public_key()).digest
    builder = reference.OCSPRequestBuilder().add_certificate_by_hash(
        digest.finalize(),
        key,
        serial_number,
        hashes.SHA1(),  # noqa: S303
    )
    return builder.build().public_bytes(Encoding.DER)


def post(request: bytes, slug: str = "bramley") -> Answer:
    return DeviceClient().post(f"/pki/{slug}/ocsp", request, {"Content-Type": "application/ocsp-request"})


def get(request: bytes, slug: str = "bramley") -> Answer:
    return DeviceClient().get(f"/pki/{slug}/ocsp/{quote(base64.b64encode(request).decode(), safe='')}")


def read(answer: Answer) -> reference.OCSPResponse:
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/ocsp-response")
    return reference.load_der_ocsp_response(answer.body)


def status_of(row: Certificate | IssuerCertificate, issuer: Issuer) -> reference.OCSPCertStatus:
    return read(post(ask_about((certificate_of(row), authority(issuer))))).certificate_status


# --- What it says ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("send", [post, get])
@pytest.mark.parametrize("digest", [hashes.SHA1(), hashes.SHA256()])  # noqa: S303
def test_good_and_revoked(
    issuer: Issuer,
    issue_certificate: IssueCertificate,
    clock: time_machine.Traveller,
    send: Callable[[bytes], Answer],
    digest: hashes.HashAlgorithm,
) -> None:
    row = issue_certificate()
    request = ask_about((certificate_of(row), authority(issuer)), digest=digest)
    said = read(send(request))
    assert (said.certificate_status, said.serial_number) == (STATUS.GOOD, int(row.serial_number, 16))
    assert (said.this_update_utc, said.next_update_utc) == (NOW, NOW + timedelta(hours=1))
    clock.shift(5)
    at = NOW + timedelta(seconds=5)
    revocation.revoke(row, reason=RevocationReason.KEY_COMPROMISE, actor=ACTOR, now=at)
    said = read(send(request))
    assert said.certificate_status is STATUS.REVOKED
    assert said.revocation_time_utc == at
    assert said.revocation_reason is x509.ReasonFlags.key_compromise


def test_what_was_never_issued_is_unknown(issuer: Issuer, issue_certificate: IssueCertificate) -> None:
    row = issue_certificate()
    for serial_number in (1, int(row.serial_number, 16) + 1, (1 << 160) + 5):
        said = read(post(ask_about_number(authority(issuer), serial_number)))
        assert (said.certificate_status, said.serial_number) == (STATUS.UNKNOWN, serial_number)
    assert read(post(ask_about_number(authority(issuer), int(row.serial_number, 16)))).certificate_status is (
        STATUS.GOOD
    )


def test_certificates_of_others_are_unknown(
    issuer: Issuer, issue_certificate: IssueCertificate, rsa_party: Party, other_party: Party
) -> None:
    """Of a CA that we do not know, of another issuer of ours, and one with the number of ours."""
    other = issuers.create_issuer("other", "Other", algorithm="EC-P256", actor=ACTOR, now=NOW)
    row = issue_certificate()
    foreign = x509.load_der_x509_certificate(
        self_signed(other_party.key, "x", int(row.serial_number, 16)).certificate
    )
    stranger = x509.load_der_x509_certificate(rsa_party.certificate)
    for request in (
        ask_about((stranger, stranger)),
        ask_about((foreign, foreign)),
        ask_about((certificate_of(row), authority(other))),
    ):
        assert read(post(request)).certificate_status is STATUS.UNKNOWN
    assert read(post(ask_about((certificate_of(row), authority(issuer))), "other")).certificate_status is (
        STATUS.UNKNOWN
    )


def test_certificates_that_devices_brought_are_unknown(
    issuer: Issuer, issue_certificate: IssueCertificate
) -> None:
    """A foreign certificate on record was not issued by the key it hangs on."""
    row = issue_certificate()
    Certificate.objects.filter(pk=row.pk).update(foreign=True)
    assert status_of(row, issuer) is STATUS.UNKNOWN


def test_superseded_is_not_revoked(issuer: Issuer, issue_certificate: IssueCertificate) -> None:
    row = issue_certificate()
    Certificate.objects.filter(pk=row.pk).update(status=CertificateStatus.SUPERSEDED)
    assert status_of(row, issuer) is STATUS.GOOD


def test_the_issuers_own_certificates_are_good(issuer: Issuer) -> None:
    assert status_of(issuers.current_certificate(issuers.current_key(issuer)), issuer) is STATUS.GOOD


def test_revoked_cas_below(issuer: Issuer, rsa_party: Party) -> None:
    """What another CA of ours got from this one, while it is good and afterwards."""
    key = issuers.current_key(issuer)
    below = issuers.create_issuer("below", "Below", algorithm="EC-P256", actor=ACTOR, now=NOW)
    row = issuers.current_certificate(issuers.current_key(below))
    IssuerCertificate.objects.filter(pk=row.pk).update(signed_by=key)
    request = ask_about_number(authority(issuer), int(row.serial_number, 16))
    assert read(post(request)).certificate_status is STATUS.GOOD
    IssuerCertificate.objects.filter(pk=row.pk).update(
        revoked_at=NOW, revocation_reason=RevocationReason.CA_COMPROMISE
    )
    said = read(post(request))
    assert (said.certificate_status, said.revocation_reason) == (
        STATUS.REVOKED,
        x509.ReasonFlags.ca_compromise,
    )
    # It is no longer its own issuer's to say.
    assert read(
        post(ask_about_number(authority(below), int(row.serial_number, 16)), "below")
    ).certificate_status is (STATUS.UNKNOWN)


def test_several_at_once(issuer: Issuer, issue_certificate: IssueCertificate, rsa_party: Party) -> None:
    """In the order in which they were asked about; others' are unknown."""
    from tests.pki.test_ocsp_messages import certificate_id, request

    good, bad = issue_certificate("good"), issue_certificate("bad")
    revocation.revoke(bad, reason=RevocationReason.UNSPECIFIED, actor=ACTOR, now=NOW)
    own = Party(rsa_party.key, issuers.chain(issuer)[0])
    numbers = [int(row.serial_number, 16) for row in (good, bad)]
    ids = [
        certificate_id(rsa_party, numbers[0]),
        *(certificate_id(own, number) for number in (*numbers, 5, numbers[0])),
    ]
    said = reference.load_der_ocsp_response(post(request(*ids)).body)
    assert [one.certificate_status for one in said.responses] == [
        STATUS.UNKNOWN,
        STATUS.GOOD,
        STATUS.REVOKED,
        STATUS.UNKNOWN,
        STATUS.GOOD,
    ]
    ten = [certificate_id(own, number) for number in range(1, 11)]
    assert len(list(reference.load_der_ocsp_response(post(request(*ten)).body).responses)) == 10
    assert read(post(request(*ten, ids[0]))).response_status is RESPONSE.MALFORMED_REQUEST


# --- Nonces and caches -----------------------------------------------------------------------------------


def test_nonces_come_back_and_make_each_answer_new(
    issuer: Issuer, issue_certificate: IssueCertificate
) -> None:
    pair = (certificate_of(issue_certificate()), authority(issuer))
    for nonce in (b"n", b"n" * 128):
        for send in (post, get):
            answer = send(ask_about(pair, nonce=nonce))
            echoed = read(answer).extensions.get_extension_for_class(x509.OCSPNonce)
            assert echoed.value.nonce == nonce
            assert answer.headers["Cache-Control"] == "no-store"


def test_answers_by_get_may_be_cached_for_half_a_minute(
    issuer: Issuer, issue_certificate: IssueCertificate, clock: time_machine.Traveller
) -> None:
    row = issue_certificate()
    request = ask_about((certificate_of(row), authority(issuer)))
    first = get(request)
    assert first.headers["Cache-Control"] == "public, no-transform, must-revalidate, max-age=30"
    assert first.headers["Last-Modified"] == "Tue, 24 Nov 2026 12:00:00 GMT"
    assert first.headers["Expires"] == "Tue, 24 Nov 2026 12:00:30 GMT"
    assert post(request).headers["Cache-Control"] == "no-store"
    # Within the minute the same signature serves again, however it is asked for.
    clock.shift(59)
    again = get(request)
    assert (again.body, again.headers["ETag"]) == (first.body, first.headers["ETag"])
    assert post(request).body == first.body
    # What has changed is said at once.
    revocation.revoke(row, reason=RevocationReason.UNSPECIFIED, actor=ACTOR, now=NOW + timedelta(seconds=59))
    changed = get(request)
    assert read(changed).certificate_status is STATUS.REVOKED
    assert changed.headers["ETag"] != first.headers["ETag"]
    clock.shift(60)
    assert read(get(request)).this_update_utc == NOW + timedelta(seconds=119)


def test_signatures_that_are_kept_are_bounded(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocsp, "MAX_SIGNATURES", 3)
    for number in range(1, 6):
        read(post(ask_about_number(authority(issuer), number)))
    assert len(ocsp._signatures) == 3


def test_an_answer_costs_two_queries(issuer: Issuer, issue_certificate: IssueCertificate) -> None:
    rows = [issue_certificate(f"device {number}") for number in range(2)]
    post(ask_about((certificate_of(rows[0]), authority(issuer))))
    request = ask_about((certificate_of(rows[1]), authority(issuer)))
    with CaptureQueriesContext(
        connection,
    ) as captured:
        assert read(post(request)).certificate_status is STATUS.GOOD
    assert len(captured) == 2


# --- What is no request ----------------------------------------------------------------------------------


def test_whatever_is_no_request_gets_the_same_answer(
    issuer: Issuer, issue_certificate: IssueCertificate
) -> None:
    good = ask_about((certificate_of(issue_certificate()), authority(issuer)))
    read(post(good))
    answers = set()
    with no_change():
        for body in (b"", b"\x30", b"<html>", good + b"\0", good[:-1], b"\x30\x80" * 200, b"\0" * 4096):
            answers.add(post(body).body)
            if body:
                answers.add(get(body).body)
        for path in ("%C3%BF", "not base64!", "a", "====", "..%2Fca.cer"):
            answers.add(DeviceClient().get(f"/pki/bramley/ocsp/{path}").body)
    (answer,) = answers
    assert reference.load_der_ocsp_response(answer).response_status is RESPONSE.MALFORMED_REQUEST


def test_what_is_too_large_is_not_read(issuer: Issuer) -> None:
    with no_change():
        assert post(b"\0" * 4097).status == 413
        answer = DeviceClient().request("POST", "/pki/bramley/ocsp", b"\0", content_length="1000000000")
        assert answer.status == 413
        answer = DeviceClient().request("POST", "/pki/bramley/ocsp", b"\0", content_length="-1")
        assert answer.status == 400
        assert DeviceClient().get(f"/pki/bramley/ocsp/{'A' * 16385}").status == 414


def test_base64_as_clients_write_it(issuer: Issuer, issue_certificate: IssueCertificate) -> None:
    """Escaped or not, with padding or without."""
    pair = (certificate_of(issue_certificate()), authority(issuer))
    encoded = base64.b64encode(ask_about(pair, nonce=b"\xfb\xef\xbe" * 5 + b"\xff")).decode()
    assert "+" in encoded
    assert "/" in encoded
    for written in (
        encoded,
        quote(encoded, safe=""),
        quote(encoded),
        encoded.rstrip("="),
        encoded.replace("+", "%20"),
    ):
        answer = DeviceClient().get(f"/pki/bramley/ocsp/{written}")
        assert read(answer).certificate_status is STATUS.GOOD


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD"])
def test_other_methods(issuer: Issuer, method: str) -> None:
    assert DeviceClient().request(method, "/pki/bramley/ocsp").status == 405
    if method != "GET":
        assert DeviceClient().request(method, "/pki/bramley/ocsp/AA").status == 405


def test_issuers_that_are_not_ours(issuer: Issuer, issue_certificate: IssueCertificate) -> None:
    request = ask_about((certificate_of(issue_certificate()), authority(issuer)))
    assert post(request, "nobody").status == 404
    Issuer.objects.update(kind=IssuerKind.TRUST_ONLY)
    issuer.keys.update(private_key_sealed=None)
    with no_change():
        assert post(request).status == 404
        assert get(request).status == 404


# --- Who signs -------------------------------------------------------------------------------------------


def responders() -> list[Certificate]:
    return list(Certificate.objects.filter(purpose=Purpose.OCSP_SIGNING).order_by("pk"))


def test_a_delegated_certificate_signs(issuer: Issuer, issue_certificate: IssueCertificate) -> None:
    request = ask_about((certificate_of(issue_certificate()), authority(issuer)))
    said = read(post(request))
    (row,) = responders()
    certificate = certificate_of(row)
    assert [bytes(one.public_bytes(Encoding.DER)) for one in said.certificates] == [bytes(row.der)]
    verify_issued_by(bytes(row.der), issuers.chain(issuer)[0])
    extensions = certificate.extensions
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.OCSP_SIGNING
    ]
    assert not extensions.get_extension_for_class(x509.OCSPNoCheck).critical
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_encipherment, usage.key_cert_sign) == (True, False, False)
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc <= 30 * DAY
    assert HeldKey.objects.get().certificate == row
    assert post(request).body
    assert len(responders()) == 1


def test_openssl_agrees(issuer: Issuer, issue_certificate: IssueCertificate, tmp_path: Path) -> None:
    good, bad = issue_certificate("good"), issue_certificate("bad")
    revocation.revoke(bad, reason=RevocationReason.CESSATION, actor=ACTOR, now=NOW)
    expected = {"good": "good", "bad": "revoked"}
    for name, row in {"good": good, "bad": bad}.items():
        for nonce in ("-nonce", "-no_nonce"):
            said = by_openssl(tmp_path, issuers.chain(issuer)[0], row, nonce)
            assert f"Cert Status: {expected[name]}" in said
    assert "Revocation Reason: cessationOfOperation" in said


def by_openssl(folder: Path, root: bytes, row: Certificate | IssuerCertificate, *options: str) -> str:
    """What openssl makes of the answer about a certificate; it verifies the responder up to the root."""
    (folder / "root.pem").write_text(encode_pem(root))
    (folder / "leaf.pem").write_text(encode_pem(bytes(row.der)))
    about = ("-issuer", folder / "root.pem", "-cert", folder / "leaf.pem")
    openssl("ocsp", *about, *options, "-reqout", folder / "request.der")
    (folder / "answer.der").write_bytes(post((folder / "request.der").read_bytes()).body)
    at = str(int((NOW + timedelta(minutes=1)).timestamp()))
    said = openssl(
        *("ocsp", "-reqin", folder / "request.der", "-respin", folder / "answer.der", "-resp_text"),
        *("-issuer", folder / "root.pem", "-CAfile", folder / "root.pem", "-attime", at),
    )
    return said.decode()


def test_an_issuer_on_a_curve(db: None, ec_key: ec.EllipticCurvePrivateKey, tmp_path: Path) -> None:
    issuer = issuers.create_issuer("bramley", "Curve", algorithm="EC-P384", actor=ACTOR, now=NOW)
    assert "Cert Status: good" in by_openssl(
        tmp_path, issuers.chain(issuer)[0], issuers.current_certificate(issuers.current_key(issuer))
    )
    assert isinstance(certificate_of(responders()[0]).public_key(), ec.EllipticCurvePublicKey)


@pytest.mark.parametrize("state", [IssuerKeyState.PREVIOUS, IssuerKeyState.CLOSED, IssuerKeyState.NEXT])
def test_every_generation_answers_for_itself(
    issuer: Issuer, issue_certificate: IssueCertificate, state: IssuerKeyState, tmp_path: Path
) -> None:
    old, root = issue_certificate("old"), issuers.chain(issuer)[0]
    issuer.keys.update(state=state)
    second = issuers.create_issuer(
        "second", "Bramley Test CA", organization="Orchard", algorithm="RSA-2048", actor=ACTOR, now=NOW
    )
    IssuerKey.objects.filter(issuer=second).update(issuer=issuer, generation=2)
    new = issue_certificate("new")
    assert new.issuer_key.generation == 2
    revocation.revoke(old, reason=RevocationReason.SUPERSEDED, actor=ACTOR, now=NOW)
    assert "Cert Status: revoked" in by_openssl(tmp_path, root, old)
    assert "Cert Status: good" in by_openssl(tmp_path, issuers.chain(issuer)[0], new)
    assert {row.issuer_key.generation for row in responders()} == {1, 2}
    # The number of one generation means nothing to the other.
    mixed = ask_about((certificate_of(old), authority(issuer)))
    assert read(post(mixed)).certificate_status is STATUS.UNKNOWN


def test_one_that_is_about_to_end_is_renewed(issuer: Issuer, clock: time_machine.Traveller) -> None:
    request = ask_about_number(authority(issuer), 5)
    post(request)
    clock.shift(18 * DAY)
    ocsp.forget()
    post(request)
    assert len(responders()) == 1
    clock.shift(2 * DAY)
    ocsp.forget()
    said = read(post(request))
    assert len(responders()) == 2
    assert [bytes(one.public_bytes(Encoding.DER)) for one in said.certificates] == [
        bytes(responders()[1].der)
    ]


def test_a_process_does_not_go_on_with_one_that_has_ended(
    issuer: Issuer, clock: time_machine.Traveller
) -> None:
    request = ask_about_number(authority(issuer), 5)
    post(request)
    clock.shift(30 * DAY)
    said = read(post(request))
    assert said.certificates[0].not_valid_after_utc > NOW + 30 * DAY


def test_the_sweep_renews_and_throws_old_keys_away(issuer: Issuer, clock: time_machine.Traveller) -> None:
    assert tasks.renew_ocsp_responders() == 1
    assert tasks.renew_ocsp_responders() == 0
    clock.shift(20 * DAY)
    assert tasks.renew_ocsp_responders() == 1
    assert HeldKey.objects.count() == 2
    clock.shift(11 * DAY)
    assert tasks.renew_ocsp_responders() == 0
    assert [held.certificate for held in HeldKey.objects.all()] == [responders()[1]]
    assert len(responders()) == 2


def test_one_that_ends_with_the_issuer_is_not_renewed_for_ever(
    issuer: Issuer, clock: time_machine.Traveller
) -> None:
    clock.move_to(issuers.current_certificate(issuers.current_key(issuer)).not_after - 5 * DAY)
    request = ask_about_number(authority(issuer), 5)
    for _again in range(3):
        ocsp.forget()
        read(post(request))
        tasks.renew_ocsp_responders()
    assert len(responders()) == 1
    clock.shift(6 * DAY)
    with no_change():
        assert read(post(request)).response_status is RESPONSE.UNAUTHORIZED


def test_a_revoked_one_is_replaced(issuer: Issuer) -> None:
    request = ask_about_number(authority(issuer), 5)
    post(request)
    revocation.revoke(responders()[0], reason=RevocationReason.KEY_COMPROMISE, actor=ACTOR, now=NOW)
    ocsp.forget()
    said = read(post(request))
    assert [bytes(one.public_bytes(Encoding.DER)) for one in said.certificates] == [
        bytes(responders()[1].der)
    ]


def test_a_retired_issuer_goes_on_answering(issuer: Issuer, issue_certificate: IssueCertificate) -> None:
    row = issue_certificate()
    Issuer.objects.update(state=IssuerState.RETIRED)
    assert status_of(row, issuer) is STATUS.GOOD


def test_while_the_issuers_key_is_away(
    issuer: Issuer, clock: time_machine.Traveller, caplog: pytest.LogCaptureFixture
) -> None:
    """The responder goes on while its certificate is valid; then relying parties are told to come later."""
    request = ask_about_number(authority(issuer), 5)
    post(request)
    issuer.keys.update(private_key_sealed=b"\x01" * 60)
    clock.shift(25 * DAY)
    ocsp.forget()
    with no_change(), caplog.at_level(logging.CRITICAL):
        assert read(post(request)).certificate_status is STATUS.UNKNOWN
    clock.shift(5 * DAY)
    with no_change(), caplog.at_level(logging.CRITICAL):
        assert read(post(request)).response_status is RESPONSE.TRY_LATER
        assert tasks.renew_ocsp_responders() == 0
    assert get(request).headers["Cache-Control"] == "no-store"


@pytest.mark.django_db(transaction=True)
def test_many_first_requests_make_one_responder(issuer: Issuer) -> None:
    request = ask_about_number(authority(issuer), 5)

    def first(number: int) -> None:
        ocsp.forget()
        assert ocsp.answer("bramley", request, NOW).status is ResponseStatus.SUCCESSFUL

    run_in_threads(first, 4, 2)
    assert len(responders()) == 1
