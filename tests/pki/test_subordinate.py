"""CAs below ours and below external ones: the request, the answer, and every answer that does not fit."""

from __future__ import annotations

from base64 import encodebytes
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.models import AuditEvent
from pki import issuers, keys, rollover
from pki.core import cms
from pki.core.certificates import (
    describe,
    encode_pem,
    key_usages_of,
    load_certificate,
    load_public_key,
    read_identifiers,
)
from pki.core.csr import decode_signing_request
from pki.core.path import verify_issued_by
from pki.core.subordinate import Sent, Wanted, decode_sent, examine
from pki.issuance import Grant, IssuanceRefused, issue
from pki.issuers import IssuerMissing, IssuerRefused
from pki.models import (
    Certificate,
    Issuer,
    IssuerCertificateKind,
    IssuerKeyState,
    IssuerKind,
    IssuerState,
    Purpose,
)
from pki.revocation import current_crl
from pki.rollover import RolloverRefused
from pki.subordinate import (
    Imported,
    ImportRefused,
    create_external,
    create_subordinate,
    import_certificate,
    request_certificate,
)
from pki.trust import identify
from tests.pki.conftest import ACTOR, NOW, openssl, spki
from tests.pki.external_ca import YEAR, ExternalCa, key_usage, signed_with_sha1
from tests.support.device_door import DeviceClient
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db
MDM = Purpose.MDM_IDENTITY
DAY = timedelta(days=1)


def leaf(issuer: Issuer, name: str = "device", now: object = NOW) -> Certificate:
    grant = Grant(issuer, MDM, (("CN", name),), reason="test")
    key = ec.generate_private_key(ec.SECP256R1())
    return issue(grant, spki(key), actor=ACTOR, now=now)  # type: ignore[arg-type]


def pem(*certificates: bytes) -> bytes:
    return "".join(encode_pem(der) for der in certificates).encode()


@pytest.fixture(scope="module")
def corp() -> ExternalCa:
    """The external root."""
    return ExternalCa()


@pytest.fixture(scope="module")
def policy_ca(corp: ExternalCa) -> ExternalCa:
    """An intermediate below it."""
    return ExternalCa("Corp Policy CA", above=corp)


@pytest.fixture
def external(db: None) -> Issuer:
    """A CA of ours that awaits its certificate."""
    issuer = create_external(
        "acme",
        "Acme Issuing CA",
        organization="Acme",
        algorithm="RSA-2048",
        actor=ACTOR,
        now=NOW,
    )
    request_certificate(issuer, actor=ACTOR, now=NOW)
    issuer.refresh_from_db()
    return issuer


def request_of(issuer: Issuer) -> bytes:
    return request_certificate(issuer, actor=ACTOR, now=NOW)


def take_in(issuer: Issuer, *files: bytes, **options: object) -> Imported:
    return import_certificate(issuer, *files, actor=ACTOR, now=options.pop("now", NOW), **options)  # type: ignore[arg-type]


def reasons(issuer: Issuer, *files: bytes, **options: object) -> tuple[str, ...]:
    """Why it was refused; nothing has changed."""
    with no_change(), pytest.raises(ImportRefused) as error:
        take_in(issuer, *files, **options)
    return error.value.reasons


# --- Below an issuer of ours -----------------------------------------------------------------------------


@pytest.fixture
def below(issuer: Issuer) -> Issuer:
    return create_subordinate(
        "devices",
        "Devices CA",
        parent=issuer,
        organization="Orchard",
        algorithm="RSA-2048",
        actor=ACTOR,
        now=NOW,
    )


