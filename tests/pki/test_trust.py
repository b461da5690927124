"""Whose certificate is accepted, and for what."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.models import AuditEvent
from pki import issuers, keys, trust
from pki.core.certificates import (
    CertificateFields,
    build_certificate,
    build_root,
    encode_pem,
    load_certificate,
)
from pki.core.scan import Malformed
from pki.models import (
    Certificate,
    CertificateStatus,
    Crl,
    Issuer,
    IssuerKeyState,
    IssuerKind,
    IssuerState,
    Purpose,
    RevocationReason,
)
from pki.revocation import revoke
from pki.trust import TrustRefused, Untrusted, identify, trust_issuer
from tests.pki.conftest import ACTOR, NOW, IssueCertificate, Party, self_signed, spki
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db
MDM = Purpose.MDM_IDENTITY


def refused(der: bytes, *, purpose: Purpose = MDM, now: object = NOW) -> str:
    with no_change(), pytest.raises(Untrusted) as error:
        identify(der, purpose=purpose, now=now)  # type: ignore[arg-type]
    return error.value.reason


# --- Our own ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("issued", [Purpose.MDM_IDENTITY, Purpose.OTA_IDENTITY, Purpose.SERVER_TLS])
def test_by_purpose(issue_certificate: IssueCertificate, issued: Purpose) -> None:
    """A20: only the diagonal."""
    certificate = issue_certificate(purpose=issued)
    for presented in Purpose:
        if presented == issued:
            assert identify(bytes(certificate.der), purpose=presented, now=NOW) == certificate
        else:
            assert refused(bytes(certificate.der), purpose=presented) == "wrong purpose"


def test_by_time(issue_certificate: IssueCertificate) -> None:
    certificate = issue_certificate()
    der, second = bytes(certificate.der), timedelta(seconds=1)
    assert identify(der, purpose=MDM, now=NOW - timedelta(minutes=9)) == certificate
    assert refused(der, now=certificate.not_before - second) == "not yet valid"
    assert identify(der, purpose=MDM, now=certificate.not_after) == certificate
    assert refused(der, now=certificate.not_after + second) == "expired"


@pytest.mark.parametrize(
    ("status", "reason"),
    [(CertificateStatus.REVOKED, "revoked"), (CertificateStatus.SUPERSEDED, "superseded")],
)
def test_by_status(issue_certificate: IssueCertificate, status: str, reason: str) -> None:
    certificate = issue_certificate()
    Certificate.objects.update(status=status)
    with pytest.raises(Untrusted) as error:
        identify(bytes(certificate.der), purpose=MDM, now=NOW)
    assert (error.value.reason, error.value.certificate) == (reason, certificate)


@pytest.mark.parametrize(
    ("changes", "accepted"),
    [
        ({"state": IssuerState.RETIRED}, True),
        ({"state": IssuerState.REVOKED}, False),
        ({"trusted_for": ["OTA_IDENTITY"]}, False),
        ({"trusted_for": []}, False),
    ],
)
def test_by_issuer(
    issuer: Issuer, issue_certificate: IssueCertificate, changes: dict[str, object], accepted: bool
) -> None:
    certificate = issue_certificate()
    Issuer.objects.update(**changes)
    if accepted:
        assert identify(bytes(certificate.der), purpose=MDM, now=NOW) == certificate
    else:
        assert refused(bytes(certificate.der)) == "issuer not trusted"


@pytest.mark.parametrize("state", IssuerKeyState)
def test_by_key_generation(issuer: Issuer, issue_certificate: IssueCertificate, state: str) -> None:
    certificate = issue_certificate()
    issuer.keys.update(state=state)
    if state != IssuerKeyState.CLOSED:
        assert identify(bytes(certificate.der), purpose=MDM, now=NOW) == certificate
    else:
        assert refused(bytes(certificate.der)) == "issuer not trusted"


def test_a_clone_of_a_certificate(
    issuer: Issuer, issue_certificate: IssueCertificate, other_rsa_key: rsa.RSAPrivateKey
) -> None:
    """A2: same names, serial number and key identifiers, signed by a clone of our CA."""
    real = x509.load_der_x509_certificate(bytes(issue_certificate().der))
    builder = (
        x509.CertificateBuilder()
        .subject_name(real.subject)
        .issuer_name(real.issuer)
        .public_key(other_rsa_key.public_key())
        .serial_number(real.serial_number)
        .not_valid_before(real.not_valid_before_utc)
        .not_valid_after(real.not_valid_after_utc)
    )
    for extension in real.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    clone = builder.sign(other_rsa_key, hashes.SHA256()).public_bytes(Encoding.DER)
    assert refused(clone) == "unknown certificate"


def test_what_our_key_signed_without_a_record(issuer: Issuer, ec_party: Party) -> None:
    """The issuer's signature alone is not enough: the record decides."""
    issuer_key = issuers.current_key(issuer)
    fields = CertificateFields(
        subject=(("CN", "device"),),
        public_key=spki(ec_party.key),
        serial_number=99,
        not_before=NOW,
        not_after=NOW + timedelta(days=10),
        extended_key_usage=("clientAuth",),
    )
    der = build_certificate(
        fields,
        issuer_certificate=issuers.chain(issuer)[0],
        private_key=keys.issuer_private_key(issuer_key),
    )
    assert refused(der) == "unknown certificate"


