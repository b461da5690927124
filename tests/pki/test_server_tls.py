"""The server's own certificate: for which names, for how long, and with what above it."""

from __future__ import annotations

import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from pytest_django import Settings

from pki import issuers, retirement, revocation, server_tls, trust
from pki.core.certificates import alternative_names_of, encode_pem
from pki.core.path import verify_issued_by
from pki.issuance import Grant, issue
from pki.models import (
    Certificate,
    CertificateStatus,
    HeldKey,
    Issuer,
    IssuerState,
    Purpose,
    RevocationReason,
    TlsAnchor,
)
from tests.pki.conftest import ACTOR, NOW, spki
from tests.support.snapshot import no_change
from vault.key_file import key_file

pytestmark = pytest.mark.django_db

HOSTS = ["mdm.example.com", "192.0.2.7"]


@pytest.fixture
def issuer() -> Issuer:
    return issuers.create_issuer("bramley", "Test CA", algorithm="EC-P256", actor=ACTOR, now=NOW)


def test_it_names_the_hosts_and_nothing_else(issuer: Issuer) -> None:
    identity = server_tls.server_identity(HOSTS, now=NOW)
    der = bytes(identity.certificate.der)
    assert alternative_names_of(der) == (("DNS", "mdm.example.com"), ("IP", "192.0.2.7"))
    assert identity.certificate.purpose == Purpose.SERVER_TLS
    verify_issued_by(der, issuers.chain(issuer)[0])
    usages = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert [usage.dotted_string for usage in usages.value] == ["1.3.6.1.5.5.7.3.1"]
    assert identity.certificate.not_after - NOW == timedelta(days=server_tls.VALIDITY_DAYS)


def test_openssl_takes_it_with_its_key(issuer: Issuer) -> None:
    identity = server_tls.server_identity(HOSTS, now=NOW)
    assert "PRIVATE KEY" not in repr(identity)
    with key_file(identity.pem) as path:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path)


def test_it_stays_until_it_ends_soon(issuer: Issuer) -> None:
    first = server_tls.server_identity(HOSTS, now=NOW).certificate
    later = first.not_after - server_tls.RENEW_BEFORE - timedelta(hours=1)
    assert server_tls.server_identity(HOSTS, now=later).certificate == first
    assert server_tls.server_identity(list(reversed(HOSTS)), now=later).certificate == first
    renewed = server_tls.server_identity(HOSTS, now=later + timedelta(hours=2)).certificate
    assert renewed != first
    assert renewed.not_after > first.not_after
    assert server_tls.server_identity(HOSTS, now=later + timedelta(hours=2)).certificate == renewed
    assert HeldKey.objects.filter(certificate__purpose=Purpose.SERVER_TLS).count() == 2


def test_where_the_issuer_itself_ends_none_is_made_again_and_again(issuer: Issuer) -> None:
    end = issuers.current_certificate(issuers.current_key(issuer)).not_after
    first = server_tls.server_identity(HOSTS, now=end - timedelta(days=20)).certificate
    assert first.not_after == end
    assert server_tls.server_identity(HOSTS, now=end - timedelta(days=2)).certificate == first


def test_nobody_hangs_on_it_but_on_that_of_another_server(issuer: Issuer) -> None:
    """It is replaced by itself after a re-key; a router that got its own has to come for a new one."""
    server_tls.server_identity(HOSTS, now=NOW)
    current = issuers.current_key(issuer)
    assert issuers.live_count(current, NOW) == 0
    assert retirement.consequences(issuer, NOW).certificates == 0
    key = ec.generate_private_key(ec.SECP256R1())
    grant = Grant(issuer, Purpose.SERVER_TLS, (("CN", "router"),), reason="test")
    issue(grant, spki(key), actor=ACTOR, now=NOW)
    assert issuers.live_count(current, NOW) == 1
    assert retirement.consequences(issuer, NOW).certificates == 1


def test_other_hosts_and_a_revocation_make_another(issuer: Issuer) -> None:
    first = server_tls.server_identity(HOSTS, now=NOW).certificate
    other = server_tls.server_identity(["other.example.com"], now=NOW).certificate
    assert other != first
    revocation.revoke(first, reason=RevocationReason.KEY_COMPROMISE, actor=ACTOR, now=NOW)
    third = server_tls.server_identity(HOSTS, now=NOW).certificate
    assert third not in (first, other)
    assert Certificate.objects.get(pk=first.pk).status == CertificateStatus.REVOKED


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("MDM.example.com", ("DNS", "mdm.example.com")),
        ("::1", ("IP", "::1")),
        ("[2001:db8::7]", ("IP", "2001:db8::7")),
        ("127.0.0.1", ("IP", "127.0.0.1")),
        ("bücher.example", ("DNS", "xn--bcher-kva.example")),
    ],
)
def test_names_and_addresses(host: str, expected: tuple[str, str]) -> None:
    assert server_tls.alternative_names([host, host]) == (expected,)