def test_a_subordinate_of_ours(issuer: Issuer, below: Issuer, tmp_path: Path) -> None:
    own = issuers.current_certificate(issuers.current_key(below))
    root = issuers.current_certificate(issuers.current_key(issuer))
    assert (below.kind, below.state, below.parent) == (IssuerKind.SUBORDINATE, IssuerState.ACTIVE, issuer)
    assert own.signed_by == issuers.current_key(issuer)
    verify_issued_by(bytes(own.der), bytes(root.der))
    assert issuers.chain(below) == [bytes(own.der), bytes(root.der)]
    assert sorted(key_usages_of(bytes(own.der)) or ()) == [
        "cRLSign",
        "digitalSignature",
        "keyCertSign",
        "keyEncipherment",
    ]
    loaded = load_certificate(bytes(own.der))
    assert loaded.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    point = loaded.extensions.get_extension_for_class(x509.CRLDistributionPoints).value[0]
    assert point.full_name
    assert point.full_name[0].value.endswith("/pki/bramley/1.crl")
    chain = DeviceClient().request("GET", "/pki/devices/chain.pem").body
    assert chain == pem(bytes(own.der), bytes(root.der))
    device = leaf(below)
    assert identify(bytes(device.der), purpose=MDM, now=NOW) == device
    for name, der in (("root", root.der), ("sub", own.der), ("leaf", device.der)):
        (tmp_path / name).write_text(encode_pem(bytes(der)))
    verified = openssl(
        "verify",
        "-x509_strict",
        "-attime",
        str(int(NOW.timestamp())),
        "-CAfile",
        tmp_path / "root",
        "-untrusted",
        tmp_path / "sub",
        tmp_path / "leaf",
    )
    assert b": OK" in verified


def test_a_subordinate_never_outlives_its_parent(issuer: Issuer) -> None:
    below = create_subordinate(
        "long", "Long", parent=issuer, algorithm="EC-P256", years=40, actor=ACTOR, now=NOW
    )
    parent = issuers.current_certificate(issuers.current_key(issuer))
    own = issuers.current_certificate(issuers.current_key(below))
    assert own.not_after == parent.not_after
    Issuer.objects.filter(pk=below.pk).update(leaf_validity_days=20000)
    below.refresh_from_db()
    assert leaf(below).not_after == own.not_after


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state": IssuerState.RETIRED}, "not active"),
        ({"state": IssuerState.REVOKED}, "not active"),
        ({"kind": IssuerKind.TRUST_ONLY}, "only trusted"),
        ({"path_length": 0}, "path length 0"),
        ({"path_length": 1}, None),
    ],
)
def test_parents_that_cannot_have_one_below(
    issuer: Issuer, changes: dict[str, object], reason: str | None
) -> None:
    Issuer.objects.update(**changes)
    parent = Issuer.objects.get()

    def make() -> Issuer:
        return create_subordinate("b", "B", parent=parent, algorithm="EC-P256", actor=ACTOR, now=NOW)

    if reason is None:
        assert make().path_length == 0
        return
    with no_change(), pytest.raises(IssuerRefused, match=reason):
        make()


@pytest.mark.parametrize(
    "changes",
    [{"slug": "bramley"}, {"slug": "a b"}, {"algorithm": "RSA-1"}, {"years": 0}, {"name": "a\0b"}],
)
def test_subordinates_that_are_refused(issuer: Issuer, changes: dict[str, object]) -> None:
    wanted = {"slug": "b", "name": "B", "algorithm": "EC-P256", "years": 1} | changes
    with no_change(), pytest.raises(IssuerRefused):
        create_subordinate(
            wanted.pop("slug"),  # type: ignore[arg-type]
            wanted.pop("name"),  # type: ignore[arg-type]
            parent=issuer,
            actor=ACTOR,
            now=NOW,
            **wanted,  # type: ignore[arg-type]
        )


