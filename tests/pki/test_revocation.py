"""Revocation and the lists that tell of it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from audit.models import AuditEvent
from pki import issuers, revocation
from pki.core.certificates import encode_pem
from pki.issuers import create_issuer
from pki.models import (
    Certificate,
    CertificateStatus,
    Crl,
    Issuer,
    IssuerKeyState,
    IssuerState,
    Purpose,
    RevocationReason,
)
from pki.revocation import RevocationRefused, current_crl, publish_crl, publish_due_crls, revoke, revoke_all
from pki.tasks import publish_crls
from pki.trust import Untrusted, identify
from tests.pki.conftest import ACTOR, NOW, IssueCertificate, openssl
from tests.pki.test_issuance import run_in_threads
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db


def listed(crl: Crl) -> dict[str, str]:
    """Serial numbers and reasons on a list."""
    found = {}
    for entry in x509.load_der_x509_crl(bytes(crl.der)):
        try:
            reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.value
        except x509.ExtensionNotFound:
            reason = ""
        found[f"{entry.serial_number:X}".zfill(40).lstrip("0")] = reason
    return found


def test_a_revoked_certificate_is_refused_and_listed(
    issuer: Issuer, issue_certificate: IssueCertificate, tmp_path: Path
) -> None:
    good, bad = issue_certificate("good"), issue_certificate("bad")
    before = current_crl(issuers.current_key(issuer))
    assert listed(before) == {}
    revoked = revoke(bad, reason=RevocationReason.KEY_COMPROMISE, actor=ACTOR, now=NOW)
    assert (revoked.status, revoked.revoked_at, revoked.revocation_reason) == (
        CertificateStatus.REVOKED,
        NOW,
        "keyCompromise",
    )
    with pytest.raises(Untrusted, match="revoked"):
        identify(bytes(bad.der), purpose=Purpose.MDM_IDENTITY, now=NOW)
    assert identify(bytes(good.der), purpose=Purpose.MDM_IDENTITY, now=NOW) == good
    crl = current_crl(issuers.current_key(issuer))
    assert crl.number == before.number + 1
    assert listed(crl) == {bad.serial_number.lstrip("0"): "keyCompromise"}
    event = AuditEvent.objects.get(action="certificate.revoked")
    assert (event.reason, event.target_id) == ("keyCompromise", str(bad.pk))

    (tmp_path / "root.pem").write_text(encode_pem(issuers.chain(issuer)[0]))
    openssl("crl", "-inform", "DER", "-out", tmp_path / "crl.pem", stdin=bytes(crl.der))
    at = str(int((NOW + timedelta(hours=1)).timestamp()))
    for certificate, works in ((good, True), (bad, False)):
        (tmp_path / "leaf.pem").write_text(encode_pem(bytes(certificate.der)))
        check = (
            *("verify", "-attime", at, "-crl_check", "-x509_strict", "-CAfile", tmp_path / "root.pem"),
            *("-CRLfile", tmp_path / "crl.pem", tmp_path / "leaf.pem"),
        )
        if works:
            openssl(*check)
        else:
            with pytest.raises(AssertionError, match="revoked"):
                openssl(*check)


def test_revoking_twice(issue_certificate: IssueCertificate) -> None:
    certificate = issue_certificate()
    revoke(certificate, reason=RevocationReason.SUPERSEDED, actor=ACTOR, now=NOW)
    with no_change(), pytest.raises(RevocationRefused, match="already"):
        revoke(certificate, reason=RevocationReason.KEY_COMPROMISE, actor=ACTOR, now=NOW)
    assert not revoke_all([], reason=RevocationReason.SUPERSEDED, actor=ACTOR, now=NOW)


def test_many_at_once_make_one_list(issuer: Issuer, issue_certificate: IssueCertificate) -> None:
    rows = [issue_certificate(f"device {number}") for number in range(5)]
    number = current_crl(issuers.current_key(issuer)).number
    ids = [row.pk for row in rows[:4]]
    assert revoke_all(ids, reason=RevocationReason.UNSPECIFIED, actor=ACTOR, now=NOW) == 4
    crl = current_crl(issuers.current_key(issuer))
    assert (crl.number, crl.entries) == (number + 1, 4)
    assert set(listed(crl).values()) == {""}


def test_a_superseded_certificate_can_be_revoked(issue_certificate: IssueCertificate) -> None:
    certificate = issue_certificate()
    Certificate.objects.update(status=CertificateStatus.SUPERSEDED)
    revoke(certificate, reason=RevocationReason.KEY_COMPROMISE, actor=ACTOR, now=NOW)
    assert certificate.status == CertificateStatus.REVOKED


def test_expired_certificates_leave_the_list(issuer: Issuer, issue_certificate: IssueCertificate) -> None:
    """RFC 5280 section 3.3: each stands on one scheduled list after its end."""
    short, long = issue_certificate("short", validity_days=30), issue_certificate("long")
    for certificate in (short, long):
        revoke(certificate, reason=RevocationReason.UNSPECIFIED, actor=ACTOR, now=NOW)
    issuer_key = issuers.current_key(issuer)
    ends = short.not_after
    assert publish_crl(issuer_key, ends - timedelta(hours=2)).entries == 2
    # Lists out of turn, because something else was revoked, are no reason to leave it out.
    for hours in (1, 2, 3):
        assert publish_crl(issuer_key, ends + timedelta(hours=hours)).entries == 2
    assert publish_crl(issuer_key, ends + timedelta(hours=25)).entries == 1


def test_an_expired_certificate_is_listed_once_more_after_a_pause(
    issuer: Issuer, issue_certificate: IssueCertificate
) -> None:
    """The workers were away for weeks around its end."""
    short = issue_certificate("short", validity_days=30)
    revoke(short, reason=RevocationReason.UNSPECIFIED, actor=ACTOR, now=NOW)
    issuer_key = issuers.current_key(issuer)
    assert publish_crl(issuer_key, short.not_after + timedelta(days=20)).entries == 1
    assert publish_crl(issuer_key, short.not_after + timedelta(days=21)).entries == 0


def test_revoking_does_not_wait_for_the_key(issuer: Issuer, issue_certificate: IssueCertificate) -> None:
    """While the token is away the certificate is refused at once; the list follows when it can be signed."""
    certificate, issuer_key = issue_certificate(), issuers.current_key(issuer)
    before = current_crl(issuer_key)
    sealed = bytes(issuer_key.private_key_sealed or b"")
    issuer.keys.update(private_key_sealed=b"\x01" * 60)
    revoke(certificate, reason=RevocationReason.KEY_COMPROMISE, actor=ACTOR, now=NOW)
    with pytest.raises(Untrusted, match="revoked"):
        identify(bytes(certificate.der), purpose=Purpose.MDM_IDENTITY, now=NOW)
    assert current_crl(issuer_key) == before
    assert publish_due_crls(NOW) == 0
    issuer.keys.update(private_key_sealed=sealed)
    assert publish_due_crls(NOW) == 1
    assert listed(current_crl(issuer_key)) == {certificate.serial_number.lstrip("0"): "keyCompromise"}
    assert publish_due_crls(NOW) == 0


def test_each_key_has_its_own_list_and_numbers(issuer: Issuer, issue_certificate: IssueCertificate) -> None:
    other = create_issuer("other", "Other", algorithm="EC-P256", actor=ACTOR, now=NOW)
    certificate = issue_certificate()
    revoke(certificate, reason=RevocationReason.UNSPECIFIED, actor=ACTOR, now=NOW)
    assert current_crl(issuers.current_key(other)).number == 1
    assert listed(current_crl(issuers.current_key(other))) == {}


def test_lists_are_replaced_daily(issuer: Issuer) -> None:
    assert publish_due_crls(NOW + timedelta(hours=23)) == 0
    assert publish_due_crls(NOW + timedelta(hours=24)) == 1
    assert publish_due_crls(NOW + timedelta(hours=24)) == 0
    crl = current_crl(issuers.current_key(issuer))
    assert (crl.number, crl.next_update - crl.this_update) == (2, timedelta(days=7))


def test_a_missing_list_is_made(issuer: Issuer) -> None:
    Crl.objects.all().delete()
    with pytest.raises(Crl.DoesNotExist):
        current_crl(issuers.current_key(issuer))
    assert publish_crls() == 1
    # The number goes on from where it was, whatever became of the rows.
    assert current_crl(issuers.current_key(issuer)).number == 2


def test_a_key_that_does_not_open_does_not_stop_the_others(issuer: Issuer) -> None:
    other = create_issuer("aaa", "Other", algorithm="EC-P256", actor=ACTOR, now=NOW)
    other.keys.update(private_key_sealed=b"\x01" * 60)
    later = NOW + timedelta(days=2)
    assert publish_due_crls(later) == 1
    assert current_crl(issuers.current_key(issuer)).this_update == later
    assert current_crl(issuers.current_key(other)).this_update == NOW


def test_every_generation_has_its_list(issuer: Issuer) -> None:
    for days, state in enumerate(IssuerKeyState, start=1):
        issuer.keys.update(state=state)
        assert publish_due_crls(NOW + timedelta(days=2 * days)) == 1


def test_the_last_list_of_a_revoked_issuer_stays(issuer: Issuer) -> None:
    Issuer.objects.update(state=IssuerState.REVOKED)
    last = publish_crl(issuers.current_key(issuer), NOW + timedelta(days=1))
    assert last.next_update == issuers.current_certificate(issuers.current_key(issuer)).not_after
    assert publish_due_crls(NOW + timedelta(days=400)) == 0
    Crl.objects.all().delete()
    assert publish_due_crls(NOW + timedelta(days=400)) == 1


def test_old_lists_are_dropped(issuer: Issuer) -> None:
    issuer_key = issuers.current_key(issuer)
    for day in range(15):
        publish_crl(issuer_key, NOW + timedelta(days=day))
    assert Crl.objects.count() == revocation.KEPT_LISTS
    assert current_crl(issuer_key).number == 16
    assert issuer_key.crl_number == 16


@pytest.mark.django_db(transaction=True)
def test_parallel_revocations(issuer: Issuer, issue_certificate: IssueCertificate) -> None:
    """F3: every number once, and the newest list knows every revocation."""
    rows = [issue_certificate(f"device {number}") for number in range(12)]
    run_in_threads(
        lambda number: revoke(rows[number], reason=RevocationReason.UNSPECIFIED, actor=ACTOR, now=NOW), 4, 3
    )
    issuer_key = issuers.current_key(issuer)
    assert issuer_key.crl_number == 13
    assert current_crl(issuer_key).number == 13
    assert set(listed(current_crl(issuer_key))) == {row.serial_number.lstrip("0") for row in rows}
