"""Certificate profiles: the certificate is a function of the rules and of the record."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pki import issuers, profiles
from pki.core.certificates import (
    EXTENDED_KEY_USAGES,
    alternative_names_of,
    key_usages_of,
    load_certificate,
    public_key_of,
    subject_of,
)
from pki.core.names import NAME_OIDS, Name
from pki.core.profile import (
    BUILT_IN,
    LEAF_KEY_USAGES,
    PURPOSES,
    RSA_SIZES,
    SAN_KINDS,
    Rules,
    RulesRefused,
    verify_rules,
)
from pki.issuance import Grant, IssuanceRefused, issue
from pki.models import Certificate, CertificateProfile, Issuer, Purpose
from tests.pki.conftest import ACTOR, NOW, IssueCertificate, spki
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db
MDM = Purpose.MDM_IDENTITY
DAY = timedelta(days=1)


def test_without_rows_the_built_in_rules_hold(issuer: Issuer) -> None:
    for purpose in Purpose:
        assert profiles.rules_for(purpose, issuer) == BUILT_IN[purpose]
        assert profiles.rules_of(profiles.new_profile(purpose)) == BUILT_IN[purpose]
        assert verify_rules(purpose, BUILT_IN[purpose]) == BUILT_IN[purpose]


def test_the_nearest_rules_hold(issuer: Issuer) -> None:
    other = issuers.create_issuer("other", "Other", algorithm="EC-P256", actor=ACTOR, now=NOW)
    everywhere = profiles.new_profile(MDM)
    everywhere.validity_days = 100
    everywhere.save()
    here = profiles.new_profile(MDM, issuer)
    here.validity_days = 50
    here.save()
    assert profiles.rules_for(MDM, issuer).validity_days == 50
    assert profiles.rules_for(MDM, other).validity_days == 100
    assert profiles.rules_for(Purpose.SERVER_TLS, issuer) == BUILT_IN["SERVER_TLS"]


KEYS: dict[str, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey] = {
    "RSA": rsa.generate_private_key(65537, 2048),
    "EC": ec.generate_private_key(ec.SECP256R1()),
}
SUBJECTS = st.lists(
    st.tuples(st.sampled_from(["CN", "O", "OU", "L", "serialNumber"]), st.sampled_from(["a", "b1", "c d"])),
    max_size=5,
).map(tuple)
SANS = st.lists(
    st.sampled_from(
        [("DNS", "a.example"), ("email", "a@b.example"), ("URI", "urn:x:y"), ("IP", "192.0.2.1")]
    ),
    max_size=4,
    unique=True,
).map(tuple)


@st.composite
def rows(draw: st.DrawFn) -> CertificateProfile:
    """Profiles that the form would take."""
    purpose = draw(st.sampled_from([MDM, Purpose.SERVER_TLS, Purpose.PROFILE_SIGNING]))
    required, allowed = PURPOSES[purpose]
    usages = draw(st.sets(st.sampled_from(LEAF_KEY_USAGES)))
    return CertificateProfile(
        purpose=purpose,
        validity_days=draw(st.none() | st.integers(1, 800)),
        key_usage=sorted(usages | {"digitalSignature"}),
        extended_key_usage=[*required, *draw(st.lists(st.sampled_from(allowed), unique=True))],
        subject_attributes=draw(st.lists(st.sampled_from(sorted(NAME_OIDS)), unique=True)),
        organization=draw(st.sampled_from(["", "Orchard"])),
        organizational_unit=draw(st.sampled_from(["", "Devices"])),
        country=draw(st.sampled_from(["", "GB"])),
        alternative_names=draw(st.lists(st.sampled_from(SAN_KINDS), unique=True)),
        min_rsa_bits=draw(st.sampled_from(RSA_SIZES)),
        ec_allowed=draw(st.booleans()),
        crl_address=draw(st.booleans()),
        authority_address=draw(st.booleans()),
    )


@given(
    row=rows(),
    kind=st.sampled_from(sorted(KEYS)),
    asked=st.tuples(SUBJECTS, SANS, st.none() | st.integers(1, 900)),
)
@settings(max_examples=80, suppress_health_check=list(HealthCheck))
def test_property_issued_is_profile_and_grant(
    issuer: Issuer,
    row: CertificateProfile,
    kind: str,
    asked: tuple[Name, Name, int | None],
) -> None:
    """Read back from the certificate: name, names, usages, time and addresses follow from row and grant."""
    subject, san, days = asked
    CertificateProfile.objects.all().delete()
    row.pk = None
    row.save()
    key = KEYS[kind]
    grant = Grant(issuer, Purpose(row.purpose), subject, san=san, validity_days=days, reason="test")
    fixed = {"OU": row.organizational_unit, "O": row.organization, "C": row.country}
    fixed = {name: value for name, value in fixed.items() if value}
    kept_names = [pair for pair in san if pair[0] in row.alternative_names]
    kept = [pair for pair in subject if pair[0] in row.subject_attributes]
    refused = (
        (kind == "RSA" and row.min_rsa_bits > 2048)
        or (kind == "EC" and not row.ec_allowed)
        or not (kept or fixed or kept_names)
    )
    if refused:
        with pytest.raises(IssuanceRefused):
            issue(grant, spki(key), actor=ACTOR, now=NOW)
        return
    certificate = issue(grant, spki(key), actor=ACTOR, now=NOW)
    der = bytes(certificate.der)
    loaded = load_certificate(der)
    found = subject_of(der)
    # What is fixed stands once, whatever the record says; the rest is what is kept, in its order.
    assert {name: value for name, value in found if name in fixed} == fixed
    assert len([name for name, _value in found if name in fixed]) == len(fixed)
    assert [pair for pair in found if pair[0] not in fixed] == [pair for pair in kept if pair[0] not in fixed]
    assert list(alternative_names_of(der)) == kept_names
    unfit = {"keyAgreement"} if kind == "RSA" else {"keyEncipherment", "dataEncipherment"}
    assert key_usages_of(der) == frozenset(row.key_usage) - unfit
    extensions = {type(extension.value): extension.value for extension in loaded.extensions}
    usages = extensions.get(x509.ExtendedKeyUsage, ())
    assert list(usages) == [EXTENDED_KEY_USAGES[name] for name in row.extended_key_usage]
    assert (x509.CRLDistributionPoints in extensions) == row.crl_address
    assert (x509.AuthorityInformationAccess in extensions) == row.authority_address
    assert extensions[x509.BasicConstraints].ca is False
    assert x509.OCSPNoCheck not in extensions
    granted = days if days is not None else (row.validity_days or issuer.leaf_validity_days)
    if row.validity_days is not None:
        granted = min(granted, row.validity_days)
    assert loaded.not_valid_after_utc == NOW + granted * DAY
    assert public_key_of(loaded) == key.public_key()


@pytest.mark.parametrize(
    ("purpose", "changes", "reason"),
    [
        (MDM, {"extended_key_usage": ()}, "need clientAuth"),
        (MDM, {"extended_key_usage": ("clientAuth", "serverAuth")}, "may not have serverAuth"),
        (MDM, {"extended_key_usage": ("clientAuth", "OCSPSigning")}, "may not have OCSPSigning"),
        (Purpose.SERVER_TLS, {"extended_key_usage": ("clientAuth",)}, "need serverAuth"),
        (MDM, {"key_usage": frozenset({"keyEncipherment"})}, "usable for signatures"),
        (MDM, {"key_usage": frozenset({"digitalSignature", "keyCertSign"})}, "only CAs have keyCertSign"),
        (MDM, {"key_usage": frozenset({"digitalSignature", "cRLSign"})}, "only CAs have cRLSign"),
        (Purpose.SCEP_RECIPIENT, {"key_usage": frozenset({"digitalSignature"})}, "keyEncipherment"),
        (MDM, {"validity_days": 0}, "1 to"),
        (MDM, {"validity_days": 99999}, "1 to"),
        (MDM, {"min_rsa_bits": 1024}, "at least"),
        (MDM, {"fixed": (("O", "a\0b"),)}, "control"),
        (MDM, {"subject_attributes": frozenset(), "alternative_names": frozenset()}, "name nobody"),
        (MDM, {"subject_attributes": frozenset({"NOPE"})}, "unknown parts"),
        (MDM, {"alternative_names": frozenset({"NOPE"})}, "unknown kinds"),
    ],
)
def test_rules_that_are_refused(purpose: Purpose, changes: dict[str, object], reason: str) -> None:
    """No profile makes a CA, an unlimited certificate, or one that cannot do what its purpose says."""
    built_in = BUILT_IN[purpose]
    values = {name: getattr(built_in, name) for name in Rules.__dataclass_fields__} | changes
    with pytest.raises(RulesRefused, match=reason):
        verify_rules(purpose, Rules(**values))


def test_a_responder_is_exempt_from_being_asked(issue_certificate: IssueCertificate) -> None:
    responder = load_certificate(bytes(issue_certificate(purpose=Purpose.OCSP_SIGNING).der))
    assert x509.OCSPNoCheck.oid in [extension.oid for extension in responder.extensions]
    assert responder.not_valid_after_utc == NOW + 30 * DAY


def test_addresses_are_those_of_the_generation(issue_certificate: IssueCertificate) -> None:
    certificate = load_certificate(bytes(issue_certificate().der))
    access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    places = {row.access_method: row.access_location.value for row in access}
    assert places[AuthorityInformationAccessOID.CA_ISSUERS].endswith("/pki/bramley/1.cer")


def test_a_refused_key_changes_nothing(issuer: Issuer, issue_certificate: IssueCertificate) -> None:
    row = profiles.new_profile(MDM)
    row.ec_allowed = False
    row.save()
    with no_change(), pytest.raises(IssuanceRefused, match="only RSA"):
        issue_certificate()
    assert not Certificate.objects.exists()