def test_renewing_a_subordinate_of_ours(issuer: Issuer, below: Issuer) -> None:
    device = leaf(below)
    before = issuers.current_certificate(issuers.current_key(below))
    after = rollover.renew(below, actor=ACTOR, now=NOW + 100 * DAY)
    old, new = bytes(before.der), bytes(after.der)
    assert read_identifiers(new)[2:] == read_identifiers(old)[2:]
    assert describe(new).subject_key_identifier == describe(old).subject_key_identifier
    assert key_usages_of(new) == key_usages_of(old)
    verify_issued_by(bytes(device.der), new)
    verify_issued_by(new, issuers.chain(issuer)[0])
    # It cannot outlive its parent; where that would make it no longer, the parent comes first.
    rollover.renew(below, actor=ACTOR, now=NOW + 101 * DAY, years=40)
    with no_change(), pytest.raises(RolloverRefused, match="renew that one first"):
        rollover.renew(below, actor=ACTOR, now=NOW + 102 * DAY, years=40)
    rollover.renew(issuer, actor=ACTOR, now=NOW + 103 * DAY, years=20)
    assert rollover.renew(below, actor=ACTOR, now=NOW + 104 * DAY, years=15).not_after > after.not_after
    # The chain names the parent's certificate as it is now.
    assert issuers.chain(below)[1] == issuers.chain(issuer)[0]


def test_a_re_keyed_parent_is_left_by_renewing_what_is_below(issuer: Issuer, below: Issuer) -> None:
    device = leaf(below)
    rollover.rekey(issuer, actor=ACTOR, now=NOW)
    rollover.activate(issuer, actor=ACTOR, now=NOW)
    earlier = issuer.keys.get(generation=1)
    assert issuers.live_count(earlier, NOW) == 1
    with no_change(), pytest.raises(RolloverRefused, match="hangs"):
        rollover.close(earlier, actor=ACTOR, now=NOW)
    renewed = rollover.renew(below, actor=ACTOR, now=NOW + DAY)
    assert renewed.signed_by == issuers.current_key(issuer)
    assert issuers.chain(below)[-1] == issuers.chain(issuer)[0]
    assert issuers.live_count(earlier, NOW) == 0
    rollover.close(earlier, actor=ACTOR, now=NOW + DAY)
    assert identify(bytes(device.der), purpose=MDM, now=NOW + DAY) == device


def test_re_keying_a_subordinate_of_ours(issuer: Issuer, below: Issuer) -> None:
    device = leaf(below)
    made = rollover.rekey(below, actor=ACTOR, now=NOW)
    own = issuers.current_certificate(made)
    verify_issued_by(bytes(own.der), issuers.chain(issuer)[0])
    assert own.kind == IssuerCertificateKind.SUBORDINATE
    rollover.activate(below, actor=ACTOR, now=NOW)
    fresh = leaf(below, "new")
    for certificate in (device, fresh):
        assert identify(bytes(certificate.der), purpose=MDM, now=NOW) == certificate
    # Closing the old generation puts its certificate on the parent's list.
    old = below.keys.get(generation=1)
    rollover.close(old, actor=ACTOR, now=NOW + DAY, force=True)
    crl = x509.load_der_x509_crl(bytes(current_crl(issuers.current_key(issuer)).der))
    serial = issuers.current_certificate(old).serial_number
    assert crl.get_revoked_certificate_by_serial_number(int(serial, 16))


# --- The request -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["RSA-2048", "EC-P384"])
def test_the_request(algorithm: str, tmp_path: Path) -> None:
    issuer = create_external("acme", "Acme é CA", algorithm=algorithm, actor=ACTOR, now=NOW)
    assert issuer.state == IssuerState.DRAFT
    der = request_of(issuer)
    issuer.refresh_from_db()
    assert issuer.state == IssuerState.AWAITING
    asked = decode_signing_request(der)
    assert asked.subject_der == bytes(issuer.subject_der)
    assert asked.public_key == bytes(issuers.current_key(issuer).public_key)
    loaded = x509.load_der_x509_csr(der)
    assert loaded.is_signature_valid
    wanted = loaded.extensions
    assert wanted.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(True, 0)
    assert wanted.get_extension_for_class(x509.KeyUsage).value == key_usage(
        key_encipherment=algorithm.startswith("RSA")
    )
    identifier = wanted.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert identifier == bytes(issuers.current_key(issuer).key_identifier)
    (tmp_path / "x.der").write_bytes(der)
    text = openssl("req", "-inform", "DER", "-in", tmp_path / "x.der", "-verify", "-noout", "-text")
    assert b"CA:TRUE, pathlen:0" in text
    # Asking again gives the same request until it is answered.
    with no_change():
        assert request_of(issuer) == der
    assert AuditEvent.objects.filter(action="issuer.certificate_requested").count() == 1


