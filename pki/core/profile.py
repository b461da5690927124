"""What certificates for a purpose look like: the rules, and what follows from rules and record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pki.core.algorithms import PublicKey
from pki.core.certificates import CertificateFields
from pki.core.names import NAME_OIDS, Name, NameRefused, encode_name
from pki.core.policy import MIN_RSA_BITS, KeyRefused

SAN_KINDS = ("DNS", "email", "URI", "IP")
RSA_SIZES = (2048, 3072, 4096)
LEAF_KEY_USAGES = (
    "digitalSignature",
    "nonRepudiation",
    "keyEncipherment",
    "dataEncipherment",
    "keyAgreement",
)
# What the kind of key cannot do is left out of the certificate.
_RSA_ONLY = frozenset({"keyEncipherment", "dataEncipherment"})
_EC_ONLY = frozenset({"keyAgreement"})
MAX_DAYS = 3653


class RulesRefused(Exception):
    """Such rules would make certificates that do not work or say too much; ``reason`` says why.

    ``field``: the field of :class:`Rules` that is wrong.
    """

    def __init__(self, reason: str, field: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.field = field


@dataclass(frozen=True)
class Rules:
    """What a certificate may and must hold.

    ``validity_days``: None for the issuer's default. ``subject_attributes``, ``alternative_names``: what of
    the record is taken over; the rest is left out. ``fixed``: parts of the name that are the same in all.
    """

    key_usage: frozenset[str]
    extended_key_usage: tuple[str, ...] = ()
    validity_days: int | None = None
    subject_attributes: frozenset[str] = frozenset(NAME_OIDS)
    fixed: Name = ()
    alternative_names: frozenset[str] = frozenset(SAN_KINDS)
    min_rsa_bits: int = MIN_RSA_BITS
    ec_allowed: bool = True
    crl_address: bool = True
    authority_address: bool = True
    ocsp_no_check: bool = False


@dataclass(frozen=True)
class Addresses:
    """Where relying parties ask about a certificate: written into it as far as the rules say."""

    crl: str | None = None
    issuer: str | None = None
    ocsp: str | None = None


_SIGNING = frozenset({"digitalSignature"})
_SIGNING_AND_KEYS = frozenset({"digitalSignature", "keyEncipherment"})

# By the names of pki.models.Purpose.
BUILT_IN: Mapping[str, Rules] = {
    "OTA_IDENTITY": Rules(_SIGNING_AND_KEYS, ("clientAuth",)),
    "MDM_IDENTITY": Rules(_SIGNING_AND_KEYS, ("clientAuth",)),
    "PROFILE_SIGNING": Rules(_SIGNING),
    "SCEP_RECIPIENT": Rules(_SIGNING_AND_KEYS),
    # RFC 6960 section 4.2.2.2: whoever trusts the CA trusts its responder, unasked while it is valid.
    "OCSP_SIGNING": Rules(
        _SIGNING, ("OCSPSigning",), validity_days=30, authority_address=False, ocsp_no_check=True
    ),
    "SERVER_TLS": Rules(_SIGNING_AND_KEYS, ("serverAuth",)),
}
# The first must be there, the rest may be: a certificate without any purpose in it would be good for all.
PURPOSES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "OTA_IDENTITY": (("clientAuth",), ("emailProtection",)),
    "MDM_IDENTITY": (("clientAuth",), ("emailProtection",)),
    "PROFILE_SIGNING": ((), ("emailProtection", "codeSigning")),
    "SCEP_RECIPIENT": ((), ()),
    "OCSP_SIGNING": (("OCSPSigning",), ()),
    "SERVER_TLS": (("serverAuth",), ("clientAuth",)),
}


def verify_rules(purpose: str, rules: Rules) -> Rules:
    """The rules, where certificates by them can do what ``purpose`` says. Raises :class:`RulesRefused`."""
    required, allowed = PURPOSES[purpose]
    usages = rules.extended_key_usage
    if missing := [usage for usage in required if usage not in usages]:
        raise RulesRefused(f"certificates for this purpose need {', '.join(missing)}", "extended_key_usage")
    if excess := [usage for usage in usages if usage not in (*required, *allowed)]:
        raise RulesRefused(
            f"certificates for this purpose may not have {', '.join(excess)}", "extended_key_usage"
        )
    if "digitalSignature" not in rules.key_usage:
        raise RulesRefused(
            "the key must be usable for signatures: every use here proves that it is held", "key_usage"
        )
    if purpose == "SCEP_RECIPIENT" and "keyEncipherment" not in rules.key_usage:
        raise RulesRefused("SCEP clients encrypt to this key: it needs keyEncipherment", "key_usage")
    if unknown := rules.key_usage - frozenset(LEAF_KEY_USAGES):
        raise RulesRefused(f"only CAs have {', '.join(sorted(unknown))}", "key_usage")
    if rules.validity_days is not None and not 1 <= rules.validity_days <= MAX_DAYS:
        raise RulesRefused(f"a certificate is valid for 1 to {MAX_DAYS} days", "validity_days")
    if rules.min_rsa_bits not in RSA_SIZES:
        raise RulesRefused(f"RSA keys have at least {' or '.join(map(str, RSA_SIZES))} bits", "min_rsa_bits")
    if not rules.subject_attributes <= frozenset(NAME_OIDS):
        raise RulesRefused("unknown parts of a name", "subject_attributes")
    if not rules.alternative_names <= frozenset(SAN_KINDS):
        raise RulesRefused("unknown kinds of alternative names", "alternative_names")
    if not rules.subject_attributes and not rules.fixed and not rules.alternative_names:
        raise RulesRefused("the certificate would name nobody", "subject_attributes")
    try:
        encode_name(rules.fixed)
    except NameRefused as refused:
        raise RulesRefused(refused.reason, "fixed") from None
    return rules


def verify_key_by(rules: Rules, key: PublicKey) -> PublicKey:
    """The key, where the rules allow it. Raises :class:`pki.core.policy.KeyRefused`."""
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < rules.min_rsa_bits:
            raise KeyRefused(
                f"an RSA key has at least {rules.min_rsa_bits} bits here, this one {key.key_size}"
            )
    elif not rules.ec_allowed:
        raise KeyRefused("only RSA keys are allowed here")
    return key


def subject_by(rules: Rules, subject: Name) -> Name:
    """The name in the certificate: what is kept of the record's, and what is fixed in its place or behind."""
    fixed = dict(rules.fixed)
    kept = [(key, value) for key, value in subject if key in rules.subject_attributes or key in fixed]
    placed: set[str] = set()
    name: list[tuple[str, str]] = []
    for key, value in kept:
        if key not in fixed:
            name.append((key, value))
        elif key not in placed:
            name.append((key, fixed[key]))
            placed.add(key)
    return (*name, *((key, value) for key, value in rules.fixed if key not in placed))


