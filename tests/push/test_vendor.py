"""MDM vendor certificates and signed requests: by function and by command, good and forged."""

from __future__ import annotations

import base64
import io
import json
import plistlib
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.core.management import CommandError, call_command
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from audit.models import AuditEvent, Outcome
from pki.core import pem
from push import certificates, provenance, vendors
from push.certificates import PushCertificateRefused, TopicChange
from push.core import apple, chain, pushcert, vendor
from push.models import PushCertificate, PushCertificateState, VendorCertificate
from tests.push import vendor_files as files
from tests.push.conftest import ADMIN, TOPIC
from tests.support.apns import Authority
from vault.sealed import unseal

pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module")
def apple_root() -> files.Apple:
    return files.Apple()


@pytest.fixture
def trusted(apple_root: files.Apple, settings: Settings, tmp_path: Path) -> files.Apple:
    """The test's root counts, as that of another APNs does."""
    path = tmp_path / "root.pem"
    path.write_bytes(files.pem(apple_root.root))
    settings.BRAMLEY_APNS_CA = str(path)
    return apple_root


@pytest.fixture
def signer(trusted: files.Apple, now: datetime) -> VendorCertificate:
    return vendors.import_vendor(vendor_pem(trusted), actor=ADMIN, now=now)


def vendor_pem(apple_root: files.Apple, **options: Any) -> bytes:
    return files.pem(apple_root.vendor(**options), apple_root.relations) + files.key_pem(
        files.rsa_key("vendor")
    )


def the_request() -> PushCertificate:
    return certificates.create_request("Example Ltd", ADMIN)


def everything() -> tuple[list[Any], list[Any]]:
    return (
        list(PushCertificate.objects.order_by("pk").values()),
        list(VendorCertificate.objects.order_by("pk").values()),
    )


def verify_refused(act: Callable[[], object], match: str, action: str) -> None:
    """It is refused with the reason; nothing changes but the record of it, which has no secret in it."""
    before, events = everything(), AuditEvent.objects.count()
    with pytest.raises(PushCertificateRefused, match=match) as caught:
        act()
    assert everything() == before
    assert AuditEvent.objects.count() == events + 1
    event = AuditEvent.objects.first()
    assert event is not None
    assert (event.action, event.outcome) == (action, Outcome.REFUSED)
    assert event.reason == caught.value.reason[:500]


# --- the vendor's certificate ---


@pytest.mark.parametrize("form", ["pem", "pkcs12", "key apart", "encrypted key apart", "der and key"])
def test_a_vendor_certificate_is_kept_in_every_form(form: str, trusted: files.Apple, now: datetime) -> None:
    key, leaf = files.rsa_key("vendor"), trusted.vendor()
    both = files.pem(leaf, trusted.relations)
    arguments: dict[str, dict[str, Any]] = {
        "pem": {"data": both + files.key_pem(key)},
        "pkcs12": {"data": files.as_pkcs12(key, leaf, trusted.relations), "password": "secret"},
        "key apart": {"data": both, "private_key": files.key_pem(key)},
        "encrypted key apart": {
            "data": both,
            "private_key": files.key_pem(key, b"secret"),
            "password": "secret",
        },
        "der and key": {
            "data": files.pem(trusted.relations, leaf),
            "private_key": files.key_pem(key),
        },
    }
    row = vendors.import_vendor(actor=ADMIN, now=now, **arguments[form])
    assert row.common_name == "MDM Vendor: Example Ltd"
    assert bytes(row.der) == leaf.public_bytes(Encoding.DER)
    assert bytes(row.chain) == files.pem(trusted.relations, trusted.root), "up to the root, in order"
    key_der = unseal(bytes(row.private_key_sealed), context=f"push.vendorcertificate.private_key:{row.uuid}")
    assert pushcert.public_key_of(key_der) == vendor.describe(bytes(row.der)).public_key
    for value in VendorCertificate.objects.filter(pk=row.pk).values_list()[0]:
        assert key_der[400:460] not in bytes(value if isinstance(value, bytes | memoryview) else b"")
    assert [event.action for event in AuditEvent.objects.all()] == ["vendor_certificate.imported"]