def test_until_its_certificate_is_in_it_does_nothing(external: Issuer) -> None:
    with no_change(), pytest.raises(IssuanceRefused, match="does not issue"):
        leaf(external)
    with pytest.raises(IssuerMissing):
        issuers.chain(external)
    for path in ("/pki/acme/ca.cer", "/pki/acme/1.cer", "/pki/acme/1.crl", "/pki/acme/chain.pem"):
        assert DeviceClient().request("GET", path).status == 404
    assert DeviceClient().request("GET", "/scep/acme/?operation=GetCACert").status == 404
    for work in (rollover.renew, rollover.rekey):
        with no_change(), pytest.raises(RolloverRefused, match="no certificate yet"):
            work(external, actor=ACTOR, now=NOW)


def test_only_external_ones_make_requests(issuer: Issuer) -> None:
    with no_change(), pytest.raises(IssuerRefused, match="external"):
        request_of(issuer)
    assert reasons(issuer, pem(issuers.chain(issuer)[0])) == (
        "only a subordinate of an external CA takes in a certificate",
    )


# --- The answer ------------------------------------------------------------------------------------------


def test_the_answer(external: Issuer, corp: ExternalCa, policy_ca: ExternalCa, tmp_path: Path) -> None:
    own = policy_ca.answer(request_of(external))
    done = take_in(external, pem(own, *policy_ca.chain))
    assert (done.new, done.notes) == (True, ())
    external.refresh_from_db()
    issuer_key = issuers.current_key(external)
    assert (external.state, issuer_key.requested_at, issuer_key.activated_at) == ("ACTIVE", None, NOW)
    assert issuers.chain(external) == [own, *policy_ca.chain]
    device = leaf(external)
    assert identify(bytes(device.der), purpose=MDM, now=NOW) == device
    assert current_crl(issuer_key).entries == 0
    assert DeviceClient().request("GET", "/scep/acme/?operation=GetCACert").body == own
    (tmp_path / "root").write_text(encode_pem(corp.der))
    (tmp_path / "above").write_bytes(pem(own, policy_ca.der))
    (tmp_path / "leaf").write_text(encode_pem(bytes(device.der)))
    at = str(int(NOW.timestamp()))
    arguments = ("-attime", at, "-CAfile", tmp_path / "root", "-untrusted", tmp_path / "above")
    assert b": OK" in openssl("verify", *arguments, tmp_path / "leaf")


def test_the_same_answer_again_changes_nothing(external: Issuer, corp: ExternalCa) -> None:
    answer = pem(corp.answer(request_of(external)), corp.der)
    first = take_in(external, answer)
    with no_change():
        again = take_in(external, answer)
    assert (again.new, again.certificate) == (False, first.certificate)
    # Also when it was replaced since.
    second = take_in(external, pem(corp.answer(request_of(external), not_after=NOW + 8 * YEAR), corp.der))
    with no_change():
        assert take_in(external, answer).certificate == first.certificate
    assert issuers.current_certificate(issuers.current_key(external)) == second.certificate


@pytest.mark.parametrize("form", ["PEM, CA first", "two files", "DER and file", "CMS", "CMS in PEM"])
def test_forms_of_an_answer(external: Issuer, policy_ca: ExternalCa, form: str) -> None:
    own = policy_ca.answer(request_of(external))
    chain = policy_ca.chain
    bundle = cms.degenerate([*reversed(chain), own])
    files = {
        "PEM, CA first": (pem(own, *chain),),
        "two files": (pem(own), pem(*chain)),
        "DER and file": (own, pem(*chain)),
        "CMS": (bundle,),
        "CMS in PEM": (b"-----BEGIN PKCS7-----\n" + encodebytes(bundle) + b"-----END PKCS7-----\n",),
    }[form]
    assert take_in(external, *files).new
    assert issuers.chain(external) == [own, *chain]


