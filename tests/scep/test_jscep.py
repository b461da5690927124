"""jscep, the SCEP library for Java, against the running product: enrol, renew, poll, fetch, roll over."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from tests.scep.test_clients import Issuer, openssl_verifies, run, subject_of
from tests.support.server import RunningServer

pytestmark = [pytest.mark.clients, pytest.mark.once, pytest.mark.slow]

HERE = Path(__file__).parent / "jscep"
SUBJECT = "CN=d1,O=Example"
NEEDED = ("java", "javac", "mvn")


@pytest.fixture(scope="session")
def libraries() -> Path:
    """jscep and what it stands on, as Maven brings them; kept outside the repository."""
    for name in NEEDED:
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bramley-tests" / "jscep-2.5.8"
    if not list(cache.glob("jscep-2.5.8.jar")):
        cache.mkdir(parents=True, exist_ok=True)
        fetched = subprocess.run(
            ["mvn", "-q", "-B", "-f", HERE / "pom.xml", "dependency:copy-dependencies",
             f"-DoutputDirectory={cache}"],
            cwd=cache, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        if fetched.returncode:
            pytest.skip(f"Maven could not fetch jscep: {fetched.stdout[-300:]}")
    return cache


@pytest.fixture(scope="session")
def program(libraries: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The class path of the client, compiled."""
    compiled = tmp_path_factory.mktemp("jscep")
    path = f"{libraries}/*"
    run("javac", "-nowarn", "-cp", path, "-d", compiled, HERE / "JscepClient.java", cwd=compiled)
    return f"{compiled}:{path}"


@pytest.fixture(scope="module")
def issuer(running_server: RunningServer) -> Issuer:
    return Issuer(running_server)


class Jscep:
    """The client in a folder of its own."""

    def __init__(self, program: str, folder: Path, url: str) -> None:
        self.program, self.folder, self.url = program, folder, url

    def __call__(self, operation: str, *arguments: str) -> str:
        """The first line that it prints."""
        said = run(
            "java", "-Dorg.slf4j.simpleLogger.defaultLogLevel=off", "-cp", self.program, "JscepClient",
            operation, *arguments, cwd=self.folder,
        )  # fmt: skip
        return said.splitlines()[0]

    def identity(self, name: str) -> None:
        assert self("identity", name, SUBJECT) == "SUCCESS"

    def enrol(self, signer: str, key: str, challenge: str, out: str) -> str:
        return self("enrol", self.url, signer, key, SUBJECT, challenge, out)


@pytest.fixture
def jscep(program: str, issuer: Issuer, tmp_path: Path) -> Jscep:
    return Jscep(program, tmp_path, issuer.url)


def test_jscep_enrols_renews_and_fetches(jscep: Jscep, issuer: Issuer) -> None:
    folder = jscep.folder
    root = issuer.save_root(folder)
    jscep.identity("first")
    value = issuer.mint("jscep")
    assert jscep.enrol("first", "first", value, "issued.crt") == "SUCCESS"
    first = folder / "issued.crt"
    assert subject_of(first) == "CN=jscep"
    openssl_verifies(first, root)

    # Renewal: a PKCSReq for a new key, signed by the certificate in force.
    shutil.copy(folder / "first.key", folder / "issued.key")
    jscep.identity("second")
    assert jscep.enrol("issued", "second", "", "renewed.crt") == "SUCCESS"
    assert subject_of(folder / "renewed.crt") == "CN=jscep"
    openssl_verifies(folder / "renewed.crt", root)
    row = issuer.last_transaction()
    assert (row["message_type"], row["signer_subject"]) == ("PKCSReq", "CN=jscep")

    # GetCert: its own by number, and nobody else's.
    serial = f"{x509.load_pem_x509_certificate(first.read_bytes()).serial_number:x}"
    assert jscep("getcert", jscep.url, "issued", serial, "fetched.crt") == "SUCCESS"
    assert same_certificate(folder / "fetched.crt", first)
    jscep.identity("stranger")
    assert jscep("getcert", jscep.url, "stranger", serial, "x.crt") == "FAILURE badCertId"

    # GetCRL: the newest list.
    shutil.copy(folder / "second.key", folder / "renewed.key")
    assert jscep("getcrl", jscep.url, "renewed", "issued", "list.pem") == "SUCCESS"
    run("openssl", "crl", "-in", "list.pem", "-CAfile", root, "-noout", cwd=folder)
    assert issuer.last_transaction()["message_type"] == "GetCRL"


