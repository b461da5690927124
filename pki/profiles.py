"""Certificate profiles: which rules hold for a purpose at an issuer."""

from __future__ import annotations

from django.db.models import F, Q

from pki.core.names import Name
from pki.core.profile import BUILT_IN, Rules
from pki.models import CertificateProfile, Issuer, Purpose

# Where to put what is the same in all certificates, in the order in which it is appended.
FIXED_PARTS = (("OU", "organizational_unit"), ("O", "organization"), ("C", "country"))


def rules_for(purpose: Purpose, issuer: Issuer) -> Rules:
    """The rules of this issuer, else those for all issuers, else the built-in ones. One query."""
    row = (
        CertificateProfile.objects.filter(Q(issuer=issuer) | Q(issuer=None), purpose=purpose)
        .order_by(F("issuer").asc(nulls_last=True))
        .first()
    )
    return BUILT_IN[purpose.value] if row is None else rules_of(row)


def rules_of(profile: CertificateProfile) -> Rules:
    """The rules that a row says. Whether they can do is for :func:`pki.core.profile.verify_rules`."""
    return Rules(
        key_usage=frozenset(profile.key_usage),
        extended_key_usage=tuple(profile.extended_key_usage),
        validity_days=profile.validity_days,
        subject_attributes=frozenset(profile.subject_attributes),
        fixed=fixed_name(profile),
        alternative_names=frozenset(profile.alternative_names),
        min_rsa_bits=profile.min_rsa_bits,
        ec_allowed=profile.ec_allowed,
        crl_address=profile.crl_address,
        authority_address=profile.authority_address,
        ocsp_no_check=BUILT_IN[profile.purpose].ocsp_no_check,
    )


def fixed_name(profile: CertificateProfile) -> Name:
    """The parts of the name that are the same in all certificates."""
    values = ((key, getattr(profile, field)) for key, field in FIXED_PARTS)
    return tuple((key, value) for key, value in values if value)


def new_profile(purpose: Purpose, issuer: Issuer | None = None) -> CertificateProfile:
    """A row, not saved, that says what the built-in rules say."""
    rules = BUILT_IN[purpose.value]
    return CertificateProfile(
        purpose=purpose,
        issuer=issuer,
        validity_days=rules.validity_days,
        key_usage=sorted(rules.key_usage),
        extended_key_usage=list(rules.extended_key_usage),
        subject_attributes=sorted(rules.subject_attributes),
        alternative_names=sorted(rules.alternative_names),
        min_rsa_bits=rules.min_rsa_bits,
        ec_allowed=rules.ec_allowed,
        crl_address=rules.crl_address,
        authority_address=rules.authority_address,
    )