def other_name() -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Another CA")])


def test_wrong_key(external: Issuer, corp: ExternalCa) -> None:
    stranger = rsa.generate_private_key(65537, 2048).public_key()
    wrong = corp.answer(request_of(external), public_key=stranger)
    assert reasons(external, pem(wrong)) == ("wrong key: the certificate is not for the key of this request",)
    assert reasons(external, pem(wrong, corp.der)) == (
        "wrong key: none of the certificates is for the key of this request",
    )


def test_wrong_name(external: Issuer, corp: ExternalCa) -> None:
    wrong = corp.answer(request_of(external), subject=other_name())
    assert reasons(external, pem(wrong, corp.der)) == (
        "wrong name: CN=Another CA instead of O=Acme,CN=Acme Issuing CA",
    )


def test_the_same_name_in_another_encoding(external: Issuer, corp: ExternalCa) -> None:
    """What openssl takes for the same and others do not (case A5)."""
    asked = x509.load_der_x509_csr(request_of(external)).subject
    encoded = x509.Name(
        [x509.NameAttribute(part.oid, part.value, _type=_ASN1Type.PrintableString) for part in asked]
    )
    wrong = corp.answer(request_of(external), subject=encoded)
    (reason,) = reasons(external, pem(wrong, corp.der))
    assert "encoded in another way" in reason


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ca": False}, ("it is not a CA certificate (CA:FALSE)",)),
        ({"with_usage": False}, ("it has no key usage: Apple devices then do not enrol",)),
        ({"usage": key_usage(key_encipherment=False)}, ("its key usage lacks keyEncipherment",)),
        ({"usage": key_usage(crl_sign=False)}, ("its key usage lacks cRLSign",)),
        (
            {"usage": key_usage(digital_signature=False, key_encipherment=False)},
            ("its key usage lacks digitalSignature, keyEncipherment",),
        ),
        ({"usage": key_usage(key_cert_sign=False)}, ("its key usage lacks keyCertSign",)),
        ({"not_after": NOW - DAY, "not_before": NOW - 2 * DAY}, ("it expired on 2026-11-23",)),
        ({"not_before": NOW + DAY}, ("it is not valid before 2026-11-25 12:00 UTC",)),
        (
            {"subject": other_name(), "ca": False, "with_usage": False},
            (
                "wrong name: CN=Another CA instead of O=Acme,CN=Acme Issuing CA",
                "it is not a CA certificate (CA:FALSE)",
                "it has no key usage: Apple devices then do not enrol",
            ),
        ),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else None,
)
def test_certificates_that_do_not_fit(
    external: Issuer, corp: ExternalCa, changes: dict[str, object], expected: tuple[str, ...]
) -> None:
    wrong = corp.answer(request_of(external), **changes)  # type: ignore[arg-type]
    assert reasons(external, pem(wrong, corp.der)) == expected
    external.refresh_from_db()
    assert external.state == IssuerState.AWAITING


def chain_cases() -> dict[str, tuple[Callable[[bytes, ExternalCa, ExternalCa], tuple[bytes, ...]], str]]:
    """What the file holds, given the certificate, the intermediate and the root; and what is said of it."""
    return {
        "only the certificate": (lambda own, policy, root: (own,), "incomplete"),
        "no root": (lambda own, policy, root: (own, policy.der), "incomplete"),
        "no intermediate": (lambda own, policy, root: (own, root.der), "incomplete"),
        "root first": (lambda own, policy, root: (root.der, policy.der, own), "wrong order"),
        "root before intermediate": (lambda own, policy, root: (own, root.der, policy.der), "wrong order"),
        "certificate last": (lambda own, policy, root: (policy.der, root.der, own), "wrong order"),
    }


