"""SCEP over HTTP: addresses, types of content, GET and POST, limits of size and of failures."""

from __future__ import annotations

from datetime import timedelta
from unittest import mock

import pytest
import time_machine
from cryptography import x509
from django.utils import timezone
from pytest_django.fixtures import Settings

from audit.models import Refusal
from audit.recording import SERVER
from pki import issuers, trust
from pki.core.certificates import encode_pem
from pki.models import Issuer, Purpose
from scep import throttle
from scep.core import capabilities, wire
from scep.core.attributes import PkiStatus
from scep.models import ScepService, Transaction
from tests.scep.asking import ask, enrol, issued
from tests.scep.conftest import Mint
from tests.scep.support import NOW, Door, csr, nothing_issued, pkcs_req, rsa_key, signer

pytestmark = pytest.mark.django_db

PATHS = [
    "/scep",
    "/scep/",
    "/scep/bramley",
    "/scep/bramley/",
    "/scep/pkiclient.exe",
    "/scep/cgi-bin/pkiclient.exe",
    "/scep/bramley/pkiclient.exe",
    "/scep/bramley/cgi-bin/pkiclient.exe",
]


@pytest.mark.parametrize("path", PATHS)
def test_the_issuer_answers_at_all_its_addresses(path: str, mint: Mint, ca_certificate: bytes) -> None:
    door = Door(path)
    assert door.get("operation=GetCACert").content == ca_certificate
    assert door.get("operation=GetCACaps").status_code == 200
    enrol(door, ca_certificate, mint()[1])


@pytest.mark.parametrize(
    "path", ["/scep/nobody/", "/scep/cgi-bin/", "/scep/bramley/x", "/scepx", "/scep/a/b/c", "/scep/%2e%2e/"]
)
def test_other_addresses_are_not_found(path: str, issuer: Issuer) -> None:
    for query in ("operation=GetCACaps", "operation=GetCACert"):
        assert Door(path).get(query).status_code == 404
    assert Door(path).post(b"x").status_code == 404


def test_a_ca_that_is_only_trusted_is_not_found(issuer: Issuer) -> None:
    foreign = encode_pem(signer().certificate)
    with pytest.raises(trust.TrustRefused):
        trust.trust_issuer(foreign.encode(), purpose=Purpose.MDM_IDENTITY, actor=SERVER, now=NOW)
    Issuer.objects.create(slug="trusted", name="Trusted", kind="TRUST_ONLY", trusted_for=["MDM_IDENTITY"])
    assert Door("/scep/trusted/").get("operation=GetCACert").status_code == 404


def test_without_an_issuer_there_is_nothing(db: None) -> None:
    assert Door().get("operation=GetCACert").status_code == 404
    assert Door().post(b"x").status_code == 404


def test_get_ca_caps(door: Door, issuer: Issuer) -> None:
    for query in (
        "operation=GetCACaps",
        "operation=GetCACaps&message=",
        "operation=GetCACaps&message=a+b%20c",
    ):
        response = door.get(query)
        assert response.status_code == 200
        assert response.headers["Content-Type"] == "text/plain"
        assert response.content == capabilities.encode_capabilities()


def test_get_ca_cert_is_one_certificate_that_signs_and_encrypts(door: Door, issuer: Issuer) -> None:
    response = door.get("operation=GetCACert&message=Device%20Management%20Identity%20Certificate")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/x-x509-ca-cert"
    usage = (
        x509.load_der_x509_certificate(response.content)
        .extensions.get_extension_for_class(x509.KeyUsage)
        .value
    )
    assert usage.digital_signature
    assert usage.key_encipherment
    assert usage.key_cert_sign
    assert usage.crl_sign


@pytest.mark.parametrize(
    "query",
    ["", "operation=", "operation=getcacert", "operation=GetCACertChain", "x=y",
     "operation=GetCACaps&operation=GetCACaps"],
)  # fmt: skip
def test_other_operations_are_refused(door: Door, issuer: Issuer, query: str) -> None:
    response = door.get(query)
    assert response.status_code == 400
    assert response.headers["Content-Type"] == "text/plain"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE"])
def test_other_methods_are_refused(door: Door, issuer: Issuer, method: str) -> None:
    response = door.send(method, b"", "operation=GetCACaps")
    assert (response.status_code, response.headers["Allow"]) == (405, "GET, POST")


def test_only_pki_operation_comes_by_post(door: Door, issuer: Issuer) -> None:
    assert door.post(b"x", "operation=GetCACert").status_code == 400


