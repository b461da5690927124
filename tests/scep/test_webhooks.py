"""The webhook that decides: what it is told, how it is signed, its answers, where it may not go."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from django.db import connection, transaction
from hypothesis import given
from hypothesis import strategies as st
from pytest_django.fixtures import Settings

from audit.models import Refusal
from audit.recording import SERVER
from pki.keys import public_key_der
from pki.models import Certificate, Issuer
from scep import approvals, services, webhooks
from scep.core import webhook
from scep.core.attributes import FailInfo, PkiStatus
from scep.core.webhook import AddressRefused, AnswerRefused, Question
from scep.models import ApprovalChoice, Mode, ScepService, Transaction
from scep.transactions import Proposal
from tests.scep.asking import ask, holder, issued, pending, refused
from tests.scep.conftest import Mint
from tests.scep.support import NOW, Door, csr, nothing_issued, pkcs_req, rsa_key, signer

# A question is put outside any transaction: with one around the test it would be refused.
pytestmark = pytest.mark.django_db(transaction=True)

ROUTER = (("O", "Example"), ("CN", "router 1"))
DAY = timedelta(days=1)
Answer = Callable[[BaseHTTPRequestHandler], None]


def says(value: object, status: int = 200) -> Answer:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.end_headers()
        handler.wfile.write(body)

    return answer


class Receiver:
    """The other system: keeps what it was asked, and answers as it is told to."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.answer: Answer = says({"allow": True})
        self.asked: list[tuple[str, dict[str, str], bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.asked.append((self.path, headers, body))
                outer.answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing is printed."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.url = f"https://localhost:{self.port}/scep?x=1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def question(self) -> dict[str, Any]:
        """The one that it was asked last."""
        question: dict[str, Any] = json.loads(self.asked[-1][2])
        return question


class Certified:
    """A certificate for localhost, self-signed, in files."""

    def __init__(self, folder: Path, *names: x509.GeneralName) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "receiver")])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder(
                name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=9)
            )
            .add_extension(x509.SubjectAlternativeName(list(names)), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.path = folder / "receiver.pem"
        self.path.write_bytes(certificate.public_bytes(Encoding.PEM))
        both = folder / "receiver-with-key.pem"
        both.write_bytes(
            self.path.read_bytes() + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(both)


@pytest.fixture
def certified(tmp_path: Path) -> Certified:
    return Certified(tmp_path, x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1")))


@pytest.fixture
def receiver(certified: Certified, monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Iterator[Receiver]:
    """It is trusted, as an operator does it, and its network is allowed."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certified.path))
    settings.BRAMLEY_WEBHOOK_NETWORKS = (ip_network("127.0.0.0/8"), ip_network("::1"))
    webhooks._tls.cache_clear()
    receiver = Receiver(certified.context)
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()
    webhooks._tls.cache_clear()


@pytest.fixture
def asking(issuer: Issuer, receiver: Receiver) -> ScepService:
    """The service asks the receiver."""
    service = services.of_issuer(issuer)
    service.challenge_mode, service.webhook_url = Mode.WEBHOOK, receiver.url
    return services.save(service, actor=SERVER)


def router_request(ca_certificate: bytes, challenge: str | None = "made elsewhere", key: int = 1) -> Any:
    request = csr(rsa_key(key), challenge, subject=ROUTER, san=[("DNS", "router-1.example")])
    return pkcs_req(request, ca_certificate=ca_certificate, identity=signer(key))


# --- the question ----------------------------------------------------------------------------------------


def test_the_receiver_is_told_what_it_needs_and_can_check_who_asks(
    door: Door, ca_certificate: bytes, asking: ScepService, receiver: Receiver
) -> None:
    sent = router_request(ca_certificate)
    issued(ask(door, sent, ca_certificate))
    ((path, headers, body),) = receiver.asked
    assert path == "/scep?x=1"
    question = json.loads(body)
    request = x509.load_der_x509_csr(base64.b64decode(question.pop("csr")))
    assert request.subject.rfc4514_string() == "CN=router 1,O=Example"
    assert question == {
        "service": "bramley",
        "challenge": "made elsewhere",
        "transaction_id": sent.transaction_id,
        "subject": [["O", "Example"], ["CN", "router 1"]],
        "san": [["DNS", "router-1.example"]],
        "remote_addr": "127.0.0.1",
    }
    # As https://www.standardwebhooks.com has it, computed here anew.
    key = base64.b64decode(webhooks.secret(asking).removeprefix("whsec_"))
    text = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert len(key) == 32


def test_the_signature_is_that_of_the_specification() -> None:
    """The example at https://github.com/standard-webhooks/standard-webhooks (specification, signatures)."""
    signed = webhook.sign(
        b'{"test": 2432232314}',
        secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        identifier="msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp=1614265330,
    )
    assert signed["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_nothing_is_locked_while_the_other_system_thinks(
    door: Door, ca_certificate: bytes, asking: ScepService, receiver: Receiver
) -> None:
    """It writes to the same database before it answers: with a transaction open it would wait for it."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        try:
            ScepService.objects.filter(pk=asking.pk).update(pending_days=3)
        finally:
            connection.close()
        says({"allow": True})(handler)

    receiver.answer = answer
    issued(ask(door, router_request(ca_certificate), ca_certificate))
    asking.refresh_from_db()
    assert asking.pending_days == 3


@pytest.mark.parametrize("challenge", [None, "", "x" * 256])
def test_without_a_challenge_nobody_is_asked(
    door: Door, ca_certificate: bytes, asking: ScepService, receiver: Receiver, challenge: str | None
) -> None:
    with nothing_issued():
        reply = ask(door, router_request(ca_certificate, challenge), ca_certificate)
    refused(reply, FailInfo.BAD_REQUEST, "no challenge")
    assert receiver.asked == []


def test_the_same_request_again_does_not_ask_again(
    door: Door, ca_certificate: bytes, asking: ScepService, receiver: Receiver
) -> None:
    sent = router_request(ca_certificate)
    replies = [ask(door, sent, ca_certificate) for _ in range(3)]
    assert len({reply.certificates for reply in replies}) == 1
    assert len(receiver.asked) == 1
    assert Certificate.objects.count() == 1


def test_the_same_request_many_times_at_once_brings_one_certificate(
    ca_certificate: bytes, asking: ScepService, receiver: Receiver
) -> None:
    sent = router_request(ca_certificate)
    barrier = threading.Barrier(webhooks.AT_ONCE)

    def run(_number: int) -> bytes:
        barrier.wait()
        try:
            return Door().post(sent.body).content
        finally:
            connection.close()

    with ThreadPoolExecutor(webhooks.AT_ONCE) as pool:
        replies = [sent.open(body, ca_certificate) for body in pool.map(run, range(webhooks.AT_ONCE))]
    assert {reply.status for reply in replies} == {PkiStatus.SUCCESS}
    assert len({reply.certificates for reply in replies}) == 1
    assert Certificate.objects.count() == 1


def test_a_renewal_is_nobody_elses_business(
    door: Door, ca_certificate: bytes, asking: ScepService, receiver: Receiver
) -> None:
    first = issued(ask(door, router_request(ca_certificate), ca_certificate))
    sent = pkcs_req(csr(rsa_key(2), "old one"), ca_certificate=ca_certificate, identity=holder(first))
    assert issued(ask(door, sent, ca_certificate)).renewed_from == first
    assert len(receiver.asked) == 1


def test_a_challenge_made_here_is_worth_nothing_there(
    door: Door, mint: Mint, ca_certificate: bytes, asking: ScepService, receiver: Receiver
) -> None:
    receiver.answer = says({"allow": False})
    challenge, value = mint()
    with nothing_issued():
        refused(ask(door, router_request(ca_certificate, value), ca_certificate), FailInfo.BAD_REQUEST, "no")
    challenge.refresh_from_db()
    assert challenge.consumed_at is None


# --- the answer ------------------------------------------------------------------------------------------


def test_what_it_allows_is_issued(
    door: Door, ca_certificate: bytes, asking: ScepService, receiver: Receiver
) -> None:
    certificate = issued(ask(door, router_request(ca_certificate), ca_certificate))
    assert certificate.subject == "CN=router 1,O=Example"
    assert certificate.subject_alternative_name == "DNS:router-1.example"
    assert (certificate.purpose, certificate.binding) == ("SERVER_TLS", None)


def test_it_may_say_what_the_certificate_holds(
    door: Door, ca_certificate: bytes, asking: ScepService, receiver: Receiver
) -> None:
    receiver.answer = says(
        {"allow": True, "subject": [["CN", "core"]], "san": [["IP", "192.0.2.1"]], "validity_days": 7}
    )
    certificate = issued(ask(door, router_request(ca_certificate), ca_certificate))
    assert certificate.subject == "CN=core"
    assert certificate.subject_alternative_name == "IP:192.0.2.1"
    assert certificate.not_after == NOW + timedelta(days=7)
    assert certificate.public_key_sha256 == spki_sha256(1)


def spki_sha256(key: int) -> str:
    return hashlib.sha256(public_key_der(rsa_key(key))).hexdigest()


NO = [
    (says({"allow": False}), "said no"),
    (says({}), "said no"),
    (says({"allow": "true"}), "said no"),
    (says({"allow": 1}), "said no"),
    (says({"allow": [True]}), "said no"),
    (says({"Allow": True}), "said no"),
    (says([True]), "not an object"),
    (says(True), "not an object"),
    (says(b""), "not JSON"),
    (says(b"allow"), "not JSON"),
    (says(b"\xff\xfe"), "not JSON"),
    (says(b"[" * 30_000), "not JSON"),
    (says(b'{"allow": true}' + b" " * webhook.MAX_ANSWER), "too large"),
    (says({"allow": True}, 201), "status 201"),
    (says({"allow": True}, 204), "status 204"),
    (says({"allow": True}, 403), "status 403"),
    (says({"allow": True}, 404), "status 404"),
    (says({"allow": True}, 500), "status 500"),
    (says({"allow": True, "subject": "CN=x"}), "not a list of pairs"),
    (says({"allow": True, "subject": [["CN", 1]]}), "not a list of pairs"),
    (says({"allow": True, "subject": [["CN", "x", "y"]]}), "not a list of pairs"),
    (says({"allow": True, "subject": [["CN", "a\nb"]]}), "control characters"),
    (says({"allow": True, "subject": [["XX", "a"]]}), "unknown name attribute"),
    (says({"allow": True, "subject": [], "san": []}), "name nobody"),
    (says({"allow": True, "san": [["DNS", "a b"]]}), "DNS"),
    (says({"allow": True, "validity_days": 0}), "validity_days"),
    (says({"allow": True, "validity_days": True}), "validity_days"),
    (says({"allow": True, "validity_days": 1e9}), "validity_days"),
    (says({"allow": True, "validity_days": "7"}), "validity_days"),
]


@pytest.mark.parametrize(("answer", "reason"), NO, ids=[str(number) for number in range(len(NO))])
def test_anything_else_is_no(
    ca_certificate: bytes, asking: ScepService, receiver: Receiver, answer: Answer, reason: str
) -> None:
    receiver.answer = answer
    with nothing_issued():
        reply = ask(Door(), router_request(ca_certificate), ca_certificate)
    row = refused(reply, FailInfo.BAD_REQUEST, reason)
    assert "made elsewhere" not in repr(row.__dict__)
    assert len(receiver.asked) == 1


def test_a_redirect_is_not_followed(
    door: Door, ca_certificate: bytes, asking: ScepService, receiver: Receiver, certified: Certified
) -> None:
    second = Receiver(certified.context)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(307)
        handler.send_header("Location", second.url)
        handler.end_headers()

    receiver.answer = answer
    with nothing_issued():
        refused(ask(door, router_request(ca_certificate), ca_certificate), FailInfo.BAD_REQUEST, "status 307")
    assert second.asked == []
    second.server.shutdown()
    second.server.server_close()


def never_ending(headers: bool) -> Answer:
    """Drop by drop: each comes in time, and there is no end."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"" if headers else b"\r\n"))
        try:
            while True:
                handler.wfile.write(b"X: y\r\n" if headers else b" ")
                handler.wfile.flush()
                ended.wait(0.02)
        except OSError:
            return

    ended = threading.Event()
    return answer


def silent(handler: BaseHTTPRequestHandler) -> None:
    handler.rfile.read(1)


@pytest.mark.parametrize(
    "answer", [silent, never_ending(True), never_ending(False)], ids=["silent", "headers", "body"]
)
def test_a_slow_receiver_is_not_waited_for(
    ca_certificate: bytes,
    asking: ScepService,
    receiver: Receiver,
    answer: Answer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(webhooks, "SECONDS", 0.5)
    receiver.answer = answer
    with nothing_issued():
        reply = ask(Door(), router_request(ca_certificate), ca_certificate)
    refused(reply, FailInfo.BAD_REQUEST, "could not be asked")


def test_a_receiver_that_hangs_up_or_is_away_allows_nothing(
    door: Door, ca_certificate: bytes, asking: ScepService, receiver: Receiver
) -> None:
    receiver.answer = lambda handler: None
    with nothing_issued():
        reply = ask(door, router_request(ca_certificate), ca_certificate)
        refused(reply, FailInfo.BAD_REQUEST, "could not be asked")
        receiver.server.shutdown()
        receiver.server.server_close()
        reply = ask(door, router_request(ca_certificate), ca_certificate)
        refused(reply, FailInfo.BAD_REQUEST, "could not be asked")


@pytest.mark.parametrize("fault", ["not trusted", "another name"])
def test_a_receiver_that_cannot_prove_who_it_is_is_not_told_the_challenge(
    ca_certificate: bytes,
    asking: ScepService,
    receiver: Receiver,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if fault == "not trusted":
        monkeypatch.delenv("SSL_CERT_FILE")
        webhooks._tls.cache_clear()
    else:
        asking.webhook_url = f"https://127.0.0.2:{receiver.port}/"
        receiver.server.server_address = ("127.0.0.2", receiver.port)
        asking.save()
    with nothing_issued():
        reply = ask(Door(), router_request(ca_certificate), ca_certificate)
    refused(reply, FailInfo.BAD_REQUEST, "could not be asked")
    assert receiver.asked == []


def test_when_too_many_questions_wait_the_client_may_come_again(
    door: Door, ca_certificate: bytes, asking: ScepService, receiver: Receiver
) -> None:
    sent = router_request(ca_certificate)
    taken = [webhooks._places.acquire(blocking=False) for _ in range(webhooks.AT_ONCE)]
    assert all(taken)
    try:
        with nothing_issued():
            response = door.post(sent.body)
    finally:
        for _ in taken:
            webhooks._places.release()
    assert (response.status_code, response.headers["Retry-After"]) == (503, "10")
    assert not Transaction.objects.exists()
    assert Refusal.objects.get().reason == "the webhook is busy"
    issued(ask(door, sent, ca_certificate))


def test_a_permission_may_still_wait_for_an_administrator(
    door: Door, ca_certificate: bytes, asking: ScepService, receiver: Receiver
) -> None:
    asking.approval = ApprovalChoice.ALWAYS
    asking.save()
    receiver.answer = says({"allow": True, "subject": [["CN", "core"]], "validity_days": 9})
    sent = router_request(ca_certificate)
    with nothing_issued():
        row = pending(ask(door, sent, ca_certificate))
        pending(ask(door, sent, ca_certificate))
    assert len(receiver.asked) == 1
    proposal = Proposal(row.proposed_name, row.proposed_alternative_names, row.proposed_days)
    assert proposal == Proposal((("CN", "core"),), (("DNS", "router-1.example"),), 9)
    certificate = approvals.approve(row, proposal, actor=SERVER, now=NOW)
    assert issued(ask(door, sent, ca_certificate)) == certificate
    receiver.answer = says({"allow": False})
    with nothing_issued():
        refused(ask(door, router_request(ca_certificate, key=2), ca_certificate), FailInfo.BAD_REQUEST, "no")


# --- where it may go (threats I1) ------------------------------------------------------------------------

INSIDE = [
    "127.0.0.1", "localhost", "[::1]", "169.254.169.254", "0", "0.0.0.0", "2130706433", "0x7f000001", "127.1",
    "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]", "[fe80::1]", "[fd00::1]", "224.0.0.1", "255.255.255.255", "[::]",
]  # fmt: skip


@pytest.mark.parametrize("host", INSIDE)
def test_nothing_inside_is_called(
    ca_certificate: bytes, asking: ScepService, receiver: Receiver, host: str, settings: Settings
) -> None:
    settings.BRAMLEY_WEBHOOK_NETWORKS = ()
    asking.webhook_url = f"https://{host}:{receiver.port}/"
    asking.save()
    with nothing_issued():
        reply = ask(Door(), router_request(ca_certificate), ca_certificate)
    refused(reply, FailInfo.BAD_REQUEST, "webhook")
    assert receiver.asked == []


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://example.org/", "gopher://127.0.0.1/", "http://example.org/", "https:///x",
     "https://a:b@example.org/", "https://example.org/#x", "https://exa mple.org/", "https://example.org:x/",
     "https://example.org:99999/", "//example.org", "example.org", "", "https://ex\tample.org/",
     "https://example.org\\@127.0.0.1/", "https://[::1/"],
)  # fmt: skip
def test_what_is_no_address_of_a_webhook(url: str) -> None:
    with pytest.raises(AddressRefused):
        webhook.decode_address(url)


def test_what_is_one() -> None:
    assert webhook.decode_address("https://example.org").path == "/"
    assert webhook.decode_address("https://example.org:8443/a?b=c") == webhook.Target(
        "https", "example.org", 8443, "/a?b=c"
    )
    for host in ("localhost", "127.0.0.1", "[::1]"):
        assert webhook.decode_address(f"http://{host}/").port == 80


def test_plain_http_reaches_this_machine_only_and_only_where_it_is_allowed(
    door: Door, ca_certificate: bytes, asking: ScepService, settings: Settings
) -> None:
    plain = Receiver(Unchanged())  # type: ignore[arg-type]
    asking.webhook_url = f"http://127.0.0.1:{plain.port}/"
    asking.save()
    issued(ask(door, router_request(ca_certificate), ca_certificate))
    settings.BRAMLEY_WEBHOOK_NETWORKS = ()
    with nothing_issued():
        reply = ask(door, router_request(ca_certificate, key=2), ca_certificate)
    refused(reply, FailInfo.BAD_REQUEST, "not allowed by the operator")
    assert len(plain.asked) == 1
    plain.server.shutdown()
    plain.server.server_close()


class Unchanged:
    """In place of a TLS context: none."""

    def wrap_socket(self, plain: socket.socket, **_options: object) -> socket.socket:
        return plain


def test_the_address_that_was_looked_at_is_the_one_that_is_called(
    door: Door,
    ca_certificate: bytes,
    asking: ScepService,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name server that answers something else the second time is not asked a second time."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def rebinding(host: str, port: int, *args: Any, **options: Any) -> Any:
        if host != "localhost":
            return real(host, port, *args, **options)
        asked.append(host)
        return real("127.0.0.1" if len(asked) == 1 else "169.254.169.254", port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    issued(ask(door, router_request(ca_certificate), ca_certificate))
    assert asked == ["localhost"]


@pytest.mark.parametrize("addresses", [["93.184.215.14", "127.0.0.1"], ["127.0.0.1", "93.184.215.14"], []])
def test_a_name_that_also_points_inside_is_not_called(addresses: list[str]) -> None:
    with pytest.raises(AddressRefused):
        webhook.verify_reachable(addresses, allowed=())


def test_public_addresses_and_allowed_ones() -> None:
    allowed = (ip_network("10.1.0.0/16"),)
    assert webhook.verify_reachable(["93.184.215.14"], allowed=()) == "93.184.215.14"
    assert webhook.verify_reachable(["2606:2800:21f:cb07::1"], allowed=()) == "2606:2800:21f:cb07::1"
    assert webhook.verify_reachable(["10.1.2.3"], allowed=allowed) == "10.1.2.3"
    for address in ("10.2.0.1", "::ffff:10.2.0.1", "fe80::1%eth0"):
        with pytest.raises(AddressRefused):
            webhook.verify_reachable([address], allowed=allowed)


def test_a_name_that_nobody_knows(door: Door, ca_certificate: bytes, asking: ScepService) -> None:
    asking.webhook_url = "https://nobody.invalid/"
    asking.save()
    with nothing_issued():
        reply = ask(door, router_request(ca_certificate), ca_certificate)
    refused(reply, FailInfo.BAD_REQUEST, "could not be asked")


# --- secrets ---------------------------------------------------------------------------------------------


def test_the_secret_is_sealed_and_stays(issuer: Issuer, receiver: Receiver, asking: ScepService) -> None:
    secret = webhooks.secret(asking)
    assert secret.startswith("whsec_")
    assert base64.b64decode(secret[6:]) not in bytes(asking.webhook_secret_sealed or b"")
    services.save(asking, actor=SERVER)
    asking.refresh_from_db()
    assert webhooks.secret(asking) == secret
    webhooks.give_secret(asking)
    assert webhooks.secret(asking) != secret
    assert webhooks.secret(ScepService()) == ""


def test_inside_a_transaction_nobody_is_asked(asking: ScepService, receiver: Receiver) -> None:
    with transaction.atomic(), pytest.raises(AssertionError, match="no network inside a transaction"):
        webhooks.ask(asking, QUESTION)
    assert receiver.asked == []


QUESTION = Question("s", "c", "t", b"csr", (("CN", "x"),), (), "192.0.2.1")


@given(st.binary(max_size=200))
def test_any_answer_is_a_permission_or_refused(body: bytes) -> None:
    with pytest.raises(AnswerRefused):
        webhook.decode_answer(body, QUESTION)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(JSON, JSON, JSON)
def test_any_json_is_a_permission_or_refused(subject: Any, san: Any, days: Any) -> None:
    body = json.dumps({"allow": True, "subject": subject, "san": san, "validity_days": days}).encode()
    try:
        permission = webhook.decode_answer(body, QUESTION)
    except AnswerRefused:
        return
    assert permission.subject or permission.san


def test_the_challenge_is_not_in_a_repr() -> None:
    assert "'c'" not in repr(QUESTION)