@pytest.mark.parametrize("case", chain_cases())
def test_chains_that_do_not_fit(external: Issuer, corp: ExternalCa, policy_ca: ExternalCa, case: str) -> None:
    build, expected = chain_cases()[case]
    own = policy_ca.answer(request_of(external))
    found = reasons(external, pem(*build(own, policy_ca, corp)))
    assert any(expected in reason for reason in found), found
    if expected == "incomplete":
        assert any("is missing" in reason for reason in found)


def test_a_chain_may_end_at_a_declared_anchor(external: Issuer, policy_ca: ExternalCa) -> None:
    own = policy_ca.answer(request_of(external))
    assert take_in(external, pem(own, policy_ca.der), anchor_is_last=True).new
    assert issuers.chain(external) == [own, policy_ca.der]


def test_a_known_chain_completes_a_renewal(external: Issuer, policy_ca: ExternalCa) -> None:
    take_in(external, pem(policy_ca.answer(request_of(external)), *policy_ca.chain))
    renewed = policy_ca.answer(request_of(external), not_after=NOW + 7 * YEAR)
    assert take_in(external, renewed).new
    assert issuers.chain(external) == [renewed, *policy_ca.chain]


def test_strangers_in_the_chain_are_left_out_and_named(external: Issuer, corp: ExternalCa) -> None:
    stranger = ExternalCa("Stranger")
    own = corp.answer(request_of(external))
    done = take_in(external, pem(own, corp.der, stranger.der))
    assert done.notes == ("CN=Stranger,O=Corp does not belong to the chain and was left out",)
    assert issuers.chain(external) == [own, corp.der]


def test_an_impostor_of_the_root(external: Issuer, corp: ExternalCa) -> None:
    own = corp.answer(request_of(external))
    (reason,) = reasons(external, pem(own, ExternalCa().der))
    assert "does not verify" in reason


def test_a_self_signed_answer(external: Issuer) -> None:
    request = request_of(external)
    private_key = keys.issuer_private_key(issuers.current_key(external))
    asked = x509.load_der_x509_csr(request)
    ca = ExternalCa("x", key=private_key)
    ca.certificate = (
        x509.CertificateBuilder()
        .subject_name(asked.subject)
        .issuer_name(asked.subject)
        .public_key(asked.public_key())
        .serial_number(5)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + YEAR)
        .add_extension(x509.BasicConstraints(True, None), critical=True)
        .add_extension(key_usage(), critical=True)
        .sign(private_key, hashes.SHA256())
    )
    assert reasons(external, pem(ca.der)) == ("it is self-signed: the external CA is to sign it",)


def test_weak_signatures_and_keys(external: Issuer, corp: ExternalCa) -> None:
    assert isinstance(corp.key, rsa.RSAPrivateKey)
    weak = signed_with_sha1(corp.answer(request_of(external)), corp.key)
    (reason,) = reasons(external, pem(weak, corp.der))
    assert "SHA-1" in reason
    small = ExternalCa("Small", key=rsa.generate_private_key(65537, 1024))  # noqa: S505
    (reason,) = reasons(external, pem(small.answer(request_of(external)), small.der))
    assert "the key of CN=Small,O=Corp is weak" in reason
    # A root may sign itself with SHA-1: nobody relies on that signature.
    answer = corp.answer(request_of(external))
    assert take_in(external, pem(answer, signed_with_sha1(corp.der, corp.key))).new


def test_path_lengths(external: Issuer) -> None:
    root = ExternalCa("R", path_length=0)
    (reason,) = reasons(external, pem(root.answer(request_of(external)), root.der))
    assert reason == "CN=R,O=Corp allows 0 levels of CAs below it (path length): there would be 1"
    top = ExternalCa("T", path_length=1)
    middle = ExternalCa("M", above=top, path_length=1)
    (reason,) = reasons(external, pem(middle.answer(request_of(external)), *middle.chain))
    assert "CN=T,O=Corp allows 1" in reason
    exact = ExternalCa("E", path_length=1)
    assert take_in(external, pem(exact.answer(request_of(external)), exact.der)).new