def same_certificate(one: Path, other: Path) -> bool:
    return x509.load_pem_x509_certificate(one.read_bytes()) == x509.load_pem_x509_certificate(
        other.read_bytes()
    )


def test_jscep_is_refused_without_a_challenge_of_ours(jscep: Jscep, issuer: Issuer) -> None:
    jscep.identity("first")
    assert jscep.enrol("first", "first", "guessed", "x.crt") == "FAILURE badRequest"
    assert not (jscep.folder / "x.crt").exists()
    assert issuer.last_transaction()["reason"] == "unknown challenge password"


def test_jscep_waits_polls_and_is_approved_or_rejected(program: str, issuer: Issuer, tmp_path: Path) -> None:
    issuer.server.manage("scep_service", "create", "by-hand", "--challenge", "none", "--approval", "always")
    jscep = Jscep(program, tmp_path, f"{issuer.server.url}/scep/by-hand/")
    for name, approve in (("yes", True), ("no", False)):
        jscep.identity(name)
        said = jscep.enrol(name, name, "", f"{name}-issued.crt")
        assert said.startswith("PENDING ")
        transaction = said.removeprefix("PENDING ")
        assert jscep("poll", jscep.url, name, SUBJECT, transaction, "x.crt").startswith("PENDING")
        (row,) = json.loads(
            issuer.server.manage("scep_transaction", "list", "--status", "pending", "--json").stdout
        )
        assert row["transaction_id"] == transaction
        issuer.server.manage("scep_transaction", "approve" if approve else "reject", str(row["id"]))
        said = jscep("poll", jscep.url, name, SUBJECT, transaction, f"{name}-issued.crt")
        assert said == ("SUCCESS" if approve else "FAILURE badRequest")
    assert subject_of(tmp_path / "yes-issued.crt") == "CN=d1,O=Example"
    openssl_purpose(tmp_path / "yes-issued.crt", issuer.save_root(tmp_path))
    assert not (tmp_path / "no-issued.crt").exists()


def openssl_purpose(certificate: Path, root: Path) -> None:
    run("openssl", "verify", "-purpose", "sslserver", "-CAfile", root, certificate, cwd=root.parent)


REKEY = """
from django.utils import timezone
from audit.recording import SERVER
from pki import issuers, rollover
rollover.rekey(issuers.default_issuer(), actor=SERVER, now=timezone.now())
"""


def test_jscep_learns_of_the_next_ca(jscep: Jscep, issuer: Issuer) -> None:
    """GetNextCACert, from the moment that the next key exists."""
    folder = jscep.folder
    current = issuer.save_root(folder)
    issuer.server.manage("shell", "-c", REKEY)
    assert jscep("getnext", jscep.url, "next.pem") == "SUCCESS"
    found = x509.load_pem_x509_certificates((folder / "next.pem").read_bytes())
    root = x509.load_pem_x509_certificate(current.read_bytes())
    following = [certificate for certificate in found if certificate != root]
    assert len(following) == 1
    assert following[0].subject == root.subject
    assert following[0].public_key() != root.public_key()
    # Nothing changed hands: who asks as before is answered as before.
    jscep.identity("first")
    assert jscep.enrol("first", "first", issuer.mint("before"), "issued.crt") == "SUCCESS"
    openssl_verifies(folder / "issued.crt", current)
