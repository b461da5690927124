"""The end of an issuer: what is said beforehand, and what happens."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509

from audit.models import AuditEvent
from pki import issuers, retirement, rollover
from pki.core.certificates import build_root, encode_pem
from pki.issuance import IssuanceRefused
from pki.models import (
    Certificate,
    CertificateStatus,
    Issuer,
    IssuerState,
    Purpose,
    RevocationReason,
)
from pki.retirement import RetirementRefused, consequences, resume, retire, revoke_issuer
from pki.revocation import current_crl, publish_due_crls
from pki.subordinate import (
    create_external,
    create_subordinate,
    import_certificate,
    request_certificate,
)
from pki.tasks import settle_revoked_issuers
from pki.trust import Untrusted, identify, trust_issuer
from tests.pki.conftest import ACTOR, NOW, IssueCertificate, Party
from tests.pki.external_ca import YEAR, ExternalCa
from tests.pki.test_subordinate import leaf, pem
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db
MDM = Purpose.MDM_IDENTITY
DAY = timedelta(days=1)
COMPROMISED = RevocationReason.KEY_COMPROMISE


def refused_identity(certificate: Certificate) -> str:
    with pytest.raises(Untrusted) as error:
        identify(bytes(certificate.der), purpose=certificate.purpose, now=NOW)  # type: ignore[arg-type]
    return error.value.reason


def numbers(issuer: Issuer, generation: int = 1) -> set[int]:
    """The serial numbers on the newest list of a generation."""
    crl = x509.load_der_x509_crl(bytes(current_crl(issuer.keys.get(generation=generation)).der))
    return {entry.serial_number for entry in crl}


def test_retiring(issuer: Issuer, issue_certificate: IssueCertificate) -> None:
    device = issue_certificate()
    retired = retire(issuer, actor=ACTOR, now=NOW)
    assert (retired.state, retired.retired_at) == (IssuerState.RETIRED, NOW)
    with no_change(), pytest.raises(IssuanceRefused):
        issue_certificate("another")
    # What was issued stays valid, and lists go on.
    assert identify(bytes(device.der), purpose=MDM, now=NOW) == device
    assert publish_due_crls(NOW + 2 * DAY) == 1
    with no_change(), pytest.raises(RetirementRefused):
        retire(issuer, actor=ACTOR, now=NOW)
    assert resume(issuer, actor=ACTOR, now=NOW).state == IssuerState.ACTIVE
    assert issue_certificate("another").status == CertificateStatus.ISSUED
    with no_change(), pytest.raises(RetirementRefused):
        resume(issuer, actor=ACTOR, now=NOW)
    assert [event.action for event in AuditEvent.objects.filter(action__startswith="issuer.r")] == [
        "issuer.resumed",
        "issuer.retired",
    ]


def test_consequences_are_counted_first(issuer: Issuer, issue_certificate: IssueCertificate) -> None:
    devices = [issue_certificate(f"device {number}") for number in range(3)]
    issue_certificate("server", purpose=Purpose.SERVER_TLS)
    issue_certificate(
        "signer", purpose=Purpose.PROFILE_SIGNING
    )  # the server's own: nobody has to do anything
    Certificate.objects.filter(pk=devices[2].pk).update(status=CertificateStatus.SUPERSEDED)
    below = create_subordinate("below", "B", parent=issuer, algorithm="EC-P256", actor=ACTOR, now=NOW)
    leaf(below)
    with no_change():
        told = consequences(issuer, NOW)
    assert (told.certificates, told.devices, told.subordinates) == (4, 3, (below,))
    assert told.to_revoke_elsewhere == ()
    assert consequences(issuer, NOW + 800 * DAY).certificates == 0
    rollover.rekey(issuer, actor=ACTOR, now=NOW)
    of_next = consequences(issuer, NOW, issuer_key=issuers.next_key(issuer))
    assert (of_next.certificates, of_next.subordinates) == (0, ())


def test_revoking_a_root(issuer: Issuer, issue_certificate: IssueCertificate) -> None:
    devices = [issue_certificate(f"device {number}") for number in range(3)]
    rollover.rekey(issuer, actor=ACTOR, now=NOW)
    rollover.activate(issuer, actor=ACTOR, now=NOW)
    fresh = leaf(issuer, "fresh")
    rollover.rekey(issuer, actor=ACTOR, now=NOW)
    below = create_subordinate("below", "B", parent=issuer, algorithm="EC-P256", actor=ACTOR, now=NOW)
    under = leaf(below)
    concerned = revoke_issuer(issuer, reason=COMPROMISED, actor=ACTOR, now=NOW)
    assert (concerned.devices, concerned.subordinates) == (5, (below,))
    issuer.refresh_from_db()
    assert (issuer.state, issuer.revoked_at) == (IssuerState.REVOKED, NOW)
    assert [key.state for key in issuers.keys_of(issuer)] == ["CLOSED", "CURRENT", "PREVIOUS"]
    for certificate in (*devices, fresh, under):
        certificate.refresh_from_db()
        assert (certificate.status, certificate.revocation_reason) == ("REVOKED", "keyCompromise")
        assert refused_identity(certificate) == "revoked"
    # The last lists name all of them, and are valid as long as the CA certificates.
    assert {int(device.serial_number, 16) for device in devices} <= numbers(issuer, 1)
    assert int(fresh.serial_number, 16) in numbers(issuer, 2)
    assert numbers(below) == {int(under.serial_number, 16)}
    sub_certificate = issuers.current_certificate(below.keys.get())
    assert int(sub_certificate.serial_number, 16) in numbers(issuer, 2)
    for issuer_key in issuer.keys.all():
        own = issuers.current_certificate(issuer_key)
        assert current_crl(issuer_key).next_update == own.not_after
    assert publish_due_crls(NOW + 30 * DAY) == 0
    with no_change(), pytest.raises(RetirementRefused, match="already"):
        revoke_issuer(issuer, reason=COMPROMISED, actor=ACTOR, now=NOW)
    for wanted in (issuer, below):
        with no_change(), pytest.raises(IssuanceRefused):
            leaf(wanted)
    events = AuditEvent.objects.filter(action="issuer.revoked")
    assert {event.target_label for event in events} == {"Bramley Test CA", "B"}


def test_revoking_a_subordinate_names_every_certificate_for_its_key(issuer: Issuer) -> None:
    """Cases D7 and D8: the renewed one for the same key would still validate, so both go on the list."""
    below = create_subordinate("below", "B", parent=issuer, algorithm="EC-P256", actor=ACTOR, now=NOW)
    first = issuers.current_certificate(below.keys.get())
    second = rollover.renew(below, actor=ACTOR, now=NOW + DAY)
    device = leaf(issuer)
    revoke_issuer(below, reason=COMPROMISED, actor=ACTOR, now=NOW + 2 * DAY)
    assert numbers(issuer) == {int(row.serial_number, 16) for row in (first, second)}
    issuer.refresh_from_db()
    assert issuer.state == IssuerState.ACTIVE
    assert identify(bytes(device.der), purpose=MDM, now=NOW) == device


def test_what_an_external_ca_has_to_revoke(db: None) -> None:
    corp = ExternalCa()
    issuer = create_external("acme", "Acme", algorithm="RSA-2048", actor=ACTOR, now=NOW)
    for years in (5, 6):
        request = request_certificate(issuer, actor=ACTOR, now=NOW)
        answer = corp.answer(request, not_after=NOW + years * YEAR)
        import_certificate(issuer, pem(answer, corp.der), actor=ACTOR, now=NOW)
    told = consequences(issuer, NOW)
    assert len(told.to_revoke_elsewhere) == 2
    revoke_issuer(issuer, reason=COMPROMISED, actor=ACTOR, now=NOW)
    assert current_crl(issuer.keys.get()).next_update == NOW + 6 * YEAR


def test_a_trusted_ca_is_no_longer_trusted(rsa_party: Party) -> None:
    root = build_root(
        (("CN", "Old MDM"),),
        private_key=rsa_party.key,
        serial_number=1,
        not_before=NOW - DAY,
        not_after=NOW + 100 * DAY,
    )
    issuer = trust_issuer(encode_pem(root).encode(), purpose=MDM, actor=ACTOR, now=NOW)
    with no_change(), pytest.raises(RetirementRefused, match="only trusted"):
        retire(issuer, actor=ACTOR, now=NOW)
    revoke_issuer(issuer, reason=COMPROMISED, actor=ACTOR, now=NOW)
    issuer.refresh_from_db()
    assert issuer.state == IssuerState.REVOKED


def test_what_was_issued_in_that_very_moment(issuer: Issuer, issue_certificate: IssueCertificate) -> None:
    late = issue_certificate()
    revoke_issuer(issuer, reason=COMPROMISED, actor=ACTOR, now=NOW)
    Certificate.objects.filter(pk=late.pk).update(
        status=CertificateStatus.ISSUED, revoked_at=None, revocation_reason=""
    )
    assert refused_identity(late) == "issuer not trusted"
    assert retirement.settle_revoked_issuers(NOW) == 1
    assert refused_identity(late) == "revoked"
    assert int(late.serial_number, 16) in numbers(issuer)
    with no_change():
        assert settle_revoked_issuers() == 0


def test_a_key_that_cannot_sign_does_not_stop_a_revocation(
    issuer: Issuer, issue_certificate: IssueCertificate
) -> None:
    device = issue_certificate()
    sealed = bytes(issuer.keys.get().private_key_sealed or b"")
    issuer.keys.update(private_key_sealed=b"\x01" * 60)
    revoke_issuer(issuer, reason=COMPROMISED, actor=ACTOR, now=NOW)
    assert refused_identity(device) == "revoked"
    assert issuer.keys.get().crl_due
    # As soon as it can sign again, the last list is made.
    issuer.keys.update(private_key_sealed=sealed)
    assert publish_due_crls(NOW + DAY) == 1
    assert numbers(issuer) == {int(device.serial_number, 16)}
