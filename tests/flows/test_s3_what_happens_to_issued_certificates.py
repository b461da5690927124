"""S3: what happens to thousands of issued certificates when the CA is renewed or re-keyed, also as a sub-CA?

The answer in words: docs/questions/what-happens-to-issued-certificates.md. Three devices enrol under the old
generation; then the CA is renewed, and re-keyed. openssl says after each step whom a relying party believes,
and the devices go on talking to the server. Every case there is: tests/pki/test_matrix.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from django.utils import timezone

from enrollment.setup import ensure_default_profile
from pki import issuers, rollover
from pki.models import Certificate, Issuer, IssuerCertificate, IssuerCertificateKind
from pki.rollover import RolloverRefused
from pki.subordinate import create_external, import_certificate, request_certificate
from tests.pki.conftest import ACTOR
from tests.renewal.conftest import _keys_are_made_once  # noqa: F401 - a fixture
from tests.renewal.phones import Phone, new_phone
from tests.support.openssl import Openssl

pytestmark = [pytest.mark.django_db, pytest.mark.once]


@pytest.fixture
def openssl(tmp_path: Path) -> Openssl:
    return Openssl(tmp_path)


def identity(phone: Phone) -> bytes:
    assert phone.device.enrolled is not None
    return phone.device.enrolled.certificate


def in_use(issuer: Issuer) -> bytes:
    return bytes(issuers.current_certificate(issuers.current_key(issuer)).der)


def link(issuer: Issuer, kind: IssuerCertificateKind) -> bytes:
    return bytes(IssuerCertificate.objects.get(issuer_key__issuer=issuer, kind=kind).der)


def all_are_managed(phones: list[Phone]) -> bool:
    return {phone.idle().status for phone in phones} == {200}


def test_a_root_is_renewed_and_then_rekeyed(openssl: Openssl) -> None:
    now = timezone.now()
    issuer = issuers.create_issuer(
        "bramley", "Orchard CA", algorithm="RSA-2048", years=5, actor=ACTOR, now=now
    )
    ensure_default_profile(issuer)
    old_devices = [new_phone(number) for number in (1, 2, 3)]
    old_root, untouched = in_use(issuer), list(Certificate.objects.values_list("sha256", flat=True))

    # Renewed: another certificate for the same key, the same name, the same key identifier.
    rollover.renew(issuer, years=15, actor=ACTOR, now=now)
    renewed_root = in_use(issuer)
    assert renewed_root != old_root
    for root in (old_root, renewed_root):
        assert all(openssl.validates(identity(phone), [root]) for phone in old_devices)
    assert all_are_managed(old_devices)

    # Re-keyed: those who know the old root go on; those who know only the new one need the link.
    rollover.rekey(issuer, actor=ACTOR, now=now)
    rollover.activate(issuer, actor=ACTOR, now=now)
    new_root = in_use(issuer)
    for phone in old_devices:
        leaf = identity(phone)
        assert openssl.validates(leaf, [renewed_root])
        assert not openssl.validates(leaf, [new_root])
        assert openssl.validates(leaf, [new_root], [link(issuer, IssuerCertificateKind.OLD_WITH_NEW)])
    assert all_are_managed(old_devices)

    # Who enrols now hangs on the new key, and those who know only the old root believe it by the other link.
    new_device = new_phone(4)
    leaf = identity(new_device)
    assert openssl.validates(leaf, [new_root])
    assert not openssl.validates(leaf, [renewed_root])
    assert openssl.validates(leaf, [renewed_root], [link(issuer, IssuerCertificateKind.NEW_WITH_OLD)])
    assert all_are_managed([*old_devices, new_device])

    # Nothing that was issued was touched, and the old key cannot be closed while somebody hangs on it.
    assert (
        list(Certificate.objects.filter(sha256__in=untouched).values_list("sha256", flat=True)) == untouched
    )
    first = issuer.keys.get(generation=1)
    with pytest.raises(RolloverRefused, match="3"):
        rollover.close(first, actor=ACTOR, now=now)
    assert all_are_managed(old_devices)


def certified(openssl: Openssl, issuer: Issuer, *, days: int) -> bytes:
    """The organisation's root, kept with openssl, answers the request that waits."""
    request = request_certificate(issuer, actor=ACTOR, now=timezone.now())
    (openssl.folder / "request.der").write_bytes(request)
    (openssl.folder / "ca.ext").write_text(
        "basicConstraints=critical,CA:TRUE,pathlen:0\n"
        "keyUsage=critical,digitalSignature,keyEncipherment,keyCertSign,cRLSign\n"
        "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    answer = openssl.made(
        *("x509", "-req", "-inform", "DER", "-in", "request.der", "-CA", "corp.pem", "-CAkey", "corp.key"),
        *("-days", str(days), "-extfile", "ca.ext"),
    )
    file = answer + (openssl.folder / "corp.pem").read_bytes()
    return bytes(import_certificate(issuer, file, actor=ACTOR, now=timezone.now()).certificate.der)


def test_a_ca_below_the_organisations_own_root(openssl: Openssl) -> None:
    """The anchor stays; what changes stands between it and the devices, and has to go along."""
    openssl.made(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/O=Corp/CN=Corp Root", "-days", "7000"),
        *("-keyout", "corp.key", "-out", "corp.pem"),
        *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
    )
    corp = openssl.made("x509", "-in", "corp.pem", "-outform", "DER")
    now = timezone.now()
    issuer = create_external("bramley", "Orchard Issuing CA", algorithm="RSA-2048", actor=ACTOR, now=now)
    first = certified(openssl, issuer, days=1800)
    issuer.refresh_from_db()
    ensure_default_profile(issuer)
    old_devices = [new_phone(number) for number in (1, 2, 3)]

    # Renewed by the root above: the old devices hang on either certificate of the same key.
    renewed = certified(openssl, issuer, days=3600)
    assert renewed != first
    for between in (first, renewed):
        assert all(openssl.validates(identity(phone), [corp], [between]) for phone in old_devices)
    assert not openssl.validates(identity(old_devices[0]), [corp])
    assert all_are_managed(old_devices)

    # Re-keyed: old and new devices each need the certificate of their own generation; both go together.
    rollover.rekey(issuer, actor=ACTOR, now=now)
    second = certified(openssl, issuer, days=3600)
    rollover.activate(issuer, actor=ACTOR, now=timezone.now())
    new_device = new_phone(4)
    for phone in old_devices:
        assert openssl.validates(identity(phone), [corp], [renewed])
        assert not openssl.validates(identity(phone), [corp], [second])
        assert openssl.validates(identity(phone), [corp], [renewed, second])
    assert openssl.validates(identity(new_device), [corp], [second])
    assert openssl.validates(identity(new_device), [corp], [renewed, second])
    assert all_are_managed([*old_devices, new_device])
