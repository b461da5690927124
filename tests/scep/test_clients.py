"""Clients that nobody here wrote, against the running product: strongSwan, certmonger, micromdm's."""

from __future__ import annotations

import http.client
import json
import secrets
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from django.utils import timezone

from pki.core.csr import encode_signing_request
from scep.core import message, wire
from scep.core.attributes import MessageType, PkiStatus
from tests.scep.support import rsa_key
from tests.support.processes import wait_until
from tests.support.server import ROOT, RunningServer

pytestmark = [pytest.mark.clients, pytest.mark.once]

CERTMONGER = "/usr/lib/certmonger/certmonger-session"


def program(name: str) -> str:
    """The path of a program, or the test is skipped."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(*command: str | Path, cwd: Path, environment: Mapping[str, str] | None = None) -> str:
    """Run it to its end; its output. The test fails with that output where the program does."""
    ran = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


class Issuer:
    """The running product as its administrator sees it."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.url = f"{server.url}/scep/"

    def mint(self, common_name: str) -> str:
        """A challenge for one certificate, made by the command."""
        command = [sys.executable, "manage.py", "scep_challenge", "--cn", common_name, "--json"]
        rows = json.loads(run(*command, cwd=ROOT, environment=self.server.environment))
        assert [row["subject"] for row in rows] == [f"CN={common_name}"]
        return str(rows[0]["challenge"])

    def save_root(self, folder: Path) -> Path:
        """The CA certificate as a PEM file, as GetCACert gives it."""
        with urlopen(f"{self.url}?operation=GetCACert") as answer:
            certificate = x509.load_der_x509_certificate(answer.read())
        path = folder / "root.pem"
        path.write_bytes(certificate.public_bytes(Encoding.PEM))
        return path

    def by_hand(self, slug: str, *more: str) -> str:
        """The address of a service at which an administrator approves each request."""
        self.server.manage(
            "scep_service", "create", slug, "--challenge", "none", "--approval", "always", *more
        )
        return f"{self.server.url}/scep/{slug}/"

    def waiting(self, slug: str) -> dict[str, Any]:
        """The one request that waits there, once it does."""
        found: list[dict[str, Any]] = []

        def arrived() -> bool:
            said = self.server.manage(
                "scep_transaction", "list", "--status", "pending", "--service", slug, "--json"
            )
            found[:] = json.loads(said.stdout)
            return bool(found)

        wait_until("a request waits", arrived, seconds=60)
        (row,) = found
        return row

    def approve(self, slug: str, *more: str) -> None:
        self.server.manage("scep_transaction", "approve", str(self.waiting(slug)["id"]), *more)

    def reject(self, slug: str, reason: str) -> None:
        row = self.waiting(slug)
        self.server.manage("scep_transaction", "reject", str(row["id"]), "--reason", reason)

    def last_transaction(self) -> dict[str, str]:
        """What the administrator can read of the last request."""
        with sqlite3.connect(f"file:{self.server.home}/bramley.sqlite3?mode=ro", uri=True) as database:
            database.row_factory = sqlite3.Row
            row = database.execute("SELECT * FROM scep_transaction ORDER BY id DESC LIMIT 1").fetchone()
        return dict(row)


@pytest.fixture(scope="module")
def issuer(running_server: RunningServer) -> Issuer:
    return Issuer(running_server)


def subject_of(path: Path) -> str:
    return x509.load_pem_x509_certificate(path.read_bytes()).subject.rfc4514_string()


def openssl_verifies(certificate: Path, root: Path) -> None:
    """openssl builds and checks the path, for a TLS client."""
    run("openssl", "verify", "-purpose", "sslclient", "-CAfile", root, certificate, cwd=root.parent)


# --- strongSwan --------------------------------------------------------------------------------------------