def test_expired_above(external: Issuer) -> None:
    old = ExternalCa("Old", not_after=NOW - DAY)
    (reason,) = reasons(external, pem(old.answer(request_of(external)), old.der))
    assert reason == "CN=Old,O=Corp expired on 2026-11-23"


def test_what_is_worth_knowing(external: Issuer) -> None:
    short = ExternalCa("Short", not_after=NOW + YEAR)
    limits = (
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
        x509.NameConstraints(permitted_subtrees=[x509.DNSName("acme.example")], excluded_subtrees=None),
    )
    done = take_in(external, pem(short.answer(request_of(external), extensions=limits), short.der))
    assert [note.split(",")[0] for note in done.notes] == [
        "a certificate above it ends earlier",
        "it is limited to purposes that do not include clientAuth",
        "it limits the names in the certificates that it issues (name constraints)",
    ]


@pytest.mark.parametrize(
    "data", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----"]
)
def test_files_that_hold_nothing(external: Issuer, data: bytes) -> None:
    assert len(reasons(external, data)) == 1


def test_certificates_of_others(external: Issuer, issuer: Issuer, corp: ExternalCa) -> None:
    """Another CA's certificate, ours among them, and too many."""
    assert "wrong key" in reasons(external, pem(issuers.chain(issuer)[0]))[0]
    many = [ExternalCa(str(n), key=corp.key).der for n in range(21)]
    assert reasons(external, pem(*many)) == ("the file holds more than 20 certificates",)


def test_drafts_and_revoked_issuers_take_nothing_in(corp: ExternalCa) -> None:
    issuer = create_external("acme", "Acme", algorithm="RSA-2048", actor=ACTOR, now=NOW)
    assert "no request" in reasons(issuer, pem(corp.der))[0]
    answer = pem(corp.answer(request_of(issuer)), corp.der)
    Issuer.objects.update(state=IssuerState.REVOKED)
    assert reasons(issuer, answer) == ("the issuer is revoked",)
    with no_change(), pytest.raises(IssuerRefused, match="not active"):
        request_of(issuer)


# --- Renewing and re-keying below an external CA ---------------------------------------------------------


@pytest.fixture
def acme(external: Issuer, corp: ExternalCa) -> Issuer:
    """In use, certified by the external root."""
    take_in(external, pem(corp.answer(request_of(external)), corp.der))
    external.refresh_from_db()
    return external


def test_renewal_by_the_external_ca(acme: Issuer, corp: ExternalCa) -> None:
    device = leaf(acme)
    before = issuers.current_certificate(issuers.current_key(acme))
    request = request_certificate(acme, actor=ACTOR, now=NOW + DAY)
    assert decode_signing_request(request).public_key == bytes(issuers.current_key(acme).public_key)
    number = current_crl(issuers.current_key(acme)).number
    done = take_in(acme, pem(corp.answer(request, not_after=NOW + 9 * YEAR), corp.der), now=NOW + DAY)
    after = issuers.current_certificate(issuers.current_key(acme))
    assert (after, after.not_after) == (done.certificate, NOW + 9 * YEAR)
    assert read_identifiers(bytes(after.der))[2:] == read_identifiers(bytes(before.der))[2:]
    verify_issued_by(bytes(device.der), bytes(after.der))
    assert current_crl(issuers.current_key(acme)).number == number + 1
    assert AuditEvent.objects.filter(action="issuer.certificate_imported").count() == 2


def test_a_renewal_with_another_key_identifier_is_refused(acme: Issuer, corp: ExternalCa) -> None:
    """Case A4: issued certificates point at the old one."""
    leaf(acme)
    wrong = corp.answer(request_of(acme), key_identifier=b"\x01" * 20)
    (reason,) = reasons(acme, pem(wrong, corp.der))
    assert "another key identifier" in reason


