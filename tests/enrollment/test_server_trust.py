"""What a device makes of the chain that a server shows, rule by rule, and over real connections."""

from __future__ import annotations

import ipaddress
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from django.core.management import CommandError, call_command
from django.utils import timezone

from audit.recording import SERVER
from enrollment import tls_check
from enrollment.models import EnrollmentProfile
from pki import issuers, server_tls
from pki.core.certificates import encode_pem
from pki.core.server_trust import Anchor, Known, Level, Roots, judge
from pki.public_roots import public_roots

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
HOST = "mdm.example.com"


@dataclass(frozen=True)
class Party:
    der: bytes
    key: Any


@lru_cache
def key_of(name: str, bits: int = 0) -> Any:
    return rsa.generate_private_key(65537, bits) if bits else ec.generate_private_key(ec.SECP256R1())


def make(
    name: str,
    issuer: Party | None = None,
    *,
    is_ca: bool = True,
    names: tuple[str, ...] = (),
    addresses: tuple[str, ...] = (),
    days: tuple[int, int] = (-10, 300),
    bits: int = 0,
    usage: bool = True,
    path_length: int | None = None,
    now: datetime = NOW,
) -> Party:
    key = key_of(name, bits)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    above = x509.load_der_x509_certificate(issuer.der).subject if issuer else subject
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(above)
        .serial_number(x509.random_serial_number())
        .public_key(key.public_key())
        .not_valid_before(now + days[0] * DAY)
        .not_valid_after(now + days[1] * DAY)
        .add_extension(x509.BasicConstraints(is_ca, path_length if is_ca else None), critical=True)
    )
    if named := [*map(x509.DNSName, names), *(x509.IPAddress(_ip(one)) for one in addresses)]:
        builder = builder.add_extension(x509.SubjectAlternativeName(named), critical=False)
    if usage and not is_ca:
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
    certificate = builder.sign(issuer.key if issuer else key, hashes.SHA256())
    return Party(certificate.public_bytes(Encoding.DER), key)


def _ip(text: str) -> Any:
    return ipaddress.ip_address(text)


@pytest.fixture(scope="module")
def root() -> Party:
    return make("Root", days=(-1000, 3000))


@pytest.fixture(scope="module")
def middle(root: Party) -> Party:
    return make("Middle", root, days=(-500, 1500))


def leaf(issuer: Party, **options: Any) -> Party:
    return make("server", issuer, is_ca=False, **{"names": (HOST,), **options})


def judged(
    *shown: Party,
    public: tuple[Party, ...] = (),
    given: tuple[Party, ...] = (),
    ours: tuple[Party, ...] = (),
    host: str = HOST,
) -> tuple[Anchor, dict[str, str]]:
    """What it ends in, and the findings that are not good."""
    known = Known(*(Roots(one.der for one in parties) for parties in (public, given, ours)))
    made = judge([one.der for one in shown], known, host=host, now=NOW)
    found = {finding.code: str(finding.level) for finding in made.findings if finding.level is not Level.GOOD}
    assert made.believed is ("bad" not in found.values())
    return made.anchor, found


# What the chain ends in


def test_a_public_root_needs_nothing(root: Party, middle: Party) -> None:
    assert judged(leaf(middle), middle, public=(root,)) == (Anchor.PUBLIC, {})
    assert judged(leaf(middle), middle, root, public=(root,), given=(root,)) == (Anchor.PUBLIC, {})


def test_a_private_root_counts_where_the_profile_brings_it(root: Party, middle: Party) -> None:
    other = make("Other")
    server = leaf(middle)
    assert judged(server, middle, public=(other,), given=(root,)) == (Anchor.IN_PROFILE, {})
    assert judged(server, middle, root, public=(other,)) == (Anchor.PRIVATE, {"root_not_in_profile": "bad"})
    assert judged(server, middle, public=(other,)) == (Anchor.NONE, {"issuer_missing": "bad"})
    assert judged(server, middle, ours=(root,)) == (Anchor.NONE, {"our_root_not_in_profile": "bad"})


def test_an_impostor_of_the_root_does_not_count(root: Party, middle: Party) -> None:
    impostor = make("Root", bits=2048)
    assert judged(leaf(middle), middle, public=(impostor,))[1] == {"issuer_missing": "bad"}


def test_an_intermediate_that_is_not_shown(root: Party, middle: Party) -> None:
    server = leaf(middle)
    assert judged(server, public=(root,)) == (Anchor.NONE, {"issuer_missing": "bad"})
    assert judged(server, root, public=(root,)) == (Anchor.NONE, {"issuer_missing": "bad"})
    assert judged(server, public=(root,), ours=(middle,)) == (Anchor.NONE, {"our_ca_not_shown": "bad"})