def test_what_is_no_vendor_certificate_is_refused(
    trusted: files.Apple, now: datetime, settings: Settings
) -> None:
    def refused(match: str, data: bytes, **options: Any) -> None:
        verify_refused(
            lambda: vendors.import_vendor(data, actor=ADMIN, now=now, **options),
            match,
            "vendor_certificate.imported",
        )

    key = files.key_pem(files.rsa_key("vendor"))
    other = files.key_pem(files.rsa_key("other"))
    refused("not the certificate of an MDM vendor", vendor_pem(trusted, name="iOS: A. N.", marked=False))
    refused("a push certificate, not", vendor_pem(trusted, user_id=TOPIC))
    refused("expired on", vendor_pem(trusted, until=now))
    refused("not valid before", vendor_pem(trusted, since=now + timedelta(days=1)))
    refused("no private key", files.pem(trusted.vendor(), trusted.relations))
    refused("does not belong", files.pem(trusted.vendor()) + other)
    refused("does not belong", files.pem(trusted.vendor(), trusted.relations), private_key=other)
    curve = ec.generate_private_key(ec.SECP256R1())
    refused("not RSA", files.pem(trusted.vendor(key=curve)), private_key=key)
    refused("not known here", files.pem(trusted.vendor()) + key)
    stranger, double = files.Apple("of a stranger"), files.Apple()
    refused("issued it, which is not so", files.pem(double.vendor(), trusted.relations, trusted.root) + key)
    refused("is not known here", files.pem(stranger.vendor(), stranger.relations, stranger.root) + key)
    late = trusted.relations_until(now - timedelta(days=1))
    refused("is valid from", files.pem(trusted.vendor(), late) + key)
    refused("password", files.as_pkcs12(files.rsa_key("vendor"), trusted.vendor()), password="wrong")
    refused(
        "encrypted: give its password",
        files.pem(trusted.vendor()),
        private_key=files.key_pem(files.rsa_key("vendor"), b"x"),
    )
    refused("neither PEM nor", b"serial,name\n1,x\n")
    refused("larger", b"x" * 70_000)
    settings.BRAMLEY_APNS_CA = ""
    refused("It has to lead to Apple's root", vendor_pem(trusted))


def test_a_name_that_says_so_is_enough(trusted: files.Apple, now: datetime) -> None:
    row = vendors.import_vendor(vendor_pem(trusted, marked=False), actor=ADMIN, now=now)
    assert str(row) == "MDM Vendor: Example Ltd"


def test_the_same_vendor_certificate_is_kept_once(trusted: files.Apple, now: datetime) -> None:
    data = vendor_pem(trusted)
    vendors.import_vendor(data, actor=ADMIN, now=now)
    verify_refused(
        lambda: vendors.import_vendor(data, actor=ADMIN, now=now),
        "is here already",
        "vendor_certificate.imported",
    )


def test_a_retired_vendor_certificate_signs_nothing(signer: VendorCertificate, now: datetime) -> None:
    request = the_request()
    vendors.retire_vendor(signer, actor=ADMIN, now=now)
    assert not vendors.usable_vendors(now).exists()
    action = "push_certificate.request_signed"
    verify_refused(lambda: vendors.sign_request(request, signer, actor=ADMIN, now=now), "out of use", action)
    with pytest.raises(PushCertificateRefused, match="already"):
        vendors.retire_vendor(signer, actor=ADMIN, now=now)


# --- signed here ---