def test_strangers(issuer: Issuer, issue_certificate: IssueCertificate, ec_party: Party) -> None:
    assert refused(ec_party.certificate) == "unknown certificate"
    assert refused(b"") == "unknown certificate"
    assert refused(b"\x30\x00") == "unknown certificate"
    assert refused(bytes(issue_certificate().der) + b"\0") == "unknown certificate"
    assert refused(issuers.chain(issuer)[0]) == "unknown certificate"


def test_one_query_for_a_certificate_on_record(issue_certificate: IssueCertificate) -> None:
    der = bytes(issue_certificate().der)
    with CaptureQueriesContext(connection) as captured:
        certificate = identify(der, purpose=MDM, now=NOW)
        assert certificate.issuer_key.issuer.slug == "bramley"
    assert len(captured) == 1
    assert "private_key_sealed" not in captured[0]["sql"]
    with CaptureQueriesContext(connection) as captured:
        trust.verify_record(certificate, purpose=MDM, now=NOW)
    assert len(captured) == 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.binary(max_size=200))
def test_arbitrary_bytes(issuer: Issuer, data: bytes) -> None:
    with pytest.raises(Untrusted):
        identify(data, purpose=MDM, now=NOW)


# --- Another CA ------------------------------------------------------------------------------------------


def authority(party: Party, name: str = "Old MDM", days: int = 1000, serial_number: int = 1) -> bytes:
    return build_root(
        (("O", "Elsewhere"), ("CN", name)),
        private_key=party.key,
        serial_number=serial_number,
        not_before=NOW - timedelta(days=10),
        not_after=NOW + timedelta(days=days),
    )


def issued_elsewhere(root: bytes, issuer: Party, key: Party, **changes: object) -> bytes:
    values: dict[str, object] = {
        "subject": (("CN", "device"),),
        "public_key": spki(key.key),
        "serial_number": 7,
        "not_before": NOW - timedelta(days=5),
        "not_after": NOW + timedelta(days=300),
        "extended_key_usage": ("clientAuth",),
    }
    return build_certificate(
        CertificateFields(**(values | changes)),  # type: ignore[arg-type]
        issuer_certificate=root,
        private_key=issuer.key,
    )


def trusted(root: bytes, purpose: Purpose = MDM) -> Issuer:
    return trust_issuer(encode_pem(root).encode(), purpose=purpose, actor=ACTOR, now=NOW)


def test_a_certificate_of_a_trusted_ca_gets_a_record(rsa_party: Party, ec_party: Party) -> None:
    root = authority(rsa_party)
    der = issued_elsewhere(root, rsa_party, ec_party)
    assert refused(der) == "unknown certificate"
    issuer = trusted(root)
    assert (issuer.kind, issuer.name, issuer.slug) == (IssuerKind.TRUST_ONLY, "Old MDM", "old-mdm")
    first = identify(der, purpose=MDM, now=NOW)
    assert (first.foreign, first.purpose, first.subject) == (True, MDM, "CN=device")
    assert first.issuer_key.issuer == issuer
    assert identify(der, purpose=MDM, now=NOW) == first
    assert Certificate.objects.count() == 1
    assert AuditEvent.objects.get(action="issuer.trusted").details["purpose"] == "MDM_IDENTITY"


def test_trust_is_for_a_purpose(rsa_party: Party, ec_party: Party) -> None:
    root = authority(rsa_party)
    der = issued_elsewhere(root, rsa_party, ec_party)
    issuer = trusted(root)
    assert refused(der, purpose=Purpose.OTA_IDENTITY) == "issuer not trusted"
    identify(der, purpose=MDM, now=NOW)
    assert refused(der, purpose=Purpose.OTA_IDENTITY) == "issuer not trusted"
    assert trusted(root, Purpose.OTA_IDENTITY) == issuer
    issuer.refresh_from_db()
    assert issuer.trusted_for == ["MDM_IDENTITY", "OTA_IDENTITY"]
    assert identify(der, purpose=Purpose.OTA_IDENTITY, now=NOW).purpose == MDM