def test_what_is_shown_too_much_or_in_disorder_does_no_harm(root: Party, middle: Party) -> None:
    assert judged(leaf(middle), root, make("Stranger"), middle, public=(root,)) == (Anchor.PUBLIC, {})


def test_a_server_that_signed_itself() -> None:
    own = make("own", is_ca=False, names=(HOST,))
    assert judged(own) == (Anchor.NONE, {"self_signed": "bad"})
    assert judged() == (Anchor.NONE, {"no_certificate": "bad"})


def test_the_valid_way_is_taken_where_there_are_two(root: Party, middle: Party) -> None:
    ended = make("Middle", root, days=(-500, -1))
    assert judged(leaf(middle), ended, middle, public=(root,)) == (Anchor.PUBLIC, {})
    assert judged(leaf(middle), ended, public=(root,)) == (Anchor.PUBLIC, {"expired": "bad"})


# The certificate


@pytest.mark.parametrize(
    ("options", "host", "found"),
    [
        ({"names": ("other.example.com",)}, HOST, {"other_name": "bad"}),
        ({"names": ("*.example.com",)}, HOST, {}),
        ({"names": ("*.example.com",)}, "a.b.example.com", {"other_name": "bad"}),
        ({"names": ("*.example.com",)}, "example.com", {"other_name": "bad"}),
        ({"names": ("*.com",)}, "example.com", {"other_name": "bad"}),
        ({"names": ("MDM.example.com",)}, HOST, {}),
        ({"names": ()}, HOST, {"no_alternative_name": "bad"}),
        ({"names": ("192.0.2.7",)}, "192.0.2.7", {"other_name": "bad"}),
        ({"names": (), "addresses": ("192.0.2.7",)}, "192.0.2.7", {}),
        ({"names": (), "addresses": ("2001:db8::7",)}, "2001:db8::7", {}),
        ({"days": (-300, -1)}, HOST, {"expired": "bad"}),
        ({"days": (1, 30)}, HOST, {"not_yet_valid": "bad"}),
        ({"days": (-300, 29)}, HOST, {"expires_soon": "wait"}),
        ({"usage": False}, HOST, {"not_for_servers": "bad"}),
        ({"bits": 1024}, HOST, {"short_key": "bad"}),
        ({"bits": 2048}, HOST, {}),
        ({"days": (-10, 388)}, HOST, {}),
        ({"days": (-10, 389)}, HOST, {"valid_too_long": "bad"}),
    ],
)
def test_the_certificate_of_the_server(
    root: Party, options: dict[str, Any], host: str, found: dict[str, str]
) -> None:
    assert judged(leaf(root, **options), public=(root,), host=host) == (Anchor.PUBLIC, found)


def test_a_private_root_may_certify_for_longer(root: Party) -> None:
    assert judged(leaf(root, days=(-10, 815)), given=(root,))[1] == {}
    assert judged(leaf(root, days=(-10, 816)), given=(root,))[1] == {"valid_too_long": "bad"}


def test_sha1_is_refused_below_the_root(tmp_path: Path) -> None:
    """openssl makes it: nothing else here does so any more."""

    def run(arguments: str) -> None:
        subprocess.run(["openssl", *arguments.split()], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "ext").write_text(f"subjectAltName=DNS:{HOST}\nextendedKeyUsage=serverAuth\n")
    run("req -x509 -newkey rsa:2048 -nodes -sha1 -subj /CN=Old -days 90 -keyout ca.key -out ca.pem")
    run("req -newkey rsa:2048 -nodes -subj /CN=server -keyout leaf.key -out leaf.csr")
    run("x509 -req -sha1 -in leaf.csr -CA ca.pem -CAkey ca.key -days 80 -extfile ext -out leaf.pem")
    parties = [
        Party(x509.load_pem_x509_certificate((tmp_path / name).read_bytes()).public_bytes(Encoding.DER), None)
        for name in ("leaf.pem", "ca.pem")
    ]
    known = Known(Roots([]), Roots([parties[1].der]), Roots([]))
    made = judge([parties[0].der], known, host=HOST, now=datetime.now(UTC))
    assert [finding.code for finding in made.findings if finding.level is Level.BAD] == ["weak_signature"]


def test_bytes_that_are_no_certificate_are_a_finding() -> None:
    known = Known(Roots([]), Roots([]), Roots([]))
    assert [finding.code for finding in judge([b"0\x00"], known, host=HOST, now=NOW).findings] == [
        "unreadable"
    ]


# Over a real connection