@pytest.mark.parametrize(
    "query", ["operation=PKIOperation", "", "message=", "operation=PKIOperation&message=x"]
)
def test_by_post(door: Door, mint: Mint, ca_certificate: bytes, query: str) -> None:
    sent = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=ca_certificate)
    response = door.post(sent.body, query)
    assert response.headers["Content-Type"] == "application/x-pki-message"
    issued(sent.open(response.content, ca_certificate))


def test_by_post_with_the_message_in_the_address_too(door: Door, mint: Mint, ca_certificate: bytes) -> None:
    sent = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=ca_certificate)
    response = door.post(sent.body, wire.encode_query("PKIOperation", sent.body))
    issued(sent.open(response.content, ca_certificate))


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "multipart/form-data", "", "text/x"]
)
def test_the_type_of_the_body_does_not_matter(
    door: Door, mint: Mint, ca_certificate: bytes, content_type: str
) -> None:
    sent = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=ca_certificate)
    response = door.post(sent.body, CONTENT_TYPE=content_type)
    issued(sent.open(response.content, ca_certificate))


def test_by_get(door: Door, mint: Mint, ca_certificate: bytes) -> None:
    sent = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=ca_certificate)
    response = door.get_message(sent.body)
    assert response.headers["Content-Type"] == "application/x-pki-message"
    issued(sent.open(response.content, ca_certificate))


def test_no_answer_is_kept_by_a_cache(door: Door, issuer: Issuer) -> None:
    for query in ("operation=GetCACaps", "operation=GetCACert", "operation=x"):
        assert door.get(query).headers["Cache-Control"] == "no-store"


# --- limits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [wire.MAX_MESSAGE + 1, 10 * 1024 * 1024])
def test_a_large_body_is_refused_unread(door: Door, issuer: Issuer, size: int) -> None:
    response = door.post(b"x" * 10, CONTENT_LENGTH=str(size))
    assert response.status_code == 413
    assert Refusal.objects.get().reason == "the message is too large"


def test_a_large_message_by_get_is_refused(door: Door, issuer: Issuer) -> None:
    assert door.get_message(bytes(wire.MAX_MESSAGE + 1)).status_code == 413


@pytest.mark.parametrize("length", ["", "0", "-1", "x", "1e3"])
def test_a_body_without_a_length_is_refused(door: Door, issuer: Issuer, length: str) -> None:
    assert door.post(b"x", CONTENT_LENGTH=length).status_code == 400


def test_failures_of_an_address_are_limited_and_successes_are_not(
    door: Door, mint: Mint, ca_certificate: bytes, settings: Settings, at_noon: time_machine.Traveller
) -> None:
    settings.BRAMLEY_SCEP_FAILURES_PER_MINUTE = 5
    bad = Door(REMOTE_ADDR="192.0.2.1")
    for number in range(8):
        enrol(bad, ca_certificate, mint(subject=(("CN", f"device {number}"),))[1])
    sent = pkcs_req(csr(rsa_key(1), "wrong"), ca_certificate=ca_certificate)
    assert [bad.post(sent.body).status_code for _ in range(3)] == [200] * 3
    assert [bad.post(b"garbage").status_code for _ in range(3)] == [400, 400, 429]
    # Right or wrong, it has to wait; others do not.
    sent = pkcs_req(csr(rsa_key(2), mint()[1]), ca_certificate=ca_certificate)
    with nothing_issued():
        response = bad.post(sent.body)
    assert (response.status_code, response.headers["Retry-After"]) == (429, "60")
    assert bad.get("operation=GetCACert").status_code == 200
    assert Refusal.objects.get(reason="too many failures").count == 1
    issued(ask(Door(REMOTE_ADDR="192.0.2.2"), sent, ca_certificate))
    at_noon.shift(timedelta(minutes=1))
    assert ask(bad, sent, ca_certificate).status is PkiStatus.SUCCESS


def test_a_guesser_gets_nothing_and_is_slowed_down(door: Door, mint: Mint, ca_certificate: bytes) -> None:
    mint()
    statuses = []
    request = csr(rsa_key(1), "A" * 32)
    body = pkcs_req(request, ca_certificate=ca_certificate).body
    # The clock stands still: a minute that ends in between would begin a new count.
    with nothing_issued(), time_machine.travel(timezone.now(), tick=False):
        for _ in range(130):
            statuses.append(door.post(body).status_code)
    assert statuses == [200] * 120 + [429] * 10
    assert Transaction.objects.count() == 120


def another_process() -> None:
    """As a process that has not seen any failure."""
    throttle._failed = throttle._Failed(0)