@pytest.mark.parametrize("name", [x509.DNSName("a\0.example"), x509.RFC822Name("a\0@example.org")])
def test_a_name_that_no_record_could_hold(rsa_party: Party, ec_party: Party, name: x509.GeneralName) -> None:
    root = authority(rsa_party)
    trusted(root)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "device")])
    made = (
        x509.CertificateBuilder(load_certificate(root).subject, subject, ec_party.key.public_key(), 7)
        .not_valid_before(NOW - timedelta(days=5))
        .not_valid_after(NOW + timedelta(days=300))
        .add_extension(x509.SubjectAlternativeName([name]), critical=False)
        .sign(rsa_party.key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    assert refused(made) == "unknown certificate"
    assert not Certificate.objects.exists()


def test_a_clone_of_a_trusted_ca(rsa_party: Party, other_party: Party, ec_party: Party) -> None:
    trusted(authority(rsa_party))
    clone = authority(other_party)
    assert refused(issued_elsewhere(clone, other_party, ec_party)) == "unknown certificate"


def test_what_else_a_trusted_ca_issued(rsa_party: Party, ec_party: Party, other_party: Party) -> None:
    root = authority(rsa_party)
    trusted(root)

    def made(**changes: object) -> bytes:
        return issued_elsewhere(root, rsa_party, ec_party, **changes)

    assert refused(made(not_after=NOW - timedelta(seconds=1))) == "expired"
    assert refused(made(not_before=NOW + timedelta(seconds=1))) == "not yet valid"
    assert refused(made(extended_key_usage=("serverAuth",))) == "wrong purpose"
    assert identify(made(extended_key_usage=()), purpose=MDM, now=NOW).foreign
    sub = made(is_ca=True, key_usage=frozenset({"keyCertSign"}), subject=(("CN", "Sub"),))
    assert refused(sub) == "wrong purpose"
    # What stands below it is not trusted through it: there is no path building.
    below = issued_elsewhere(sub, ec_party, other_party)
    assert refused(below) == "unknown certificate"
    assert refused(root) == "wrong purpose"


def test_two_certificates_of_another_ca_with_one_serial_number(
    rsa_party: Party, ec_party: Party, other_party: Party
) -> None:
    """Other servers did that under load; their devices still come in."""
    root = authority(rsa_party)
    trusted(root)
    first = identify(issued_elsewhere(root, rsa_party, ec_party), purpose=MDM, now=NOW)
    second = identify(issued_elsewhere(root, rsa_party, other_party), purpose=MDM, now=NOW)
    assert first.serial_number == second.serial_number
    assert first != second


def test_a_single_foreign_certificate_can_be_refused(rsa_party: Party, ec_party: Party) -> None:
    root = authority(rsa_party)
    trusted(root)
    der = issued_elsewhere(root, rsa_party, ec_party)
    certificate = identify(der, purpose=MDM, now=NOW)
    revoke(certificate, reason=RevocationReason.UNSPECIFIED, actor=ACTOR, now=NOW)
    assert refused(der) == "revoked"
    assert not Crl.objects.exists()


def test_distrust(rsa_party: Party, ec_party: Party) -> None:
    """Taken away, trust ends at once for certificates on record, and within seconds for new ones."""
    root = authority(rsa_party)
    trusted(root)
    known = issued_elsewhere(root, rsa_party, ec_party)
    identify(known, purpose=MDM, now=NOW)
    Issuer.objects.update(trusted_for=[])
    assert refused(known) == "issuer not trusted"
    trust.forget_anchors()
    new = issued_elsewhere(root, rsa_party, ec_party, serial_number=8)
    assert refused(new) == "issuer not trusted"


def test_a_trusted_ca_that_has_expired(rsa_party: Party, ec_party: Party) -> None:
    root = authority(rsa_party, days=20)
    trusted(root)
    der = issued_elsewhere(root, rsa_party, ec_party)
    assert refused(der, now=NOW + timedelta(days=21)) == "issuer not trusted"


def test_trusted_cas_are_remembered_for_seconds(
    rsa_party: Party, ec_party: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("pki.trust.time.monotonic", lambda: clock[0])
    root = authority(rsa_party)
    der = issued_elsewhere(root, rsa_party, ec_party)
    assert refused(der) == "unknown certificate"
    with CaptureQueriesContext(connection) as captured:
        refused(ec_party.certificate)
    reads = [query for query in captured if "pki_issuercertificate" in query["sql"]]
    # The snapshots around it read every table twice; identify itself did not.
    assert len(reads) == 2
    clock[0] += trust.ANCHORS_KEPT_SECONDS + 1
    trusted(root)
    assert identify(der, purpose=MDM, now=NOW).foreign


# --- Which CAs may be trusted ----------------------------------------------------------------------------


def test_a_chain_is_trusted_at_its_issuing_end(rsa_party: Party, ec_party: Party, other_party: Party) -> None:
    root = authority(rsa_party, "Root")
    sub = issued_elsewhere(
        root,
        rsa_party,
        other_party,
        subject=(("CN", "Issuing"),),
        is_ca=True,
        key_usage=frozenset({"keyCertSign"}),
        extended_key_usage=(),
        not_after=NOW + timedelta(days=500),
    )
    for order in ((root, sub), (sub, root)):
        pem = "".join(encode_pem(der) for der in order).encode()
        issuer = trust_issuer(pem, purpose=MDM, actor=ACTOR, now=NOW)
        assert issuer.name == "Issuing"
        assert issuers.chain(issuer) == [sub, root]
    below = issued_elsewhere(sub, other_party, ec_party)
    assert identify(below, purpose=MDM, now=NOW).issuer_key.issuer == issuer
    # The root itself is not trusted to issue identities.
    beside = issued_elsewhere(root, rsa_party, ec_party, serial_number=8)
    assert refused(beside) == "unknown certificate"


def test_a_renewed_ca_is_one_key_with_two_certificates(rsa_party: Party, ec_party: Party) -> None:
    old, new = authority(rsa_party, days=100), authority(rsa_party, days=900, serial_number=2)
    pem = (encode_pem(old) + encode_pem(new)).encode()
    issuer = trust_issuer(pem, purpose=MDM, actor=ACTOR, now=NOW)
    (issuer_key,) = issuer.keys.all()
    assert issuer_key.certificates.count() == 2
    assert issuers.chain(issuer)[0] == new
    assert identify(issued_elsewhere(old, rsa_party, ec_party), purpose=MDM, now=NOW).foreign


def test_a_rekeyed_ca_is_two_keys(rsa_party: Party, ec_party: Party, other_party: Party) -> None:
    old, new = authority(rsa_party), authority(other_party, serial_number=2)
    issuer = trust_issuer((encode_pem(old) + encode_pem(new)).encode(), purpose=MDM, actor=ACTOR, now=NOW)
    assert sorted(issuer.keys.values_list("state", flat=True)) == ["CURRENT", "PREVIOUS"]
    for root, party in ((old, rsa_party), (new, other_party)):
        assert identify(issued_elsewhere(root, party, ec_party), purpose=MDM, now=NOW).foreign


def test_the_same_name_twice_gets_another_slug(rsa_party: Party, other_party: Party) -> None:
    assert trusted(authority(rsa_party)).slug == "old-mdm"
    assert trusted(authority(other_party)).slug == "old-mdm-2"


@pytest.mark.parametrize(
    "data", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----"]
)
def test_files_that_are_refused(issuer: Issuer, data: bytes) -> None:
    with no_change(), pytest.raises(TrustRefused):
        trust_issuer(data, purpose=MDM, actor=ACTOR, now=NOW)


def test_certificates_that_are_refused(issuer: Issuer, rsa_party: Party, ec_party: Party) -> None:
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - it is refused
    root = authority(rsa_party)
    for der, reason in (
        (ec_party.certificate, "not a CA"),
        (authority(rsa_party, days=-1), "not valid now"),
        (authority(self_signed(weak)), "2048"),
        (issuers.chain(issuer)[0], "our own"),
    ):
        with no_change(), pytest.raises(TrustRefused, match=reason):
            trusted(der)
    # Our own key under another name would let our record be passed by.
    own = Party(keys.issuer_private_key(issuers.current_key(issuer)), issuers.chain(issuer)[0])
    with no_change(), pytest.raises(TrustRefused, match="our own"):
        trusted(authority(own, "Innocent"))
    kept_here = issuer.keys.get().private_key_sealed
    issuer.keys.update(private_key_sealed=None, key_location="pkcs11:token=t;object=ca")
    with no_change(), pytest.raises(TrustRefused, match="our own"):
        trusted(authority(own, "Innocent"))
    issuer.keys.update(private_key_sealed=kept_here, key_location="")
    trusted(root)
    other = authority(rsa_party, "Another", serial_number=5)
    pem = (encode_pem(root) + encode_pem(other)).encode()
    with no_change(), pytest.raises(TrustRefused, match="one file each"):
        trust_issuer(pem, purpose=MDM, actor=ACTOR, now=NOW)


def test_untrusted_is_not_malformed() -> None:
    """Who catches one does not catch the other by chance."""
    assert not issubclass(Untrusted, Malformed)