def test_a_long_name_is_in_the_alternative_names(issuer: Issuer) -> None:
    host = ".".join(["a" * 60, "b" * 20, "example.com"])
    identity = server_tls.server_identity([host], now=NOW)
    assert identity.certificate.subject == f"CN={server_tls.NAME}"
    assert alternative_names_of(bytes(identity.certificate.der)) == (("DNS", host),)


def test_a_root_is_not_shown_and_is_the_anchor(issuer: Issuer) -> None:
    identity = server_tls.server_identity(HOSTS, now=NOW)
    assert identity.chain == ()
    assert server_tls.anchor() == issuers.chain(issuer)[-1]
    assert identity.pem.decode().count("BEGIN CERTIFICATE") == 1
    assert encode_pem(server_tls.anchor()) not in identity.pem.decode()


def test_without_an_issuer_there_is_none() -> None:
    with pytest.raises(issuers.IssuerMissing):
        server_tls.server_identity(HOSTS, now=NOW)
    assert not Certificate.objects.exists()


# Whose certificates devices may show


def test_the_authorities_of_a_purpose(issuer: Issuer) -> None:
    own = issuers.chain(issuer)[0]
    assert trust.authorities(Purpose.MDM_IDENTITY) == [own]
    issuer.trusted_for = [Purpose.OTA_IDENTITY.value]
    issuer.save()
    assert trust.authorities(Purpose.MDM_IDENTITY) == []
    assert trust.authorities(Purpose.OTA_IDENTITY) == [own]


def test_a_revoked_issuer_is_no_authority(issuer: Issuer) -> None:
    issuer.state = IssuerState.REVOKED
    issuer.save()
    assert trust.authorities(Purpose.MDM_IDENTITY) == []


# Which roots enrolment profiles carry


def other_root(name: str = "Proxy Root") -> bytes:
    made = issuers.create_issuer(
        name.lower().replace(" ", "-"), name, algorithm="EC-P256", actor=ACTOR, now=NOW
    )
    return issuers.chain(made)[0]


def test_own_tls_brings_its_root_along(issuer: Issuer, settings: Settings) -> None:
    assert server_tls.anchors() == []
    settings.BRAMLEY_TLS = True
    assert server_tls.anchors() == [server_tls.anchor()]


def test_added_roots_and_those_of_a_file_go_along_once(
    issuer: Issuer, settings: Settings, tmp_path: Path
) -> None:
    added, in_file = other_root(), other_root("File Root")
    row = server_tls.add_anchor(encode_pem(added).encode(), actor=ACTOR, now=NOW)
    assert row.name == "Proxy Root"
    file = tmp_path / "roots.pem"
    file.write_text(encode_pem(in_file) + encode_pem(added))
    settings.BRAMLEY_TLS_CA_FILE = str(file)
    assert server_tls.anchors() == [in_file, added]
    assert server_tls.add_anchor(added, actor=ACTOR, now=NOW) == row
    settings.BRAMLEY_TLS_CA_FILE = ""
    server_tls.remove_anchor(row, actor=ACTOR, now=NOW)
    assert server_tls.anchors() == []
    with no_change():  # another administrator was asked the same at the same time
        server_tls.remove_anchor(row, actor=ACTOR, now=NOW)


def test_what_is_no_root_is_refused(issuer: Issuer) -> None:
    leaf = bytes(server_tls.server_identity(HOSTS, now=NOW).certificate.der)
    root = other_root()
    late = NOW + timedelta(days=20_000)
    for data, now, reason in [
        (leaf, NOW, "not the certificate of a root"),
        (b"junk", NOW, "."),
        (encode_pem(root).encode() * 2, NOW, "several"),
        (root, late, "not valid now"),
        (root[:-1] + bytes((root[-1] ^ 1,)), NOW, "not signed by itself"),
    ]:
        with no_change(), pytest.raises(server_tls.AnchorRefused, match=reason):
            server_tls.add_anchor(data, actor=ACTOR, now=now)
    assert not TlsAnchor.objects.exists()