def test_the_limit_holds_over_processes(
    door: Door, mint: Mint, ca_certificate: bytes, settings: Settings
) -> None:
    settings.BRAMLEY_SCEP_FAILURES_PER_MINUTE = 3
    mint()
    guess = pkcs_req(csr(rsa_key(1), "A" * 32), ca_certificate=ca_certificate).body
    with nothing_issued(), time_machine.travel(timezone.now(), tick=False):
        assert [door.post(guess).status_code for _ in range(5)] == [200] * 3 + [429] * 2
        for _ in range(3):
            another_process()
            # It learns of the limit by the failure, which says nothing but that; then it asks at once.
            learned = door.post(guess)
            assert (learned.status_code, learned.content) == (429, b"too many failures\n")
            assert 0 < int(learned.headers["Retry-After"]) <= 60
            before = Transaction.objects.count()
            assert [door.post(guess).status_code for _ in range(3)] == [429] * 3
            assert Transaction.objects.count() == before
        assert Refusal.objects.get(reason="too many failures").count == 1


def test_who_did_not_fail_is_not_asked_about(door: Door, mint: Mint, ca_certificate: bytes) -> None:
    another_process()
    sent = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=ca_certificate)
    with mock.patch("scep.throttle.cache.get", return_value=0) as asked:
        assert ask(door, sent, ca_certificate).status is PkiStatus.SUCCESS
        assert asked.call_count == 0
        with time_machine.travel(timezone.now(), tick=False):
            assert [door.post(b"nonsense").status_code for _ in range(3)] == [400] * 3
            assert asked.call_count == 2
            other = Door(REMOTE_ADDR="192.0.2.7")
            assert [other.post(b"nonsense").status_code for _ in range(2)] == [400] * 2
            assert asked.call_count == 3


def test_when_too_many_addresses_failed_all_are_asked_about(
    door: Door, service: ScepService, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.BRAMLEY_SCEP_FAILURES_PER_MINUTE = 1
    monkeypatch.setattr(throttle, "_MOST_REMEMBERED", 2)
    with time_machine.travel(timezone.now(), tick=False):
        another_process()
        doors = [Door(REMOTE_ADDR=f"192.0.2.{number}") for number in range(1, 6)]
        assert [one.post(b"nonsense").status_code for one in doors] == [400] * 5
        assert [one.post(b"nonsense").status_code for one in doors] == [429] * 5


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("", "unix:", True),
    ],
)
def test_who_counts_as_one_address(
    issuer: Issuer, settings: Settings, first: str, second: str, same: bool
) -> None:
    settings.BRAMLEY_SCEP_FAILURES_PER_MINUTE = 1
    assert Door(REMOTE_ADDR=first).post(b"x").status_code == 400
    assert Door(REMOTE_ADDR=second).post(b"x").status_code == (429 if same else 400)


def test_behind_a_trusted_proxy_the_client_is_counted(issuer: Issuer, settings: Settings) -> None:
    """The door names the client; the peer is the proxy for all of them."""
    settings.BRAMLEY_SCEP_FAILURES_PER_MINUTE = 1
    proxy = Door(REMOTE_ADDR="10.0.0.1")
    assert proxy.post(b"x", **{"bramley.client_address": "192.0.2.1"}).status_code == 400
    assert proxy.post(b"x", **{"bramley.client_address": "192.0.2.1"}).status_code == 429
    assert proxy.post(b"x", **{"bramley.client_address": "192.0.2.2"}).status_code == 400
    assert {row.remote_addr for row in Refusal.objects.all()} == {"192.0.2.1", "192.0.2.2"}


def test_an_issuer_that_makes_no_certificate_of_its_own_says_so(
    db: None, at_noon: time_machine.Traveller
) -> None:
    """Its key cannot decrypt, and the RA certificate that would cannot be made: the CA has ended."""
    issuer = issuers.create_issuer("curve", "Curve CA", algorithm="EC-P256", years=1, actor=SERVER, now=NOW)
    at_noon.move_to(NOW + timedelta(days=400), tick=False)
    sent = pkcs_req(csr(rsa_key(1)), ca_certificate=signer().certificate)
    door = Door("/scep/curve/")
    assert door.get("operation=GetCACert").status_code == 503
    assert door.post(sent.body).status_code == 400
    reason = "no certificate of its own: the issuer's certificate is not valid now"
    assert list(Refusal.objects.values_list("reason", flat=True).distinct()) == [reason]
    assert Refusal.objects.filter(target_id=str(issuer.pk)).exists()