def test_the_first_certificate_may_choose_its_key_identifier(external: Issuer, corp: ExternalCa) -> None:
    own = corp.answer(request_of(external), key_identifier=b"\x02" * 20)
    take_in(external, pem(own, corp.der))
    external.refresh_from_db()
    assert bytes(issuers.current_key(external).key_identifier) == b"\x02" * 20
    verify_issued_by(bytes(leaf(external).der), own)


def test_a_new_key_waits_for_its_certificate(acme: Issuer, corp: ExternalCa) -> None:
    device = leaf(acme)
    made = rollover.rekey(acme, actor=ACTOR, now=NOW, activate_at=NOW + DAY)
    assert made.state == IssuerKeyState.NEXT
    assert not made.certificates.exists()
    with no_change():
        assert rollover.activate_due_keys(NOW + DAY) == 0
    with no_change(), pytest.raises(RolloverRefused, match="import it first"):
        rollover.activate(acme, actor=ACTOR, now=NOW + DAY)
    request = request_of(acme)
    assert decode_signing_request(request).public_key == bytes(made.public_key)
    assert decode_signing_request(request).subject_der == bytes(acme.subject_der)
    take_in(acme, pem(corp.answer(request), corp.der))
    # The answer for the next key leaves the one in use as it is.
    assert issuers.current_key(acme).generation == 1
    assert current_crl(made).number == 1
    assert rollover.activate_due_keys(NOW + DAY) == 1
    acme.refresh_from_db()
    fresh = leaf(acme, "new", NOW + DAY)
    assert fresh.issuer_key == made
    for certificate in (device, fresh):
        assert identify(bytes(certificate.der), purpose=MDM, now=NOW + DAY) == certificate
    # An answer for a generation that is no longer in use comes too late.
    late = corp.answer(request, public_key=_public_key(acme.keys.get(generation=1).public_key))
    assert "not in use" in reasons(acme, pem(late, corp.der))[0]


def _public_key(spki_der: object) -> rsa.RSAPublicKey:
    key = load_public_key(bytes(spki_der))  # type: ignore[call-overload]
    assert isinstance(key, rsa.RSAPublicKey)
    return key


def test_while_a_new_key_exists_the_one_in_use_can_still_be_renewed(acme: Issuer, corp: ExternalCa) -> None:
    rollover.rekey(acme, actor=ACTOR, now=NOW)
    for_next = request_of(acme)
    for_current = corp.answer(
        for_next, public_key=_public_key(issuers.current_key(acme).public_key), not_after=NOW + 6 * YEAR
    )
    take_in(acme, pem(for_current, corp.der))
    assert issuers.current_certificate(issuers.current_key(acme)).not_after == NOW + 6 * YEAR
    assert take_in(acme, pem(corp.answer(for_next), corp.der)).new


# --- Nothing but our own error ---------------------------------------------------------------------------


@given(data=st.binary(max_size=400), flips=st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 255))))
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
def test_property_examined_or_refused(
    rsa_key: rsa.RSAPrivateKey, corp: ExternalCa, data: bytes, flips: list[tuple[int, int]]
) -> None:
    """Any bytes, and any damage to a good answer: examined, or refused with reasons, never another error."""
    spoiled = bytearray(pem_free_answer(rsa_key, corp))
    for position, mask in flips:
        spoiled[position % len(spoiled)] ^= mask
    wanted = Wanted(b"0\0", "x", spki(rsa_key))
    for candidate in (data, bytes(spoiled)):
        try:
            sent = decode_sent(candidate)
            examine(Sent((*sent.certificates, corp.der)), wanted, now=NOW)
        except ImportRefused as error:
            found = error.reasons
        else:
            continue
        assert found
        assert all(reason and "\n" not in reason for reason in found)


def pem_free_answer(key: rsa.RSAPrivateKey, corp: ExternalCa) -> bytes:
    request = x509.CertificateSigningRequestBuilder().subject_name(other_name()).sign(key, hashes.SHA256())
    return corp.answer(request.public_bytes(Encoding.DER))