@contextmanager
def serving(folder: Path, *shown: Party, answer: bytes = b"") -> Iterator[str]:
    """A TLS server with the key of the first; answers every request the same. Gives its address."""
    file = folder / "server.pem"
    key = shown[0].key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(key + "".join(encode_pem(one.der) for one in shown).encode())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                plain, _peer = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(plain, server_side=True) as connection:
                    if answer and connection.recv(4096):
                        connection.sendall(answer)
            except OSError:
                continue

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def at_home(issuer: Party | None = None, **options: Any) -> Party:
    made = {"names": (), "addresses": ("127.0.0.1",), "now": timezone.now(), **options}
    return make("home", issuer, is_ca=False, **made)


def page(der: bytes, status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(der)}\r\nConnection: close\r\n\r\n"
    return head.encode() + der


def codes(url: str) -> dict[str, str]:
    return {one.code: str(one.level) for one in tls_check.check(url, now=timezone.now()).sentences}


@pytest.mark.django_db
def test_this_server_behind_a_private_root(
    profile: EnrollmentProfile, root: Party, tmp_path: Path, settings: Any
) -> None:
    root = make("Home Root", now=timezone.now(), days=(-10, 3000))
    ca = issuers.chain(profile.issuer)[0]
    with serving(tmp_path, at_home(root), root, answer=page(ca)) as url:
        settings.BRAMLEY_PUBLIC_URL = url
        assert codes(url) == {"root_not_in_profile": "bad"}
        server_tls.add_anchor(encode_pem(root.der).encode(), actor=SERVER, now=timezone.now())
        assert codes(url) == {"root_in_profile": "good"}
        (checked,) = tls_check.check_all(now=timezone.now())
        assert (checked.believed, checked.root, checked.protocol) == (True, root.der, "TLSv1.3")


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", "no_answer"),
        (page(b"no certificate"), "another_server"),
        (b"no HTTP at all\r\n\r\n", "no_answer"),
        (b"", "no_answer"),
    ],
    ids=["redirect", "other page", "no http", "nothing"],
)
def test_somebody_else_at_our_address(
    profile: EnrollmentProfile, tmp_path: Path, settings: Any, answer: bytes, found: str
) -> None:
    root = make("Home Root", now=timezone.now(), days=(-10, 3000))
    server_tls.add_anchor(encode_pem(root.der).encode(), actor=SERVER, now=timezone.now())
    with serving(tmp_path, at_home(root), answer=answer) as url:
        settings.BRAMLEY_PUBLIC_URL = url
        assert set(codes(url)) == {"root_in_profile", found}


@pytest.mark.django_db
def test_openssl_has_the_last_word(issuer: Any, tmp_path: Path) -> None:
    """A path that is one CA too long: what is judged here is each certificate, not how many."""
    now = timezone.now()
    root = make("Short Root", now=now, days=(-10, 3000), path_length=0)
    middle = make("Home Middle", root, now=now, days=(-10, 2000))
    server_tls.add_anchor(encode_pem(root.der).encode(), actor=SERVER, now=now)
    with serving(tmp_path, at_home(middle), middle) as url:
        assert codes(url) == {"root_in_profile": "good", "path_refused": "bad"}


@pytest.mark.django_db
def test_what_cannot_be_opened(issuer: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert codes("http://127.0.0.1:8000") == {"not_https": "bad"}
    assert codes(f"https://127.0.0.1:{port}") == {"not_reached_connect": "bad"}
    assert codes("https://does-not-exist.invalid") == {"not_reached_address": "bad"}


def test_mozillas_roots_are_there() -> None:
    isrg = "ISRG Root X1"
    roots = public_roots()
    held = [one for found in roots._by_subject.values() for one in found]
    assert len(held) > 100
    assert any(isrg.encode() in der for der in held)


@pytest.mark.django_db
def test_the_command_says_so_and_ends_with_1(
    profile: EnrollmentProfile, tmp_path: Path, settings: Any
) -> None:
    root = make("Home Root", now=timezone.now(), days=(-10, 3000))
    with serving(tmp_path, at_home(root), answer=page(issuers.chain(profile.issuer)[0])) as url:
        settings.BRAMLEY_PUBLIC_URL = url
        told, kept = StringIO(), StringIO()
        with pytest.raises(CommandError, match="Devices will not trust"):
            call_command("check_tls", stdout=told)
        assert "NO   The way to a root ends at" in told.getvalue()
        server_tls.add_anchor(encode_pem(root.der).encode(), actor=SERVER, now=timezone.now())
        call_command("check_tls", "--json", stdout=kept)
        (report,) = json.loads(kept.getvalue())
        assert (report["url"], report["believed"], report["anchor"]) == (url, True, "in_profile")
        assert [finding["code"] for finding in report["findings"]] == ["root_in_profile"]