class StrongSwan:
    """``pki --scepca`` and ``pki --scep`` in a folder of its own."""

    def __init__(self, issuer: Issuer, folder: Path) -> None:
        self.issuer, self.folder, self.pki = issuer, folder, program("pki")
        self.root = folder / "ca.crt"
        run(self.pki, "--scepca", "--url", issuer.url, "--caout", "ca.crt", "--outform", "pem", cwd=folder)

    def key(self, name: str) -> str:
        made = run(self.pki, "--gen", "--type", "rsa", "--size", "2048", "--outform", "pem", cwd=self.folder)
        (self.folder / name).write_text(made)
        return name

    def enrol(self, key: str, out: str, *options: str) -> Path:
        answer = run(
            self.pki, "--scep", "--url", self.issuer.url, "--in", key, "--dn", "C=US, O=t, CN=d1",
            "--cacert-enc", "ca.crt", "--cacert-sig", "ca.crt", "--cacert", "ca.crt", "--outform", "pem",
            *options, cwd=self.folder,
        )  # fmt: skip
        path = self.folder / out
        path.write_text(answer)
        return path


@pytest.fixture
def strongswan(issuer: Issuer, tmp_path: Path) -> StrongSwan:
    return StrongSwan(issuer, tmp_path)


def test_strongswan_fetches_the_ca_certificate(strongswan: StrongSwan) -> None:
    assert strongswan.root.read_bytes() == strongswan.issuer.save_root(strongswan.folder).read_bytes()


@pytest.mark.parametrize("cipher", ["aes", "des3"])
@pytest.mark.parametrize("digest", ["sha256", "sha512"])
def test_strongswan_enrols(strongswan: StrongSwan, cipher: str, digest: str) -> None:
    value = strongswan.issuer.mint(f"swan {cipher} {digest}")
    certificate = strongswan.enrol(
        strongswan.key("key.pem"), "cert.pem", "--password", value, "--cipher", cipher, "--digest", digest,
        "--san", "d1.example",
    )  # fmt: skip
    assert subject_of(certificate) == f"CN=swan {cipher} {digest}"
    openssl_verifies(certificate, strongswan.root)
    row = strongswan.issuer.last_transaction()
    assert (row["message_type"], row["status"], row["digest"]) == ("PKCSReq", "SUCCESS", digest)
    assert row["cipher"] == {"aes": "aes128_cbc", "des3": "des_ede3_cbc"}[cipher]


@pytest.mark.parametrize("cipher", ["aes", "des3"])
def test_strongswan_renews(strongswan: StrongSwan, cipher: str) -> None:
    """RenewalReq: signed by the certificate in force, for a new key."""
    value = strongswan.issuer.mint("swan to renew")
    first = strongswan.enrol(strongswan.key("key.pem"), "cert.pem", "--password", value)
    second = strongswan.enrol(
        strongswan.key("new.pem"),
        "new-cert.pem",
        "--cert",
        "cert.pem",
        "--key",
        "key.pem",
        "--cipher",
        cipher,
    )
    assert subject_of(second) == "CN=swan to renew"
    certificates = [x509.load_pem_x509_certificate(path.read_bytes()) for path in (first, second)]
    assert certificates[0].public_key() != certificates[1].public_key()
    openssl_verifies(second, strongswan.root)
    row = strongswan.issuer.last_transaction()
    assert (row["message_type"], row["status"]) == ("RenewalReq", "SUCCESS")


def test_strongswan_is_told_why_it_is_refused(strongswan: StrongSwan) -> None:
    with pytest.raises(AssertionError, match="badRequest"):
        strongswan.enrol(strongswan.key("key.pem"), "cert.pem", "--password", "guessed")
    assert strongswan.issuer.last_transaction()["reason"] == "unknown challenge password"


def test_strongswan_cannot_use_a_challenge_again(strongswan: StrongSwan) -> None:
    value = strongswan.issuer.mint("swan once")
    strongswan.enrol(strongswan.key("key.pem"), "cert.pem", "--password", value)
    with pytest.raises(AssertionError, match="badRequest"):
        strongswan.enrol(strongswan.key("other.pem"), "other-cert.pem", "--password", value)
    assert "used before" in strongswan.issuer.last_transaction()["reason"]


