"""Which certificates validate after a renewal and after a re-key: 37 cases, judged by ``openssl verify``.

CAs, leaves, links, requests and CRLs are made by the use cases of the product. What the product never makes
(a renewal with another key identifier, a name encoded in another way, a leaf that outlives its CA, …) is made
here with the product's keys, to show why it never makes it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID
from django.utils import timezone

from pki import issuers, keys, rollover
from pki.core.algorithms import PrivateKey
from pki.core.certificates import encode_pem, format_serial_number
from pki.core.crl import RevokedCertificate, build_crl
from pki.issuance import Grant, issue
from pki.models import (
    Certificate,
    Issuer,
    IssuerCertificate,
    IssuerCertificateKind,
    IssuerKey,
    Purpose,
    RevocationReason,
)
from pki.retirement import revoke_issuer
from pki.revocation import current_crl, publish_crl, revoke
from pki.subordinate import create_external, create_subordinate, import_certificate, request_certificate
from tests.pki.conftest import ACTOR, spki
from tests.pki.external_ca import ExternalCa, key_usage

pytestmark = pytest.mark.django_db
DAY = timedelta(days=1)
ALGORITHMS = ["RSA-2048", "EC-P256"]


class Matrix:
    """Certificates and CRLs as files, and what openssl says of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = timezone.now()
        self.found: dict[str, str] = {}

    def write(self, name: str, *ders: bytes, crl: bool = False) -> str:
        """A PEM file; returns its name."""
        text = "".join(
            x509.load_der_x509_crl(der).public_bytes(Encoding.PEM).decode() if crl else encode_pem(der)
            for der in ders
        )
        (self.folder / name).write_text(text)
        return name

    def try_(self, case: str, *arguments: str, at: datetime | None = None) -> None:
        """Run one case: ``OK``, or ``FAIL`` and the number of openssl's error."""
        time = ["-attime", str(int(at.timestamp()))] if at else []
        done = subprocess.run(
            ["openssl", "verify", *time, *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        good = done.returncode == 0 and done.stdout.rstrip().endswith(": OK")
        error = next((line.split()[1] for line in done.stderr.splitlines() if line.startswith("error ")), "")
        assert good or error, done.stderr
        self.found[case] = "OK" if good else f"FAIL {error}"


@pytest.fixture
def matrix(tmp_path: Path) -> Matrix:
    return Matrix(tmp_path)


def leaf(issuer: Issuer, name: str, now: datetime, **grant: object) -> Certificate:
    """Issued by the product."""
    key = ec.generate_private_key(ec.SECP256R1())
    granted = Grant(issuer, Purpose.MDM_IDENTITY, (("CN", name),), reason="test", **grant)  # type: ignore[arg-type]
    return issue(granted, spki(key), actor=ACTOR, now=now)


def der(row: Certificate | IssuerCertificate) -> bytes:
    return bytes(row.der)


def own(issuer_key: IssuerKey) -> bytes:
    return der(issuers.current_certificate(issuer_key))


def private_key(issuer_key: IssuerKey) -> PrivateKey:
    return keys.issuer_private_key(IssuerKey.objects.get(pk=issuer_key.pk))


def by_hand(
    signer: PrivateKey,
    authority: x509.Certificate,
    *,
    name: x509.Name,
    key: PrivateKey | None = None,
    days: int,
    now: datetime,
    extensions: list[tuple[x509.ExtensionType, bool]],
) -> bytes:
    """A certificate that the product would not make."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(authority.subject)
        .public_key((key or signer).public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + days * DAY)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.DER)


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


LEAF_USAGE = key_usage(key_encipherment=False, key_cert_sign=False, crl_sign=False)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_root_of_ours(matrix: Matrix, algorithm: str) -> None:
    """Sections A (renewed with the same key), B (re-keyed) and C (CRLs after a re-key)."""
    now = matrix.now
    issuer = issuers.create_issuer(
        "acme", "Acme Device CA", organization="Acme", algorithm=algorithm, years=10, actor=ACTOR, now=now
    )
    first = issuers.current_key(issuer)
    old = x509.load_der_x509_certificate(own(first))
    leaf1 = leaf(issuer, "dev1", now, validity_days=825)
    crl_before = der_of_crl(first)

    # A: renewed by the product; the rest shows what a renewal must not do.
    renewed = rollover.renew(issuer, years=20, actor=ACTOR, now=now)
    key_a = private_key(first)
    for name, content in {
        "oldroot": old.public_bytes(Encoding.DER),
        "renewed": der(renewed),
        "leaf1": der(leaf1),
        "leafis": by_hand(
            key_a,
            old,
            name=named("devis"),
            key=ec.generate_private_key(ec.SECP256R1()),
            days=825,
            now=now,
            extensions=[
                (x509.BasicConstraints(False, None), True),
                (LEAF_USAGE, True),
                (
                    x509.AuthorityKeyIdentifier(
                        bytes(first.key_identifier), [x509.DirectoryName(old.subject)], old.serial_number
                    ),
                    False,
                ),
            ],
        ),
        "ski2": _root(key_a, old.subject, now, key_identifier=bytes(range(20))),
        "prn": _root(
            key_a,
            x509.Name(
                x509.NameAttribute(part.oid, part.value, _type=_ASN1Type.PrintableString)
                for part in old.subject
            ),
            now,
        ),
        "nosign": _root(
            key_a,
            old.subject,
            now,
            usage=key_usage(digital_signature=False, key_encipherment=False, crl_sign=False),
        ),
        "longleaf": by_hand(
            key_a,
            old,
            name=named("long"),
            key=ec.generate_private_key(ec.SECP256R1()),
            days=7000,
            now=now,
            extensions=[
                (x509.BasicConstraints(False, None), True),
                (LEAF_USAGE, True),
                (x509.AuthorityKeyIdentifier(bytes(first.key_identifier), None, None), False),
            ],
        ),
    }.items():
        matrix.write(name, content)
    matrix.write("oldcrl", crl_before, crl=True)
    after_old = now + 5000 * DAY
    matrix.try_("A1", "-CAfile", "oldroot", "leaf1")
    matrix.try_("A2", "-CAfile", "renewed", "leaf1")
    matrix.try_("A3", "-CAfile", "renewed", "leafis")
    matrix.try_("A4", "-CAfile", "ski2", "leaf1")
    matrix.try_("A5", "-CAfile", "prn", "leaf1")
    matrix.try_("A6", "-CAfile", "nosign", "leaf1")
    matrix.try_("A7", "-crl_check", "-CAfile", "nosign", "-CRLfile", "oldcrl", "leaf1")
    matrix.try_("A8", "-crl_check", "-CAfile", "renewed", "-CRLfile", "oldcrl", "leaf1")
    matrix.try_("A9", "-CAfile", "oldroot", "longleaf", at=after_old)
    matrix.try_("A10", "-CAfile", "renewed", "longleaf", at=after_old)
    # What the product issues never gets there: it ends with the certificate that issues.
    assert leaf(issuer, "clamped", now, validity_days=7400).not_after <= renewed.not_after

    # B: re-keyed by the product, as if the root had not been renewed: the links then end with the old root.
    IssuerCertificate.objects.filter(pk=renewed.pk).update(is_current=False)
    IssuerCertificate.objects.filter(sha256=old.fingerprint(hashes.SHA256()).hex()).update(is_current=True)
    assert own(first) == old.public_bytes(Encoding.DER)
    made = rollover.rekey(issuer, years=20, actor=ACTOR, now=now)
    rollover.activate(issuer, actor=ACTOR, now=now)
    Issuer.objects.update(leaf_validity_days=5000)
    issuer.refresh_from_db()
    leaf2, ll2 = leaf(issuer, "dev2", now, validity_days=825), leaf(issuer, "ll2", now)
    links = {
        row.kind: der(row)
        for row in IssuerCertificate.objects.filter(kind__in=issuers.LINK_KINDS, issuer_key__issuer=issuer)
    }
    matrix.write("rekeyed", own(made))
    matrix.write("leaf2", der(leaf2))
    matrix.write("ll2", der(ll2))
    matrix.write("newWithOld", links[IssuerCertificateKind.NEW_WITH_OLD])
    matrix.write("oldWithNew", links[IssuerCertificateKind.OLD_WITH_NEW])
    matrix.write("both", old.public_bytes(Encoding.DER), own(made))
    matrix.write("both2", own(made), old.public_bytes(Encoding.DER))
    matrix.try_("B1", "-CAfile", "oldroot", "leaf1")
    matrix.try_("B2", "-CAfile", "rekeyed", "leaf1")
    matrix.try_("B3", "-CAfile", "rekeyed", "leaf2")
    matrix.try_("B4", "-CAfile", "oldroot", "leaf2")
    matrix.try_("B5", "-CAfile", "both", "leaf1")
    matrix.try_("B6", "-CAfile", "both", "leaf2")
    matrix.try_("B7", "-CAfile", "both2", "leaf1")
    matrix.try_("B8", "-CAfile", "oldroot", "-untrusted", "newWithOld", "leaf2")
    matrix.try_("B9", "-CAfile", "rekeyed", "-untrusted", "oldWithNew", "leaf1")
    matrix.try_("B10", "-CAfile", "oldroot", "-untrusted", "oldWithNew", "leaf2")
    matrix.try_("B11", "-CAfile", "oldroot", "-untrusted", "newWithOld", "ll2", at=now + 3700 * DAY)

    # C: each key has its own list; both together cover everybody.
    revoke(leaf1, reason=RevocationReason.KEY_COMPROMISE, actor=ACTOR, now=now)
    publish_crl(made, now)
    matrix.write("crlold", der_of_crl(first), crl=True)
    matrix.write("crlnew", der_of_crl(made), crl=True)
    matrix.write("crls", der_of_crl(first), der_of_crl(made), crl=True)
    check = ("-crl_check", "-CAfile", "both", "-CRLfile")
    matrix.try_("C1", *check, "crlold", "leaf1")
    matrix.try_("C2", *check, "crlnew", "leaf1")
    matrix.try_("C3", *check, "crlnew", "leaf2")
    matrix.try_("C4", *check, "crls", "leaf2")
    matrix.try_("C5", *check, "crls", "leaf1")

    assert matrix.found == {
        "A1": "OK",
        "A2": "OK",
        "A3": "FAIL 20",  # names the old certificate by issuer and serial number
        "A4": "FAIL 20",  # the renewal changed the key identifier
        "A5": "OK",  # openssl folds names; those who compare bytes do not
        "A6": "OK",
        "A7": "FAIL 35",  # the renewal lost cRLSign: its list cannot be used
        "A8": "OK",
        "A9": "FAIL 10",  # outlives the certificate
        "A10": "OK",
        "B1": "OK",
        "B2": "FAIL 20",
        "B3": "OK",
        "B4": "FAIL 20",
        "B5": "OK",
        "B6": "OK",
        "B7": "OK",
        "B8": "OK",
        "B9": "OK",
        "B10": "FAIL 20",
        "B11": "FAIL 10",  # the link ends with the old root
        "C1": "FAIL 23",
        "C2": "FAIL 3",
        "C3": "OK",
        "C4": "OK",
        "C5": "FAIL 23",
    }


def _root(
    key: PrivateKey,
    name: x509.Name,
    now: datetime,
    *,
    key_identifier: bytes | None = None,
    usage: x509.KeyUsage | None = None,
) -> bytes:
    """A root for a key of the product, made as no renewal should make it."""
    identifier = (
        x509.SubjectKeyIdentifier(key_identifier)
        if key_identifier
        else x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    )
    itself = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + 7300 * DAY)
        .add_extension(x509.BasicConstraints(True, None), critical=True)
        .add_extension(usage or key_usage(), critical=True)
        .add_extension(identifier, critical=False)
    )
    return itself.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def der_of_crl(issuer_key: IssuerKey) -> bytes:
    return bytes(current_crl(issuer_key).der)


EXPECTED_BELOW = {
    "D1": "OK",
    "D2": "OK",
    "D3": "FAIL 20",  # old leaves need the old certificate of the CA
    "D4": "OK",
    "D5": "OK",
    "D6": "OK",
    "D7": "FAIL 23",  # the certificate of the CA was revoked
    "D8": "OK",  # and the renewed one for the same key was not: revoke both
    "D9": "FAIL 25",  # pathlen 0
    "D10": "OK",
    "D11": "FAIL 2",  # a CA that is no root is an anchor only where that is allowed
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_below_an_external_root(matrix: Matrix, algorithm: str) -> None:
    """Section D: requests by the product, signed elsewhere, imported by the product."""
    now = matrix.now
    corp = ExternalCa(not_before=now - 300 * DAY, not_after=now + 7000 * DAY)
    issuer = create_external("acme", "Acme Issuing CA", algorithm=algorithm, actor=ACTOR, now=now)

    def certified(days: int) -> bytes:
        request = request_certificate(issuer, actor=ACTOR, now=now)
        answer = corp.answer(request, not_before=now - DAY, not_after=now + days * DAY)
        file = (encode_pem(answer) + encode_pem(corp.der)).encode()
        return der(import_certificate(issuer, file, actor=ACTOR, now=now).certificate)

    def revoked_above(serial_number: int) -> bytes:
        return build_crl(
            [RevokedCertificate(serial_number, now)],
            number=1,
            this_update=now,
            next_update=now + 7 * DAY,
            issuer_certificate=corp.der,
            private_key=corp.key,
        )

    below(matrix, issuer, corp.der, certified=certified, revoked_above=revoked_above)
    assert matrix.found == EXPECTED_BELOW


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_below_a_root_of_ours(matrix: Matrix, algorithm: str) -> None:
    """The same cases where the root is ours too: its list names what it certified."""
    now = matrix.now
    root = issuers.create_issuer("root", "Root", algorithm=algorithm, years=20, actor=ACTOR, now=now)
    parent = issuers.current_key(root)
    issuer = create_subordinate(
        "acme", "Acme Issuing CA", parent=root, algorithm=algorithm, years=3, actor=ACTOR, now=now
    )
    years = iter(range(4, 20))

    def certified(days: int) -> bytes:
        """The first one is there already; then renewed or, where there is a next key, certified with it."""
        made = issuers.next_key(issuer)
        if made is not None:
            return own(made)
        current = issuers.current_certificate(issuers.current_key(issuer))
        if days < 2000:
            return der(current)
        return der(rollover.renew(issuer, years=next(years), actor=ACTOR, now=now))

    def revoked_above(serial_number: int) -> bytes:
        number = format_serial_number(serial_number)
        rows = IssuerCertificate.objects.filter(serial_number=number, signed_by=parent)
        assert rows.update(revoked_at=now, revocation_reason=RevocationReason.SUPERSEDED) == 1
        return bytes(publish_crl(parent, now).der)

    below(matrix, issuer, own(parent), certified=certified, revoked_above=revoked_above)
    assert matrix.found == EXPECTED_BELOW

    # Revoking the issuer as a whole leaves no way around (case D8 turned right).
    revoke_issuer(issuer, reason=RevocationReason.KEY_COMPROMISE, actor=ACTOR, now=now)
    generations = issuer.keys.order_by("generation")
    matrix.write("last", der_of_crl(parent), *(der_of_crl(key) for key in generations), crl=True)
    for certificate in ("sub1", "sub1r", "sub2"):
        matrix.try_(
            certificate,
            "-crl_check_all",
            "-CAfile",
            "ext",
            "-untrusted",
            certificate,
            "-CRLfile",
            "last",
            "sleaf2" if certificate == "sub2" else "sleaf",
        )
        assert matrix.found.pop(certificate) == "FAIL 23"


def below(
    matrix: Matrix,
    issuer: Issuer,
    root: bytes,
    *,
    certified: Callable[[int], bytes],
    revoked_above: Callable[[int], bytes],
) -> None:
    """Section D. ``certified(days)``: the certificate of the key that waits for one, or a renewal."""
    now = matrix.now
    sub1 = certified(1825)
    issuer.refresh_from_db()
    first = issuers.current_key(issuer)
    sleaf = leaf(issuer, "sdev", now, validity_days=398)
    crl_of_first = der_of_crl(first)
    sub1r = certified(3650)
    rollover.rekey(issuer, actor=ACTOR, now=now)
    sub2 = certified(3651)
    rollover.activate(issuer, actor=ACTOR, now=now)
    sleaf2 = leaf(issuer, "sdev2", now, validity_days=398)

    authority = x509.load_der_x509_certificate(sub1)
    other = ec.generate_private_key(ec.SECP256R1())
    subsub = by_hand(
        private_key(first),
        authority,
        name=named("SubSub"),
        key=other,
        days=300,
        now=now,
        extensions=[
            (x509.BasicConstraints(True, 0), True),
            (key_usage(key_encipherment=False), True),
            (x509.SubjectKeyIdentifier.from_public_key(other.public_key()), False),
            (x509.AuthorityKeyIdentifier(bytes(first.key_identifier), None, None), False),
        ],
    )
    ssleaf = by_hand(
        other,
        x509.load_der_x509_certificate(subsub),
        name=named("ss"),
        key=ec.generate_private_key(ec.SECP256R1()),
        days=30,
        now=now,
        extensions=[(x509.BasicConstraints(False, None), True), (LEAF_USAGE, True)],
    )
    for name, content in {
        "ext": root,
        "sub1": sub1,
        "sub1r": sub1r,
        "sub2": sub2,
        "sleaf": der(sleaf),
        "sleaf2": der(sleaf2),
        "ssleaf": ssleaf,
    }.items():
        matrix.write(name, content)
    matrix.write("subs", sub1, sub2)
    matrix.write("ss", sub1, subsub)
    matrix.write("dcrl", revoked_above(authority.serial_number), crl_of_first, crl=True)
    matrix.try_("D1", "-CAfile", "ext", "-untrusted", "sub1", "sleaf")
    matrix.try_("D2", "-CAfile", "ext", "-untrusted", "sub1r", "sleaf")
    matrix.try_("D3", "-CAfile", "ext", "-untrusted", "sub2", "sleaf")
    matrix.try_("D4", "-CAfile", "ext", "-untrusted", "sub2", "sleaf2")
    matrix.try_("D5", "-CAfile", "ext", "-untrusted", "subs", "sleaf")
    matrix.try_("D6", "-CAfile", "ext", "-untrusted", "subs", "sleaf2")
    lists = ("-crl_check_all", "-CAfile", "ext", "-CRLfile", "dcrl", "-untrusted")
    matrix.try_("D7", *lists, "sub1", "sleaf")
    matrix.try_("D8", *lists, "sub1r", "sleaf")
    matrix.try_("D9", "-CAfile", "ext", "-untrusted", "ss", "ssleaf")
    matrix.try_("D10", "-partial_chain", "-CAfile", "sub1", "sleaf")
    matrix.try_("D11", "-CAfile", "sub1", "sleaf")