def key_usage_by(rules: Rules, key: PublicKey) -> frozenset[str]:
    """What of the rules' key usages a key of this kind can do."""
    return rules.key_usage - (_EC_ONLY if isinstance(key, rsa.RSAPublicKey) else _RSA_ONLY)


def certificate_by(
    rules: Rules,
    *,
    subject: Name,
    san: tuple[tuple[str, str], ...],
    key: PublicKey,
    not_before: datetime,
    not_after: datetime,
    addresses: Addresses,
    serial_number: int = 0,
) -> CertificateFields:
    """All that a certificate will hold: a function of the rules and the record.

    The key is encoded anew: nothing of a request's bytes gets into the certificate.
    """
    return CertificateFields(
        subject=subject_by(rules, subject),
        public_key=key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        serial_number=serial_number,
        not_before=not_before,
        not_after=not_after,
        san=tuple((kind, value) for kind, value in san if kind in rules.alternative_names),
        key_usage=key_usage_by(rules, key),
        extended_key_usage=rules.extended_key_usage,
        crl_url=addresses.crl if rules.crl_address else None,
        issuer_url=addresses.issuer if rules.authority_address else None,
        ocsp_url=addresses.ocsp if rules.authority_address else None,
        ocsp_no_check=rules.ocsp_no_check,
    )
