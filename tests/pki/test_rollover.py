"""Renewing and re-keying an issuer: what stays, what changes hands, and that it does so once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.models import AuditEvent
from pki import issuers, keys, rollover, trust
from pki.core import cms
from pki.core.authority import Term, certify_again, certify_new_key
from pki.core.certificates import (
    CertificateFields,
    build_certificate,
    build_root,
    describe,
    encode_pem,
    key_usages_of,
    load_certificate,
    read_identifiers,
    subject_key_identifier,
)
from pki.core.path import verify_issued_by
from pki.core.scan import Malformed
from pki.issuance import Grant, IssuanceRefused, issue
from pki.models import (
    Certificate,
    Crl,
    Issuer,
    IssuerCertificate,
    IssuerCertificateKind,
    IssuerKey,
    IssuerKeyState,
    IssuerKind,
    IssuerState,
    Purpose,
    RevocationReason,
)
from pki.revocation import current_crl, revoke
from pki.rollover import RolloverRefused
from pki.signing import sign_profile
from pki.tasks import activate_due_keys
from pki.trust import Untrusted, identify
from tests.pki.conftest import ACTOR, NOW, IssueCertificate, openssl, self_signed, spki
from tests.support.device_door import DeviceClient
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db
MDM = Purpose.MDM_IDENTITY
DAY = timedelta(days=1)


def current(issuer: Issuer) -> IssuerCertificate:
    return issuers.current_certificate(issuers.current_key(issuer))


def refused(work: Callable[[], object], match: str) -> None:
    with no_change(), pytest.raises(RolloverRefused, match=match):
        work()


def rekeyed(issuer: Issuer, **options: object) -> IssuerKey:
    """An issuer that has been re-keyed, and the new key in use."""
    rollover.rekey(issuer, actor=ACTOR, now=NOW + DAY, **options)  # type: ignore[arg-type]
    return rollover.activate(issuer, actor=ACTOR, now=NOW + DAY)


def leaf(issuer: Issuer, name: str = "device", **options: object) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    now = options.pop("now", NOW + DAY)
    grant = Grant(issuer, MDM, (("CN", name),), reason="test", **options)  # type: ignore[arg-type]
    return issue(grant, spki(key), actor=ACTOR, now=now)  # type: ignore[arg-type]


# --- Renewing --------------------------------------------------------------------------------------------


def test_a_renewal_keeps_what_others_recognise_the_issuer_by(
    issuer: Issuer, issue_certificate: IssueCertificate
) -> None:
    device, before = issue_certificate(), current(issuer)
    lists = Crl.objects.count()
    after = rollover.renew(issuer, actor=ACTOR, now=NOW + 100 * DAY)
    old, new = bytes(before.der), bytes(after.der)
    assert read_identifiers(new).subject == read_identifiers(old).subject == bytes(issuer.subject_der)
    assert read_identifiers(new).issuer == read_identifiers(old).issuer
    assert read_identifiers(new).public_key == read_identifiers(old).public_key
    assert subject_key_identifier(load_certificate(new)) == subject_key_identifier(load_certificate(old))
    assert key_usages_of(new) == key_usages_of(old)
    assert after.serial_number != before.serial_number
    assert after.not_after - before.not_after == 100 * DAY
    # One row is handed out, the other is history; the CRL is there anew.
    before.refresh_from_db()
    assert (before.is_current, after.is_current, current(issuer)) == (False, True, after)
    assert Crl.objects.count() == lists + 1
    assert DeviceClient().request("GET", "/pki/bramley/ca.cer").body == new
    # Old leaves validate with the new certificate, new ones with the old.
    verify_issued_by(bytes(device.der), new)
    verify_issued_by(bytes(leaf(issuer, now=NOW + 100 * DAY).der), old)
    assert identify(bytes(device.der), purpose=MDM, now=NOW + 100 * DAY) == device
    event = AuditEvent.objects.get(action="issuer.renewed")
    assert event.details["after"]["serial_number"] == after.serial_number


def test_renewals_that_are_refused(issuer: Issuer) -> None:
    seen = current(issuer)
    for years in (0, 41, -1):
        refused(lambda: rollover.renew(issuer, actor=ACTOR, now=NOW, years=years), "1 to 40")  # noqa: B023
    refused(lambda: rollover.renew(issuer, actor=ACTOR, now=NOW, years=5), "ends later")
    rollover.renew(issuer, actor=ACTOR, now=NOW, years=12)
    refused(
        lambda: rollover.renew(issuer, actor=ACTOR, now=NOW, years=15, replaces=seen.pk), "in the meantime"
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state": IssuerState.RETIRED}, "retired"),
        ({"state": IssuerState.REVOKED}, "revoked"),
        ({"state": IssuerState.AWAITING}, "no certificate yet"),
        ({"kind": IssuerKind.TRUST_ONLY}, "only trusted"),
        ({"kind": IssuerKind.EXTERNAL}, "external CA"),
    ],
)
def test_issuers_that_are_not_renewed(issuer: Issuer, changes: dict[str, str], reason: str) -> None:
    Issuer.objects.update(**changes)
    refused(lambda: rollover.renew(issuer, actor=ACTOR, now=NOW, years=20), reason)


def test_a_key_that_does_not_open_changes_nothing(issuer: Issuer) -> None:
    IssuerKey.objects.update(private_key_sealed=b"\x01" * 60)
    opens = "does not open|cannot be opened|seal|key"
    refused(lambda: rollover.renew(issuer, actor=ACTOR, now=NOW, years=20), opens)
    refused(lambda: rollover.rekey(issuer, actor=ACTOR, now=NOW), opens)


NAMES = st.lists(
    st.tuples(
        st.sampled_from(["CN", "O", "OU", "L", "ST", "UID", "emailAddress", "DC", "serialNumber"]),
        st.text(
            st.characters(codec="utf-8", categories=("L", "N", "P")) | st.sampled_from(" "),
            min_size=1,
            max_size=40,
        ),
    ),
    min_size=1,
    max_size=5,
).map(tuple)


@given(name=NAMES, path_length=st.none() | st.integers(0, 5), days=st.integers(1, 20000))
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
def test_property_renewed_is_old_but_for_number_and_time(
    rsa_key: rsa.RSAPrivateKey,
    ec_key: ec.EllipticCurvePrivateKey,
    name: tuple[tuple[str, str], ...],
    path_length: int | None,
    days: int,
) -> None:
    """DN DER, SKI and KU of the renewed certificate are those of the old one (and so is the path length)."""
    for key in (rsa_key, ec_key):
        try:
            old = build_root(
                name,
                private_key=key,
                serial_number=77,
                not_before=NOW,
                not_after=NOW + DAY,
                path_length=path_length,
            )
        except Malformed:
            return
        new = certify_again(old, Term(78, NOW, NOW + days * DAY), private_key=key)
        assert read_identifiers(new).subject == read_identifiers(old).subject
        assert read_identifiers(new).public_key == read_identifiers(old).public_key
        before, after = load_certificate(old), load_certificate(new)
        assert list(after.extensions) == list(before.extensions)
        assert key_usages_of(new) == key_usages_of(old)
        assert after.serial_number == 78


def test_names_keep_the_encoding_that_they_came_in(rsa_key: rsa.RSAPrivateKey, tmp_path: Path) -> None:
    """PrintableString, T61String, several attributes in one part: taken over byte by byte (cases A5, D)."""
    config = tmp_path / "x.cnf"
    config.write_text(
        "[req]\ndistinguished_name=d\nstring_mask=default\nprompt=no\n"
        "[d]\nC=GB\nO=Acme\n+OU=Devices\nCN=Acme CA é\n"
        "[ca]\nbasicConstraints=critical,CA:TRUE\n"
        "keyUsage=critical,digitalSignature,keyEncipherment,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n"
    )
    key_file, _ = self_signed(rsa_key).write(tmp_path, "key")
    der = openssl(
        "req", "-new", "-x509", "-key", key_file, "-config", config, "-extensions", "ca", "-outform", "DER"
    )
    new = certify_again(der, Term(5, NOW, NOW + DAY), private_key=rsa_key)
    assert read_identifiers(new).subject == read_identifiers(der).subject
    other = ec.generate_private_key(ec.SECP256R1())
    next_one = certify_new_key(der, spki(other), Term(6, NOW, NOW + DAY), private_key=other)
    assert read_identifiers(next_one).subject == read_identifiers(der).subject


# --- Re-keying -------------------------------------------------------------------------------------------


def test_a_re_key_makes_the_next_generation_whole(
    issuer: Issuer, issue_certificate: IssueCertificate
) -> None:
    device, old = issue_certificate(), current(issuer)
    made = rollover.rekey(issuer, actor=ACTOR, now=NOW + DAY)
    assert (made.generation, made.state, made.algorithm) == (2, IssuerKeyState.NEXT, "RSA-2048")
    assert issuers.next_key(issuer) == made
    # Nothing has changed hands.
    assert current(issuer) == old
    assert issuers.current_key(issuer).generation == 1
    new = issuers.current_certificate(made)
    assert read_identifiers(bytes(new.der)).subject == read_identifiers(bytes(old.der)).subject
    assert describe(bytes(new.der)).subject_key_identifier == bytes(made.key_identifier)
    assert key_usages_of(bytes(new.der)) == key_usages_of(bytes(old.der))
    # Links both ways, never handed out as the certificate of a key.
    (new_with_old,) = made.certificates.filter(kind=IssuerCertificateKind.NEW_WITH_OLD)
    (old_with_new,) = IssuerCertificate.objects.filter(kind=IssuerCertificateKind.OLD_WITH_NEW)
    assert (old_with_new.issuer_key.generation, old_with_new.signed_by) == (1, made)
    verify_issued_by(bytes(new_with_old.der), bytes(old.der))
    verify_issued_by(bytes(old_with_new.der), bytes(new.der))
    assert issuers.links_to(made) == [bytes(new_with_old.der)]
    assert not new_with_old.is_current
    assert new_with_old.not_after <= min(old.not_after, new.not_after)
    # A list of its own.
    crl = x509.load_der_x509_crl(bytes(current_crl(made).der))
    assert crl.is_signature_valid(load_certificate(bytes(new.der)).public_key())  # type: ignore[arg-type]
    assert DeviceClient().request("GET", "/pki/bramley/2.crl").status == 200
    assert DeviceClient().request("GET", "/pki/bramley/2.cer").body == bytes(new.der)
    assert DeviceClient().request("GET", "/pki/bramley/ca.cer").body == bytes(old.der)
    assert identify(bytes(device.der), purpose=MDM, now=NOW + DAY) == device
    bundle = issuers.trust_bundle(issuer)
    assert bundle[:2] == [bytes(old.der), bytes(new.der)]
    assert set(bundle[2:]) == {bytes(old_with_new.der), bytes(new_with_old.der)}


def test_the_next_key_issues_where_it_is_named(issuer: Issuer) -> None:
    """For requests that are encrypted to the next CA certificate (RFC 8894 section 5.1)."""
    made = rollover.rekey(issuer, actor=ACTOR, now=NOW + DAY)
    by_next, by_current = leaf(issuer, issuer_key=made), leaf(issuer)
    assert (by_next.issuer_key.generation, by_current.issuer_key.generation) == (2, 1)
    assert identify(bytes(by_next.der), purpose=MDM, now=NOW + DAY) == by_next
    rollover.activate(issuer, actor=ACTOR, now=NOW + DAY)
    earlier = issuer.keys.get(generation=1)
    with no_change(), pytest.raises(IssuanceRefused, match="generation"):
        leaf(issuer, issuer_key=earlier)


def test_re_keys_that_are_refused(issuer: Issuer) -> None:
    refused(lambda: rollover.rekey(issuer, actor=ACTOR, now=NOW, algorithm="EC-P256"), "RSA key")
    refused(lambda: rollover.rekey(issuer, actor=ACTOR, now=NOW, algorithm="RSA-512"), "unknown algorithm")
    refused(lambda: rollover.rekey(issuer, actor=ACTOR, now=NOW, years=0), "1 to 40")
    rollover.rekey(issuer, actor=ACTOR, now=NOW)
    refused(lambda: rollover.rekey(issuer, actor=ACTOR, now=NOW), "next key already")
    Issuer.objects.update(state=IssuerState.RETIRED)
    refused(lambda: rollover.rekey(issuer, actor=ACTOR, now=NOW), "retired")
    refused(lambda: rollover.activate(issuer, actor=ACTOR, now=NOW), "retired")


def test_handing_over(issuer: Issuer, issue_certificate: IssueCertificate) -> None:
    """The new key issues, old identities go on, and each generation keeps its CRL and its address."""
    device, old = issue_certificate("old"), current(issuer)
    made = rekeyed(issuer)
    before, after = issuers.keys_of(issuer)[1], issuers.current_key(issuer)
    assert (before.state, before.replaced_at) == (IssuerKeyState.PREVIOUS, NOW + DAY)
    assert (after, after.state, after.activated_at) == (made, IssuerKeyState.CURRENT, NOW + DAY)
    assert issuers.next_key(issuer) is None
    fresh = leaf(issuer, "new")
    assert fresh.issuer_key == made
    for certificate in (device, fresh):
        assert identify(bytes(certificate.der), purpose=MDM, now=NOW + DAY) == certificate
    names = [
        x509.load_der_x509_certificate(bytes(row.der))
        .extensions.get_extension_for_class(x509.CRLDistributionPoints)
        .value[0]
        .full_name[0]
        .value
        for row in (device, fresh)
    ]
    assert [name.rsplit("/", 1)[1] for name in names] == ["1.crl", "2.crl"]
    # Revoking one of the old generation goes on the old generation's list, which goes on answering.
    number = current_crl(before).number
    revoke(device, reason=RevocationReason.SUPERSEDED, actor=ACTOR, now=NOW + 2 * DAY)
    assert current_crl(before).number == number + 1
    crl = x509.load_der_x509_crl(DeviceClient().request("GET", "/pki/bramley/1.crl").body)
    assert crl.get_revoked_certificate_by_serial_number(int(device.serial_number, 16))
    assert crl.is_signature_valid(load_certificate(bytes(old.der)).public_key())  # type: ignore[arg-type]
    with pytest.raises(Untrusted, match="revoked"):
        identify(bytes(device.der), purpose=MDM, now=NOW + 2 * DAY)


def test_an_attacker_with_the_same_name_is_not_trusted(issuer: Issuer) -> None:
    """B17: name, key identifier and serial number are copied; the bytes are not in our record."""
    device = leaf(issuer, now=NOW)
    rekeyed(issuer)
    own = bytes(current(issuer).der)
    attacker = rsa.generate_private_key(65537, 2048)
    fake_root = certify_new_key(own, spki(attacker), Term(1, NOW, NOW + 900 * DAY), private_key=attacker)
    assert read_identifiers(fake_root).subject == read_identifiers(own).subject
    fields = CertificateFields(
        subject=(("CN", "device"),),
        public_key=spki(ec.generate_private_key(ec.SECP256R1())),
        serial_number=int(device.serial_number, 16),
        not_before=NOW,
        not_after=NOW + 100 * DAY,
        extended_key_usage=("clientAuth",),
    )
    forged = build_certificate(fields, issuer_certificate=fake_root, private_key=attacker)
    with no_change(), pytest.raises(Untrusted, match="unknown certificate"):
        identify(forged, purpose=MDM, now=NOW + DAY)
    assert identify(bytes(device.der), purpose=MDM, now=NOW + DAY) == device


def test_profiles_are_signed_by_the_key_in_use(issuer: Issuer) -> None:
    first = cms.verify_signed_data(sign_profile(b"<plist/>", now=NOW))
    rekeyed(issuer)
    second = cms.verify_signed_data(sign_profile(b"<plist/>", now=NOW + DAY))
    assert second.signer != first.signer
    verify_issued_by(second.signer, bytes(current(issuer).der))
    # Who knows only the old root finds the way by the link.
    assert set(issuers.links_to(issuers.current_key(issuer))) <= set(second.certificates)


# --- Activation ------------------------------------------------------------------------------------------


def test_activation_waits_for_its_time(issuer: Issuer) -> None:
    rollover.rekey(issuer, actor=ACTOR, now=NOW, activate_at=NOW + 7 * DAY)
    assert rollover.activate_due_keys(NOW + 7 * DAY - timedelta(seconds=1)) == 0
    assert issuers.current_key(issuer).generation == 1
    assert rollover.activate_due_keys(NOW + 7 * DAY) == 1
    assert issuers.current_key(issuer).generation == 2
    assert rollover.activate_due_keys(NOW + 8 * DAY) == 0
    event = AuditEvent.objects.get(action="issuer.key_activated")
    assert (event.actor, event.details) == ("server", {"generation": 2, "before": 1})


def test_the_time_can_be_changed(issuer: Issuer) -> None:
    refused(lambda: rollover.schedule(issuer, NOW, actor=ACTOR, now=NOW), "no next key")
    refused(lambda: rollover.activate(issuer, actor=ACTOR, now=NOW), "no next key")
    rollover.rekey(issuer, actor=ACTOR, now=NOW, activate_at=NOW + DAY)
    rollover.schedule(issuer, None, actor=ACTOR, now=NOW)
    assert rollover.activate_due_keys(NOW + 100 * DAY) == 0
    rollover.schedule(issuer, NOW + DAY, actor=ACTOR, now=NOW)
    Issuer.objects.update(state=IssuerState.RETIRED)
    assert rollover.activate_due_keys(NOW + DAY) == 0
    Issuer.objects.update(state=IssuerState.ACTIVE)
    assert rollover.activate_due_keys(NOW + DAY) == 1


def test_an_ended_certificate_is_not_activated(issuer: Issuer) -> None:
    rollover.rekey(issuer, actor=ACTOR, now=NOW, years=1, activate_at=NOW + DAY)
    with no_change():
        assert rollover.activate_due_keys(NOW + 400 * DAY) == 0
    refused(lambda: rollover.activate(issuer, actor=ACTOR, now=NOW + 400 * DAY), "not valid now")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("way", ["sweep", "by hand", "both"])
def test_two_workers_activate_once(issuer: Issuer, way: str) -> None:
    """The clock is past the activation, and everybody looks at the same moment."""
    rollover.rekey(issuer, actor=ACTOR, now=NOW, activate_at=NOW)
    later = NOW + DAY
    done: list[int] = []
    start = threading.Barrier(4)

    def work(number: int) -> None:
        try:
            start.wait()
            if way == "sweep" or (way == "both" and number % 2):
                done.append(rollover.activate_due_keys(later))
            else:
                try:
                    rollover.activate(issuer, actor=ACTOR, now=later)
                    done.append(1)
                except RolloverRefused:
                    done.append(0)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [0, 0, 0, 1]
    assert AuditEvent.objects.filter(action="issuer.key_activated").count() == 1
    states = dict(IssuerKey.objects.values_list("generation", "state"))
    assert states == {1: IssuerKeyState.PREVIOUS, 2: IssuerKeyState.CURRENT}


def test_the_sweep_is_on_the_clock() -> None:
    from mdm_project.celery import app

    assert "pki.tasks.activate_due_keys" in {entry["task"] for entry in app.conf.beat_schedule.values()}
    assert activate_due_keys() == 0


# --- The end of a generation -----------------------------------------------------------------------------


def test_a_generation_closes_when_nothing_hangs_on_it(
    issuer: Issuer, issue_certificate: IssueCertificate
) -> None:
    device = issue_certificate()
    sign_profile(b"<plist/>", now=NOW)  # the server's own signer does not count: it is replaced by itself
    rekeyed(issuer)
    earlier = issuer.keys.get(generation=1)
    assert issuers.live_count(earlier, NOW + DAY) == 1
    refused(lambda: rollover.close(earlier, actor=ACTOR, now=NOW + DAY), "one certificate in force")
    assert identify(bytes(device.der), purpose=MDM, now=NOW + DAY) == device

    Certificate.objects.filter(pk=device.pk).update(status="SUPERSEDED")
    assert issuers.live_count(earlier, NOW + DAY) == 0
    closed = rollover.close(earlier, actor=ACTOR, now=NOW + 2 * DAY)
    assert (closed.state, closed.closed_at) == (IssuerKeyState.CLOSED, NOW + 2 * DAY)
    refused(lambda: rollover.close(earlier, actor=ACTOR, now=NOW), "closed already")
    # The new key no longer vouches for the old one, and says so on its list.
    (link,) = earlier.certificates.filter(kind=IssuerCertificateKind.OLD_WITH_NEW)
    assert link.revoked_at == NOW + 2 * DAY
    crl = x509.load_der_x509_crl(bytes(current_crl(issuers.current_key(issuer)).der))
    assert crl.get_revoked_certificate_by_serial_number(int(link.serial_number, 16))
    assert DeviceClient().request("GET", "/pki/bramley/1.crl").status == 200


def test_closing_by_force_refuses_what_hangs_on_it(
    issuer: Issuer, issue_certificate: IssueCertificate
) -> None:
    device = issue_certificate()
    rekeyed(issuer)
    fresh = leaf(issuer)
    rollover.close(issuer.keys.get(generation=1), actor=ACTOR, now=NOW + DAY, force=True)
    with pytest.raises(Untrusted, match="issuer not trusted"):
        identify(bytes(device.der), purpose=MDM, now=NOW + DAY)
    assert identify(bytes(fresh.der), purpose=MDM, now=NOW + DAY) == fresh
    assert AuditEvent.objects.get(action="issuer.key_closed").details["in_force"] == 1


def test_the_key_in_use_is_not_closed(issuer: Issuer) -> None:
    refused(lambda: rollover.close(issuers.current_key(issuer), actor=ACTOR, now=NOW, force=True), "in use")


def test_a_next_key_can_be_discarded(issuer: Issuer) -> None:
    made = rollover.rekey(issuer, actor=ACTOR, now=NOW, activate_at=NOW + DAY)
    discarded = rollover.close(made, actor=ACTOR, now=NOW)
    assert (discarded.state, issuers.next_key(issuer)) == (IssuerKeyState.CLOSED, None)
    assert rollover.activate_due_keys(NOW + 2 * DAY) == 0
    # What the key in use certified of it is revoked.
    crl = x509.load_der_x509_crl(bytes(current_crl(issuers.current_key(issuer)).der))
    (link,) = made.certificates.filter(kind=IssuerCertificateKind.NEW_WITH_OLD)
    assert crl.get_revoked_certificate_by_serial_number(int(link.serial_number, 16))
    assert rollover.rekey(issuer, actor=ACTOR, now=NOW).generation == 3


def test_three_generations(issuer: Issuer, issue_certificate: IssueCertificate) -> None:
    devices = [issue_certificate("first")]
    for round_ in range(1, 3):
        later = NOW + round_ * DAY
        rollover.rekey(issuer, actor=ACTOR, now=later)
        rollover.activate(issuer, actor=ACTOR, now=later)
        devices.append(leaf(issuer, f"round {round_}", now=later))
    assert [key.state for key in issuers.keys_of(issuer)] == ["CURRENT", "PREVIOUS", "PREVIOUS"]
    for device in devices:
        assert identify(bytes(device.der), purpose=MDM, now=NOW + 2 * DAY) == device
    assert len(issuers.trust_bundle(issuer)) == 3 + 4
    assert trust.authorities(MDM)


def test_exported_files_satisfy_openssl(issuer: Issuer, tmp_path: Path) -> None:
    """The bundle alone is enough to check leaves of both generations."""
    device = leaf(issuer, now=NOW)
    rekeyed(issuer)
    fresh = leaf(issuer)
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("".join(encode_pem(der) for der in issuers.trust_bundle(issuer)))
    at = str(int((NOW + DAY).timestamp()))
    for certificate in (device, fresh):
        file = tmp_path / "leaf.pem"
        file.write_text(encode_pem(bytes(certificate.der)))
        assert b": OK" in openssl("verify", "-attime", at, "-x509_strict", "-CAfile", bundle, file)


def test_private_keys_of_all_generations_open(issuer: Issuer) -> None:
    rekeyed(issuer)
    for issuer_key in issuer.keys.all():
        own = issuers.current_certificate(issuer_key)
        public_key = load_certificate(bytes(own.der)).public_key()
        assert keys.issuer_private_key(issuer_key).public_key() == public_key