class Waiting:
    """``pki --scep`` at a service that approves by hand: it polls each second until there is an answer."""

    def __init__(self, strongswan: StrongSwan, url: str, *options: str) -> None:
        self.process = subprocess.Popen(
            [
                strongswan.pki, "--scep", "--url", url, "--in", strongswan.key("wait.pem"),
                "--dn", "C=US, O=t, CN=d1", "--san", "d1.example", "--interval", "1", "--maxpolltime", "90",
                "--cacert-enc", "ca.crt", "--cacert-sig", "ca.crt", "--cacert", "ca.crt", "--outform", "pem",
                *options,
            ],
            cwd=strongswan.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def end(self) -> tuple[int, str, str]:
        """Exit code and what it printed, once it ended."""
        try:
            out, complaints = self.process.communicate(timeout=120)
        finally:
            self.process.kill()
        return self.process.returncode, out, complaints


@pytest.mark.parametrize("cipher", ["aes", "des3"])
def test_strongswan_polls_until_it_is_approved(strongswan: StrongSwan, cipher: str) -> None:
    """PKCSReq without a challenge, PENDING, CertPoll, and what the administrator approved."""
    slug = f"swan-{cipher}"
    client = Waiting(strongswan, strongswan.issuer.by_hand(slug), "--cipher", cipher)
    row = strongswan.issuer.waiting(slug)
    assert (row["subject"], row["names"]) == ("CN=d1,O=t,C=US", "DNS:d1.example")
    strongswan.issuer.approve(slug, "--subject", "CN=approved")
    code, out, complaints = client.end()
    assert code == 0, complaints
    certificate = strongswan.folder / "approved.pem"
    certificate.write_text(out)
    assert subject_of(certificate) == "CN=approved"
    run(
        "openssl", "verify", "-purpose", "sslserver", "-CAfile", strongswan.root, certificate,
        cwd=strongswan.folder,
    )  # fmt: skip
    kept = strongswan.issuer.last_transaction()
    assert (kept["message_type"], kept["status"], kept["decided_by"]) == (
        "PKCSReq",
        "SUCCESS",
        "command line",
    )
    assert int(kept["repeats"]) >= 1, "it polled"


def test_strongswan_polls_until_it_is_rejected(strongswan: StrongSwan) -> None:
    client = Waiting(strongswan, strongswan.issuer.by_hand("swan-no"))
    strongswan.issuer.reject("swan-no", "nobody knows it")
    code, out, complaints = client.end()
    assert code != 0
    assert "BEGIN CERTIFICATE" not in out
    assert "badRequest" in complaints
    assert strongswan.issuer.last_transaction()["reason"] == "rejected: nobody knows it"


def test_strongswan_enrols_through_an_ra_certificate(strongswan: StrongSwan) -> None:
    """GetCACert in the form of a list; the client finds the RA by its role, and it signs the reply."""
    issuer, folder = strongswan.issuer, strongswan.folder
    issuer.server.manage("scep_service", "create", "ra", "--ra-certificate", "on")
    url = f"{issuer.server.url}/scep/ra/"
    run(
        strongswan.pki, "--scepca", "--url", url, "--caout", "ra-ca.crt", "--raout", "ra.crt",
        "--outform", "pem", cwd=folder,
    )  # fmt: skip
    out = run(
        strongswan.pki, "--scep", "--url", url, "--in", strongswan.key("k.pem"), "--dn", "CN=x",
        "--password", issuer.mint("through ra"), "--cacert-enc", "ra.crt", "--cacert-sig", "ra.crt",
        "--cacert", "ra-ca.crt", "--outform", "pem", cwd=folder,
    )  # fmt: skip
    (folder / "cert.pem").write_text(out)
    assert subject_of(folder / "cert.pem") == "CN=through ra"
    openssl_verifies(folder / "cert.pem", folder / "ra-ca.crt")


# --- certmonger --------------------------------------------------------------------------------------------

# certmonger believes a CA that is its own root where it is told so (-N); it asks by GET.
CERTMONGER_SESSION = f"""
{CERTMONGER} -n -d 1 > certmonger.log 2>&1 &
daemon=$!
trap 'kill $daemon; wait $daemon' EXIT
for try in $(seq 50); do getcert list-cas -s > /dev/null 2>&1 && break; sleep 0.2; done
getcert add-scep-ca -s -c bramley -u "$1" -N "$PWD/root.pem" || exit 1
getcert request -s -c bramley -k "$PWD/key.pem" -f "$PWD/cert.pem" -N CN=d1 -L "$2" -I one -w
getcert list -s -i one
[ "$3" = rekey ] || exit 0
cp cert.pem first.pem
getcert rekey -s -i one -w
getcert list -s -i one
"""


def certmonger(issuer: Issuer, folder: Path, value: str, *more: str) -> str:
    session = program("dbus-run-session")
    if not Path(CERTMONGER).exists():
        pytest.skip("certmonger is not installed")
    issuer.save_root(folder)
    environment = {"HOME": str(folder), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    return run(
        session, "--", "bash", "-c", CERTMONGER_SESSION, "certmonger", issuer.url, value, *more,
        cwd=folder, environment=environment,
    )  # fmt: skip


def test_certmonger_enrols_by_get_and_renews(issuer: Issuer, tmp_path: Path) -> None:
    """PKIOperation by GET with AES-256; its renewal is a PKCSReq signed by the old certificate."""
    said = certmonger(issuer, tmp_path, issuer.mint("certmonger"), "rekey")
    assert said.count("status: MONITORING") == 2, said
    first, second = tmp_path / "first.pem", tmp_path / "cert.pem"
    for certificate in (first, second):
        assert subject_of(certificate) == "CN=certmonger"
        openssl_verifies(certificate, tmp_path / "root.pem")
    assert first.read_bytes() != second.read_bytes()
    row = issuer.last_transaction()
    assert (row["message_type"], row["status"], row["cipher"]) == ("PKCSReq", "SUCCESS", "aes256_cbc")
    assert row["signer_subject"] == "CN=certmonger"
    assert row["challenge_id"] is not None, "the used challenge that it sent along is noted"


def test_certmonger_is_refused_without_a_challenge_of_ours(issuer: Issuer, tmp_path: Path) -> None:
    said = certmonger(issuer, tmp_path, "guessed")
    assert "status: CA_REJECTED" in said, said
    assert issuer.last_transaction()["reason"] == "unknown challenge password"


# It asks without waiting (no -w), and is told to ask again each second until it says that it has an answer.
CERTMONGER_POLLS = f"""
{CERTMONGER} -n -d 1 > certmonger.log 2>&1 &
daemon=$!
trap 'kill $daemon; wait $daemon' EXIT
for try in $(seq 50); do getcert list-cas -s > /dev/null 2>&1 && break; sleep 0.2; done
getcert add-scep-ca -s -c bramley -u "$1" -N "$PWD/root.pem" || exit 1
getcert request -s -c bramley -k "$PWD/key.pem" -f "$PWD/cert.pem" -N CN=d1 -D d1.example -I one
for try in $(seq 60); do
    getcert list -s -i one | grep -q 'status: CA_WORKING' && touch working
    getcert list -s -i one | grep -qE 'status: (MONITORING|CA_REJECTED)' && break
    getcert refresh -s -i one > /dev/null 2>&1
    sleep 1
done
getcert list -s -i one
"""


def certmonger_waits(issuer: Issuer, folder: Path, url: str) -> subprocess.Popen[str]:
    session = program("dbus-run-session")
    if not Path(CERTMONGER).exists():
        pytest.skip("certmonger is not installed")
    issuer.save_root(folder)
    environment = {"HOME": str(folder), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    return subprocess.Popen(
        [session, "--", "bash", "-c", CERTMONGER_POLLS, "certmonger", url],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("approve", [True, False], ids=["approved", "rejected"])
def test_certmonger_waits_for_an_administrator(issuer: Issuer, tmp_path: Path, approve: bool) -> None:
    """It sends the identical request again while it is pending."""
    slug = f"certmonger-{'yes' if approve else 'no'}"
    client = certmonger_waits(issuer, tmp_path, issuer.by_hand(slug))
    try:
        row = issuer.waiting(slug)
        assert (row["subject"], row["names"]) == ("CN=d1", "DNS:d1.example")
        wait_until("it says that the CA is working", (tmp_path / "working").exists, seconds=60)
        if approve:
            issuer.approve(slug)
        else:
            issuer.reject(slug, "no")
        said, _nothing = client.communicate(timeout=120)
    finally:
        client.kill()
    assert ("status: MONITORING" if approve else "status: CA_REJECTED") in said, said
    assert (tmp_path / "cert.pem").exists() is approve
    if approve:
        assert subject_of(tmp_path / "cert.pem") == "CN=d1"
    kept = issuer.last_transaction()
    assert kept["status"] == ("SUCCESS" if approve else "FAILURE")
    assert int(kept["repeats"]) >= 1


# --- micromdm's scepclient ---------------------------------------------------------------------------------


def test_scepclient_encrypts_with_des_and_is_refused(issuer: Issuer, tmp_path: Path) -> None:
    client = program("scepclient")
    value = issuer.mint("go")
    ran = subprocess.run(
        [client, "-private-key", "key.pem", "-server-url", issuer.url, "-challenge", value, "-cn", "d1"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode != 0
    assert "badAlg" in ran.stdout + ran.stderr
    assert not (tmp_path / "client.pem").exists()
    row = issuer.last_transaction()
    assert (row["fail_info"], row["reason"]) == (
        "badAlg",
        "content encryption algorithm DES is not supported",
    )


# --- HTTP as it comes over a socket -------------------------------------------------------------------------


def test_a_body_in_chunks_and_a_long_address_arrive(issuer: Issuer, tmp_path: Path) -> None:
    """Chunked bodies have no length, and a message by GET is longer than usual limits of a request line."""
    with urlopen(f"{issuer.url}?operation=GetCACert") as answer:
        ca_certificate = answer.read()
    now = timezone.now()
    for number, by_get in enumerate((False, True)):
        value = issuer.mint(f"socket {number}")
        key = rsa_key(60 + number, 4096)
        identity = message.self_signed(key, "client", serial_number=1, now=now)
        nonce = secrets.token_bytes(16)
        body = message.encode_request(
            encode_signing_request(subject=(("CN", "x"),), private_key=key, challenge_password=value),
            message_type=MessageType.PKCS_REQ,
            transaction_id=message.transaction_id_of(key),
            sender_nonce=nonce,
            signer=identity,
            recipient=ca_certificate,
            random=secrets.token_bytes,
            now=now,
        )
        connection = http.client.HTTPConnection("127.0.0.1", issuer.server.port, timeout=30)
        if by_get:
            query = wire.encode_query("PKIOperation", body)
            assert len(query) > 4094
            connection.request("GET", f"/scep/?{query}")
        else:
            parts = iter([body[:100], body[100:]])
            connection.request("POST", "/scep/?operation=PKIOperation", parts, encode_chunked=True,
                               headers={"Transfer-Encoding": "chunked"})  # fmt: skip
        response = connection.getresponse()
        assert response.status == 200
        reply = message.open_reply(
            response.read(),
            ca_certificate=ca_certificate,
            identity=identity,
            transaction_id=message.transaction_id_of(key),
            sender_nonce=nonce,
            random=secrets.token_bytes,
        )
        connection.close()
        assert reply.status is PkiStatus.SUCCESS
