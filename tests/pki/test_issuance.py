"""Issuing: the certificate holds what the record says, and the record holds every certificate."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID
from django.db import connection, transaction

from audit.models import AuditEvent
from pki import issuers, keys
from pki.core import cms
from pki.core.certificates import describe
from pki.issuance import Grant, IssuanceRefused, issue, preview
from pki.issuers import IssuerMissing, IssuerRefused, create_issuer
from pki.keys import KeyUnavailable
from pki.models import Certificate, Crl, HeldKey, Issuer, IssuerCertificate, IssuerKind, IssuerState, Purpose
from pki.signing import RENEW_BEFORE, profile_signer, sign_profile
from tests.pki.conftest import ACTOR, NOW, IssueCertificate, Party, spki
from tests.support.snapshot import no_change
from vault.sealed import SealError

pytestmark = pytest.mark.django_db


def loaded(certificate: Certificate) -> x509.Certificate:
    return x509.load_der_x509_certificate(bytes(certificate.der))


# --- Issuers and keys ------------------------------------------------------------------------------------


def test_an_issuer_is_made_whole(db: None) -> None:
    issuer = create_issuer("bramley", "Bramley Device CA", organization="Orchard", actor=ACTOR, now=NOW)
    issuer_key = issuers.current_key(issuer)
    certificate = issuers.current_certificate(issuer_key)
    assert (issuer_key.algorithm, issuer_key.generation) == ("RSA-3072", 1)
    facts = describe(bytes(certificate.der))
    assert facts.subject == "O=Orchard,CN=Bramley Device CA"
    assert facts.key == "RSA 3072"
    assert facts.not_before == NOW - timedelta(minutes=10)
    assert (facts.not_after - NOW).days in (3652, 3653)
    assert bytes(issuer_key.key_identifier) == facts.subject_key_identifier
    assert issuers.chain(issuer) == [bytes(certificate.der)]
    assert issuers.default_issuer() == issuer
    assert Crl.objects.get().issuer_key == issuer_key
    assert AuditEvent.objects.get(action="issuer.created").actor == "tester"


@pytest.mark.parametrize("algorithm", ["RSA-2048", "EC-P256", "EC-P384"])
def test_an_issuer_of_another_algorithm_issues(algorithm: str, ec_key: ec.EllipticCurvePrivateKey) -> None:
    issuer = create_issuer("other", "Other", algorithm=algorithm, years=1, actor=ACTOR, now=NOW)
    certificate = issue(
        Grant(issuer, Purpose.MDM_IDENTITY, (("CN", "x"),)), spki(ec_key), actor=ACTOR, now=NOW
    )
    root = x509.load_der_x509_certificate(issuers.chain(issuer)[0])
    loaded(certificate).verify_directly_issued_by(root)


@pytest.mark.parametrize(
    ("slug", "name", "changes"),
    [
        ("a b", "x", {}),
        ("", "x", {}),
        ("x" * 51, "x", {}),
        ("ok", "", {}),
        ("ok", "x" * 65, {}),
        ("ok", "a\0b", {}),
        ("ok", "x", {"organization": "a\nb"}),
        ("ok", "x", {"algorithm": "RSA-1024"}),
        ("ok", "x", {"years": 0}),
        ("ok", "x", {"years": 41}),
        ("bramley", "x", {}),
    ],
)
def test_issuers_that_are_refused(issuer: Issuer, slug: str, name: str, changes: dict[str, object]) -> None:
    with no_change(), pytest.raises(IssuerRefused):
        create_issuer(slug, name, **({"algorithm": "EC-P256"} | changes), actor=ACTOR)  # type: ignore[arg-type]


def test_the_default_issuer(db: None) -> None:
    with pytest.raises(IssuerMissing):
        issuers.default_issuer()
    first = create_issuer("first", "First", algorithm="EC-P256", actor=ACTOR)
    create_issuer("second", "Second", algorithm="EC-P256", actor=ACTOR)
    assert issuers.default_issuer() == first
    named = create_issuer("bramley", "Bramley", algorithm="EC-P256", actor=ACTOR)
    assert issuers.default_issuer() == named
    Issuer.objects.filter(pk=named.pk).update(state=IssuerState.RETIRED)
    assert issuers.default_issuer() == first
    Issuer.objects.filter(pk=first.pk).update(kind=IssuerKind.TRUST_ONLY)
    assert issuers.default_issuer().slug == "second"


def test_the_private_key_is_sealed_to_its_row(issuer: Issuer) -> None:
    issuer_key = issuers.current_key(issuer)
    private_key = keys.issuer_private_key(issuer_key)
    assert private_key.public_key() == x509.load_der_x509_certificate(issuers.chain(issuer)[0]).public_key()
    sealed = bytes(issuer_key.private_key_sealed or b"")
    assert keys.public_key_der(private_key)[-40:] not in sealed
    assert keys.issuer_private_key(issuer_key) is private_key  # opened once in the process

    other = create_issuer("other", "Other", algorithm="EC-P256", actor=ACTOR)
    stolen = issuers.current_key(other)
    stolen.private_key_sealed = sealed
    with pytest.raises(SealError):
        keys.issuer_private_key(stolen)
    stolen.private_key_sealed = None
    with pytest.raises(KeyUnavailable):
        keys.issuer_private_key(stolen)


def test_opened_keys_are_a_bounded_number() -> None:
    assert keys._open.cache_info().maxsize == keys.MAX_OPENED_KEYS


# --- Certificates ----------------------------------------------------------------------------------------


def test_a_device_identity(issuer: Issuer, rsa_key: rsa.RSAPrivateKey) -> None:
    binding = uuid4()
    grant = Grant(
        issuer,
        Purpose.MDM_IDENTITY,
        (("CN", "device"), ("O", "Orchard")),
        san=(("URI", f"urn:uuid:{binding}"),),
        binding=binding,
        reason="challenge 7",
    )
    row = issue(grant, spki(rsa_key), actor=ACTOR, now=NOW)
    certificate = loaded(row)
    facts = describe(bytes(row.der))
    assert (row.subject, row.serial_number, row.sha256) == (facts.subject, facts.serial_number, facts.sha256)
    assert (row.not_before, row.not_after) == (NOW - timedelta(minutes=10), NOW + timedelta(days=730))
    assert (row.binding, row.purpose, row.status) == (binding, "MDM_IDENTITY", "ISSUED")
    assert row.public_key_sha256 == facts.public_key_sha256
    assert row.subject_alternative_name == f"URI:urn:uuid:{binding}"
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert (usage.value.digital_signature, usage.value.key_encipherment) == (True, True)
    assert not usage.value.key_cert_sign
    extended = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(extended) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert [name.value for name in points[0].full_name or ()] == ["http://127.0.0.1:8000/pki/bramley/1.crl"]
    access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    assert [(one.access_method, one.access_location.value) for one in access] == [
        (AuthorityInformationAccessOID.OCSP, "http://127.0.0.1:8000/pki/bramley/ocsp"),
        (AuthorityInformationAccessOID.CA_ISSUERS, "http://127.0.0.1:8000/pki/bramley/1.cer"),
    ]
    event = AuditEvent.objects.get(action="certificate.issued")
    assert (event.reason, event.details["serial_number"]) == ("challenge 7", row.serial_number)


@pytest.mark.parametrize(
    ("purpose", "usages"),
    [
        (Purpose.OTA_IDENTITY, [ExtendedKeyUsageOID.CLIENT_AUTH]),
        (Purpose.SERVER_TLS, [ExtendedKeyUsageOID.SERVER_AUTH]),
        (Purpose.PROFILE_SIGNING, []),
        (Purpose.SCEP_RECIPIENT, []),
    ],
)
def test_usages_by_purpose(
    issue_certificate: IssueCertificate, purpose: Purpose, usages: list[x509.ObjectIdentifier]
) -> None:
    certificate = loaded(issue_certificate(purpose=purpose))
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_encipherment  # an EC key cannot
    try:
        found = list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        found = []
    assert found == usages
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_validity_never_goes_past_the_issuers(ec_key: ec.EllipticCurvePrivateKey) -> None:
    issuer = create_issuer("short", "Short", algorithm="EC-P256", years=1, actor=ACTOR, now=NOW)
    end = issuers.current_certificate(issuers.current_key(issuer)).not_after
    grant = Grant(issuer, Purpose.MDM_IDENTITY, (("CN", "x"),))
    certificate = issue(grant, spki(ec_key), actor=ACTOR, now=NOW)
    assert certificate.not_after == end < NOW + timedelta(days=730)
    late = issue(grant, spki(ec_key), actor=ACTOR, now=end - timedelta(seconds=1))
    assert late.not_after == end
    # Not before the issuer's own begin either.
    assert certificate.not_before >= NOW - timedelta(minutes=10)
    with no_change(), pytest.raises(IssuanceRefused, match="not valid now"):
        issue(grant, spki(ec_key), actor=ACTOR, now=end)
    with no_change(), pytest.raises(IssuanceRefused, match="not valid now"):
        issue(grant, spki(ec_key), actor=ACTOR, now=NOW - timedelta(days=1))


def test_validity_by_grant(issue_certificate: IssueCertificate) -> None:
    assert issue_certificate(validity_days=30).not_after == NOW + timedelta(days=30)
    with no_change(), pytest.raises(IssuanceRefused, match="valid for a day"):
        issue_certificate(validity_days=0)


def test_weak_keys(issue_certificate: IssueCertificate) -> None:
    small = rsa.generate_private_key(65537, 1024)  # noqa: S505 - it is refused
    other = ec.generate_private_key(ec.SECP521R1())
    for key, reason in ((small, "2048 to 8192"), (other, "P-256 or P-384")):
        with no_change(), pytest.raises(IssuanceRefused, match=reason):
            issue_certificate(key=key)


def test_bytes_that_are_no_key(issuer: Issuer) -> None:
    grant = Grant(issuer, Purpose.MDM_IDENTITY, (("CN", "x"),))
    for data in (b"", b"\x30\x00", b"junk" * 1000):
        with no_change(), pytest.raises(IssuanceRefused):
            issue(grant, data, actor=ACTOR, now=NOW)


def test_the_issuers_own_key_gets_no_certificate(issuer: Issuer) -> None:
    public_key = bytes(issuers.current_key(issuer).public_key)
    with no_change(), pytest.raises(IssuanceRefused, match="issuer's own"):
        issue(Grant(issuer, Purpose.MDM_IDENTITY, (("CN", "x"),)), public_key, actor=ACTOR, now=NOW)


@pytest.mark.parametrize(
    "changes",
    [
        {"subject": ()},
        {"subject": (("CN", "a\0b"),)},
        {"subject": (("CN", "x" * 65),)},
        {"subject": (("NOPE", "x"),)},
        {"san": (("DNS", "a b"),)},
    ],
)
def test_grants_that_are_refused(
    issuer: Issuer, ec_key: ec.EllipticCurvePrivateKey, changes: dict[str, object]
) -> None:
    grant = {"issuer": issuer, "purpose": Purpose.MDM_IDENTITY, "subject": (("CN", "x"),)} | changes
    with no_change(), pytest.raises(IssuanceRefused):
        issue(Grant(**grant), spki(ec_key), actor=ACTOR, now=NOW)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"state": IssuerState.RETIRED},
        {"state": IssuerState.REVOKED},
        {"kind": IssuerKind.TRUST_ONLY},
    ],
)
def test_issuers_that_do_not_issue(
    issuer: Issuer, issue_certificate: IssueCertificate, changes: dict[str, str]
) -> None:
    # The caller may have looked earlier: what counts is what the database says now.
    Issuer.objects.update(**changes)
    with no_change(), pytest.raises(IssuanceRefused, match="does not issue"):
        issue_certificate()


def test_an_issuer_without_key_or_certificate(issuer: Issuer, issue_certificate: IssueCertificate) -> None:
    IssuerCertificate.objects.update(is_current=False)
    with no_change(), pytest.raises(IssuanceRefused, match="has no certificate"):
        issue_certificate()
    issuer.keys.update(state="PREVIOUS")
    with no_change(), pytest.raises(IssuanceRefused, match="no current key"):
        issue_certificate()


def test_the_callers_transaction_decides(issuer: Issuer, issue_certificate: IssueCertificate) -> None:
    """Certificate and record are kept together, or neither."""
    with no_change():
        try:
            with transaction.atomic():
                issue_certificate()
                raise RuntimeError("the caller fails after issuance")
        except RuntimeError:
            pass
    assert not AuditEvent.objects.filter(action="certificate.issued").exists()


def test_a_serial_number_that_is_taken_is_drawn_again(
    issue_certificate: IssueCertificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = issue_certificate()
    taken = int(first.serial_number, 16)
    drawn = iter([taken, taken, 12345])
    monkeypatch.setattr("pki.issuance.x509.random_serial_number", lambda: next(drawn))
    second = issue_certificate()
    assert second.serial_number == "3039"
    assert AuditEvent.objects.filter(action="certificate.issued").count() == 2
    monkeypatch.setattr("pki.issuance.x509.random_serial_number", lambda: taken)
    with no_change(), pytest.raises(IssuanceRefused, match="serial number"):
        issue_certificate()


def test_serial_numbers_are_large_and_differ(issue_certificate: IssueCertificate) -> None:
    numbers = {int(issue_certificate(f"device {n}").serial_number, 16) for n in range(50)}
    assert len(numbers) == 50
    assert all(0 < number < 1 << 159 for number in numbers)
    assert max(numbers).bit_length() > 150


def test_a_renewal_remembers(issue_certificate: IssueCertificate) -> None:
    before = issue_certificate()
    after = issue_certificate(renewed_from=before)
    assert (after.renewed_from, list(before.renewals.all())) == (before, [after])


@pytest.mark.django_db(transaction=True)
def test_parallel_issuance(issue_certificate: IssueCertificate) -> None:
    """Every certificate that was handed out is on record, once, with a serial number of its own."""
    given: list[str] = []
    run_in_threads(lambda number: given.append(issue_certificate(f"device {number}").serial_number), 8, 5)
    assert len(set(given)) == 40
    assert set(Certificate.objects.values_list("serial_number", flat=True)) == set(given)


def run_in_threads(work: Callable[[int], object], threads: int, times: int) -> None:
    """Run ``work`` with numbers 0, 1, … in threads that start together; the first fault is raised here."""
    faults: list[BaseException] = []
    start = threading.Barrier(threads)

    def run(first: int) -> None:
        try:
            start.wait()
            for number in range(times):
                with transaction.atomic():
                    work(first + number)
        except BaseException as fault:  # noqa: BLE001 - raised below, in the test's own thread
            faults.append(fault)
        finally:
            connection.close()

    running = [threading.Thread(target=run, args=(index * times,)) for index in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if faults:
        raise faults[0]


# --- Keys that the server holds --------------------------------------------------------------------------


def test_profiles_are_signed_by_a_signer_that_renews_itself(issuer: Issuer, rsa_party: Party) -> None:
    signed = cms.verify_signed_data(sign_profile(b"<plist/>", now=NOW))
    assert signed.content == b"<plist/>"
    signer = Certificate.objects.get(purpose=Purpose.PROFILE_SIGNING)
    assert signed.signer == bytes(signer.der)
    assert set(signed.certificates) == {signed.signer, *issuers.chain(issuer)}
    assert b"PRIVATE" not in bytes(HeldKey.objects.get().private_key_sealed)
    # The same one until its end is near, then a new one.
    again = cms.verify_signed_data(sign_profile(b"<plist/>", now=NOW + timedelta(days=600)))
    assert again.signer == signed.signer
    later = signer.not_after - RENEW_BEFORE + timedelta(seconds=1)
    renewed = cms.verify_signed_data(sign_profile(b"<plist/>", now=later))
    assert renewed.signer != signed.signer
    assert HeldKey.objects.count() == 2
    # A revoked one is not used.
    Certificate.objects.filter(sha256=describe(renewed.signer).sha256).update(status="REVOKED")
    third = cms.verify_signed_data(sign_profile(b"<plist/>", now=later))
    assert third.signer not in (signed.signer, renewed.signer)


def test_the_signer_is_kept_where_the_issuer_ends_first(db: None) -> None:
    issuer = create_issuer("short", "Short", algorithm="RSA-2048", years=1, actor=ACTOR, now=NOW)
    held = profile_signer(issuer, NOW)
    end = held.certificate.not_after
    assert profile_signer(issuer, end - timedelta(days=1)) == held


def test_no_issuer_no_signature(db: None) -> None:
    with pytest.raises(IssuerMissing):
        sign_profile(b"<plist/>", now=NOW)


# --- What would be issued --------------------------------------------------------------------------------


def test_a_preview_says_what_will_be_issued_and_leaves_nothing(
    issuer: Issuer, ec_key: ec.EllipticCurvePrivateKey
) -> None:
    names = (("DNS", "r1.example"),)
    grant = Grant(issuer, Purpose.SERVER_TLS, (("CN", "router"),), names, validity_days=9)
    with no_change():
        fields = preview(grant, spki(ec_key), now=NOW)
    certificate = loaded(issue(grant, spki(ec_key), actor=ACTOR, now=NOW))
    assert fields.serial_number == 0
    assert (fields.subject, fields.san) == (grant.subject, names)
    assert (fields.not_before, fields.not_after) == (
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    )
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert fields.extended_key_usage == ("serverAuth",)
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]


@pytest.mark.parametrize(
    ("subject", "san", "reason"),
    [
        ((), (), "name nobody"),
        ((("CN", "a\nb"),), (), "control characters"),
        ((("CN", "a"),), (("DNS", "a b"),), "DNS"),
    ],
)
def test_a_preview_refuses_what_would_be_refused(
    issuer: Issuer,
    ec_key: ec.EllipticCurvePrivateKey,
    subject: tuple[tuple[str, str], ...],
    san: tuple[tuple[str, str], ...],
    reason: str,
) -> None:
    grant = Grant(issuer, Purpose.SERVER_TLS, subject, san)
    with no_change(), pytest.raises(IssuanceRefused, match=reason):
        preview(grant, spki(ec_key), now=NOW)