def test_a_request_signed_here_is_what_apple_s_portal_takes(
    signer: VendorCertificate, trusted: files.Apple, now: datetime, tmp_path: Path
) -> None:
    request = vendors.sign_request(the_request(), signer, actor=ADMIN, now=now)
    request.refresh_from_db()
    assert request.signed_by == "MDM Vendor: Example Ltd"
    document = plistlib.loads(base64.b64decode(bytes(request.signed_request), validate=True))
    assert list(document) == ["PushCertRequestCSR", "PushCertCertificateChain", "PushCertSignature"]
    csr = base64.b64decode(document["PushCertRequestCSR"], validate=True)
    assert csr == bytes(request.csr)
    assert x509.load_der_x509_csr(csr).is_signature_valid
    chain_pem = document["PushCertCertificateChain"].encode()
    leaf, relations, root = x509.load_pem_x509_certificates(chain_pem)
    assert (relations, root) == (trusted.relations, trusted.root)
    lines = [line for line in chain_pem.splitlines() if not line.startswith(b"-----")]
    assert max(len(line) for line in lines) == 64, "Apple: 64 characters a line"

    # And openssl finds the signature good, with nothing of ours in between.
    (tmp_path / "csr.der").write_bytes(csr)
    (tmp_path / "signature").write_bytes(base64.b64decode(document["PushCertSignature"]))
    public = leaf.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "vendor.pem").write_bytes(public)
    done = subprocess.run(
        [
            *("openssl", "dgst", "-sha256", "-verify", str(tmp_path / "vendor.pem")),
            *("-signature", str(tmp_path / "signature"), str(tmp_path / "csr.der")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "Verified OK"


def test_an_answered_request_is_not_signed_again(
    signer: VendorCertificate, authority: Authority, now: datetime
) -> None:
    request = the_request()
    certificates.import_certificate(authority.sign_request(bytes(request.csr), TOPIC), actor=ADMIN, now=now)
    verify_refused(
        lambda: vendors.sign_request(request, signer, actor=ADMIN, now=now),
        "answered already",
        "push_certificate.request_signed",
    )


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


# --- signed elsewhere ---


@pytest.mark.parametrize("form", ["wrapped", "one line", "property list", "with a byte order mark"])
def test_what_a_vendor_returns_is_kept(form: str, trusted: files.Apple, now: datetime) -> None:
    request = the_request()
    other = the_request()
    whole = files.signed_request(bytes(request.csr), [trusted.vendor(), trusted.relations, trusted.root])
    data = {
        "wrapped": whole,
        "one line": b"".join(whole.split()),
        "property list": base64.b64decode(whole),
        "with a byte order mark": b"\xef\xbb\xbf" + whole.replace(b"\n", b"\r\n"),
    }[form]
    kept = vendors.import_signed_request(data, actor=ADMIN, now=now)
    assert kept.pk == request.pk, "found by the request in it"
    kept.refresh_from_db()
    assert kept.signed_by == "MDM Vendor: Example Ltd"
    assert base64.b64decode(bytes(kept.signed_request), validate=True) == base64.b64decode(whole).strip()
    other.refresh_from_db()
    assert bytes(other.signed_request) == b""


def test_forged_and_damaged_signed_requests_are_refused(
    trusted: files.Apple, now: datetime, settings: Settings
) -> None:
    request, other = the_request(), the_request()
    csr, good = bytes(request.csr), [trusted.vendor(), trusted.relations, trusted.root]
    stranger, double = files.Apple("of a stranger"), files.Apple()

    def refused(match: str, data: bytes, of: PushCertificate | None = request) -> None:
        verify_refused(
            lambda: vendors.import_signed_request(data, of, actor=ADMIN, now=now),
            match,
            "push_certificate.signed_request_imported",
        )

    refused("another request than this one", files.signed_request(bytes(other.csr), good))
    altered = csr[:-1] + bytes((csr[-1] ^ 1,))
    refused("was not made here", files.signed_request(altered, good), None)
    refused("does not fit the request", files.signed_request(csr, good, of=b"something else"))
    refused("does not fit the request", files.signed_request(csr, good, key=files.rsa_key("other")))
    refused("SHA-1", files.signed_request(csr, good, algorithm=hashes.SHA1()))  # noqa: S303 - to be refused
    refused("not known here", files.signed_request(csr, good[:1]))
    refused(
        "not known here", files.signed_request(csr, [stranger.vendor(), stranger.relations, stranger.root])
    )
    refused("which is not so", files.signed_request(csr, [double.vendor(), *good[1:]]))
    refused("not the certificate of an MDM vendor", files.signed_request(csr, [trusted.relations, *good]))
    refused("expired on", files.signed_request(csr, [trusted.vendor(until=now), *good[1:]]))
    refused("has no PushCertSignature", files.signed_request(csr, good, PushCertSignature=None))
    refused("has no PushCertRequestCSR", files.signed_request(csr, good, PushCertRequestCSR=["x"]))
    refused("PushCertSignature is not Base64", files.signed_request(csr, good, PushCertSignature="%%"))
    refused("no certificate of the vendor", files.signed_request(csr, good, PushCertCertificateChain="none"))
    refused("more than 10 certificates", files.signed_request(csr, good * 4))
    refused("neither Base64 nor", b"name,serial\n1,2\n")
    refused("no property list", base64.b64encode(b"hello"))
    refused("no property list", b"")
    refused("larger", b"A" * 140_000)
    refused("no place in", b'<!DOCTYPE plist [<!ENTITY a "aaaa">]><plist><dict/></plist>')
    refused("not the dictionary", b"<plist><array/></plist>")
    refused("cannot be read", b"<plist><dict>" + b"<array>" * 15_000)
    settings.BRAMLEY_APNS_CA = ""
    refused("It has to lead to Apple's root", files.signed_request(csr, good))


@pytest.mark.once
@given(st.binary(max_size=300), st.sampled_from([b"", b"<plist><dict>", b"<?xml"]))
def test_any_file_is_a_signed_request_or_refused(data: bytes, before: bytes) -> None:
    with pytest.raises(pushcert.PushCertError):
        vendor.decode(before + data)


# --- renewal ---


def test_a_request_that_renews_takes_no_other_topic_unasked(authority: Authority, now: datetime) -> None:
    first = certificates.import_certificate(
        b"".join(authority.quick_push_certificate(TOPIC)), actor=ADMIN, now=now
    )
    other_topic = f"{TOPIC}.other"
    certificates.import_certificate(
        b"".join(authority.quick_push_certificate(other_topic)),
        confirm_topic_change=True,
        actor=ADMIN,
        now=now,
    )
    request = certificates.create_request("Example Ltd", ADMIN, renews=first)
    assert (request.state, request.topic) == (PushCertificateState.REQUESTED, TOPIC)
    assert certificates.active(TOPIC) == first, "a request is no certificate"

    wrong = authority.sign_request(bytes(request.csr), other_topic)
    before = everything()
    with pytest.raises(TopicChange, match="enrol again") as caught:
        certificates.import_certificate(wrong, actor=ADMIN, now=now)
    assert caught.value.active_topics == (TOPIC,), "though the other topic is in use too"
    assert everything() == before

    renewed = certificates.import_certificate(
        authority.sign_request(bytes(request.csr), TOPIC), actor=ADMIN, now=now
    )
    assert renewed.pk == request.pk
    first.refresh_from_db()
    assert (first.state, renewed.topic) == (PushCertificateState.REPLACED, TOPIC)
    with pytest.raises(PushCertificateRefused, match="nothing to renew"):
        certificates.create_request("Example Ltd", ADMIN, renews=first)


def test_a_replaced_certificate_is_no_renewal(authority: Authority, now: datetime) -> None:
    old = b"".join(authority.quick_push_certificate(TOPIC))
    certificates.import_certificate(old, actor=ADMIN, now=now)
    certificates.import_certificate(b"".join(authority.quick_push_certificate(TOPIC)), actor=ADMIN, now=now)
    verify_refused(
        lambda: certificates.import_certificate(old, actor=ADMIN, now=now),
        "was in use before",
        "push_certificate.imported",
    )
    current = certificates.active(TOPIC)
    assert current is not None
    certificates.retire(current, actor=ADMIN, now=now)
    assert certificates.import_certificate(old, actor=ADMIN, now=now).topic == TOPIC


def test_an_open_request_is_discarded_once(now: datetime, authority: Authority) -> None:
    request = the_request()
    certificates.discard_request(request, actor=ADMIN, now=now)
    assert not PushCertificate.objects.exists()
    answered = the_request()
    certificates.import_certificate(authority.sign_request(bytes(answered.csr), TOPIC), actor=ADMIN, now=now)
    with pytest.raises(PushCertificateRefused, match="answered already"):
        certificates.discard_request(answered, actor=ADMIN, now=now)
    assert PushCertificate.objects.get().topic == TOPIC


# --- whose certificate it is ---


def test_the_issuer_of_a_push_certificate_is_told(
    authority: Authority, now: datetime, settings: Settings, tmp_path: Path
) -> None:
    settings.BRAMLEY_APNS_URL, settings.BRAMLEY_APNS_CA = "https://api.push.apple.com:443", ""
    row = certificates.import_certificate(
        b"".join(authority.quick_push_certificate(TOPIC)), actor=ADMIN, now=now
    )
    told = certificates.provenance_of(row, now)
    assert (told.issuer, told.verified) == ("APNs stand-in CA", False)
    assert "Apple's push service will refuse it" in told.warning
    event = AuditEvent.objects.get(action="push_certificate.imported")
    assert (event.details["issuer"], event.details["issuer_verified"]) == ("APNs stand-in CA", False)
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.pem)
    settings.BRAMLEY_APNS_URL = "https://127.0.0.1:1"
    assert "only another APNs" in certificates.provenance_of(row, now).warning
    settings.BRAMLEY_APNS_CA = str(ca)
    assert certificates.provenance_of(row, now) == provenance.Provenance("APNs stand-in CA", True)


def test_a_certificate_that_only_says_it_is_apple_s_is_refused(now: datetime) -> None:
    """The issuer's name is Apple's to the byte, the signature is anybody's."""
    real = x509.load_der_x509_certificate(apple.INTERMEDIATES[1])
    key = files.rsa_key("forger")
    forged = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.USER_ID, TOPIC)]))
        .issuer_name(real.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    verify_refused(
        lambda: certificates.import_certificate(files.pem(forged) + files.key_pem(key), actor=ADMIN, now=now),
        "not genuine",
        "push_certificate.imported",
    )


@pytest.mark.once
def test_apple_s_own_intermediates_lead_to_apple_s_root() -> None:
    now = datetime(2026, 11, 24, tzinfo=UTC)
    for certificate in apple.INTERMEDIATES:
        assert chain.build(certificate, [], roots=[apple.ROOT], now=now) == (apple.ROOT,)
    with pytest.raises(chain.NotCurrent, match="Apple Root CA"):
        chain.build(apple.INTERMEDIATES[0], [], roots=[apple.ROOT], now=datetime(2040, 1, 1, tzinfo=UTC))


@pytest.mark.once
def test_pem_blocks_are_found_in_one_pass() -> None:
    data = b"x\n-----BEGIN A-----\n1\n-----END B-----\n-----END A-----\n-----BEGIN B-----\n2\n-----END B-----"
    assert [label for label, _block in pem.blocks(data)] == [b"A", b"B"]
    assert list(pem.blocks(b"-----BEGIN A-----" * 3000)) == []


# --- the command ---


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("push_certificate", *arguments, stdout=out, stderr=out)
    return out.getvalue()


def test_the_command_signs_imports_and_renews(
    trusted: files.Apple, authority: Authority, tmp_path: Path
) -> None:
    with pytest.raises(CommandError, match="no such vendor"):
        run("sign")
    vendor_file, password = tmp_path / "vendor.p12", tmp_path / "password"
    vendor_file.write_bytes(files.as_pkcs12(files.rsa_key("vendor"), trusted.vendor(), trusted.relations))
    password.write_text("secret\n")
    imported = json.loads(
        run("vendor", "import", str(vendor_file), "--password-file", str(password), "--json")
    )
    assert json.loads(run("vendor", "list", "--json")) == [imported]
    assert "PRIVATE" not in json.dumps(imported)
    with pytest.raises(CommandError, match="no such open request"):
        run("sign")

    request = json.loads(run("request", "--cn", "Example Ltd", "--json"))
    out = tmp_path / "signed"
    assert "upload" in run("sign", "--request", str(request["request"]), "--out", str(out))
    assert len(vendor.decode(out.read_bytes()).chain) == 3
    certificate = tmp_path / "push.pem"
    certificate.write_bytes(authority.sign_request(request["csr"].encode(), TOPIC))
    assert TOPIC in run("import", str(certificate))

    with pytest.raises(CommandError, match="of the topic"):
        run("request", "--renew", f"{TOPIC}.none")
    renewal = json.loads(run("request", "--renew", TOPIC, "--json"))
    assert f"renews {TOPIC}" in run("list", "--all")
    der = x509.load_pem_x509_csr(renewal["csr"].encode()).public_bytes(Encoding.DER)
    returned = tmp_path / "returned"
    returned.write_bytes(files.signed_request(der, [trusted.vendor(), trusted.relations, trusted.root]))
    kept = json.loads(run("import-request", str(returned), "--json"))
    assert (kept["request"], kept["signed_by"]) == (renewal["request"], "MDM Vendor: Example Ltd")
    returned.write_bytes(b"nonsense")
    with pytest.raises(CommandError, match="not a signed request"):
        run("import-request", str(returned))

    run("vendor", "retire", str(imported["vendor"]))
    assert "out of use" in run("vendor", "list")
    with pytest.raises(CommandError, match="no such vendor"):
        run("sign")
    with pytest.raises(CommandError, match="out of use"):
        run("sign", "--vendor", str(imported["vendor"]))


@pytest.mark.django_db(transaction=True)
def test_two_imports_at_the_same_moment_leave_one_certificate_in_use(
    authority: Authority, now: datetime
) -> None:
    """Whichever is second replaces the first, or is told; never are two in use for one topic."""
    files_at_once = [b"".join(authority.quick_push_certificate(TOPIC)) for _number in range(3)]
    start = threading.Barrier(len(files_at_once))

    def take(data: bytes) -> str:
        try:
            start.wait(timeout=20)
            certificates.import_certificate(data, actor=ADMIN, now=now)
        except PushCertificateRefused as refused:
            return refused.reason
        finally:
            connection.close()
        return ""

    with ThreadPoolExecutor(len(files_at_once)) as pool:
        told = list(pool.map(take, files_at_once))
    assert all(reason == "" or "same moment" in reason for reason in told), told
    assert told.count("") >= 1
    assert PushCertificate.objects.filter(state=PushCertificateState.ACTIVE).count() == 1
