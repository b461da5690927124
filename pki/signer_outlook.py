"""What devices make of a signer of profiles, and what a change of signer does, in words beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils import timezone
from django.utils.translation import gettext as _

from pki import issuers, profile_signers
from pki.core.certificates import CertificateFacts, describe, load_certificates, read_identifiers
from pki.core.server_trust import Anchor, Known, Roots, find_way
from pki.models import CertificateStatus, HeldKey, Issuer, ProfileSigner, Purpose, TlsAnchor
from pki.outlook import Statement
from pki.public_roots import public_roots

SOON = timedelta(days=30)


@dataclass(frozen=True)
class Outlook:
    """A signer: how it is called, its certificate (None where an issuer of ours has not made one yet)."""

    name: str
    own: bool
    certificate: bytes | None
    chain: tuple[bytes, ...]
    statements: tuple[Statement, ...]

    @property
    def facts(self) -> CertificateFacts | None:
        return describe(self.certificate) if self.certificate else None


def signs_now(now: datetime) -> Outlook | None:
    """Whoever signs the next profile; None where there is no issuer at all. Makes nothing."""
    chosen = profile_signers.in_use()
    if chosen is not None:
        return outlook(chosen, now)
    try:
        return of_issuer(issuers.default_issuer(), now)
    except issuers.IssuerMissing:
        return None


def outlook(signer: ProfileSigner, now: datetime) -> Outlook:
    """What devices make of this one."""
    if signer.issuer is not None:
        return of_issuer(signer.issuer, now)
    chain = load_certificates(bytes(signer.chain)) if signer.chain else ()
    certificate = bytes(signer.der)
    statements = (*_ends(describe(certificate), now), _leads_to(certificate, chain, now))
    return Outlook(str(signer), False, certificate, chain, statements)


def of_issuer(issuer: Issuer, now: datetime) -> Outlook:
    """The signer of an issuer of ours: made at first use, renewed by itself with the same key and name."""
    held = (
        HeldKey.objects.select_related("certificate")
        .filter(
            certificate__issuer_key__issuer=issuer,
            certificate__purpose=Purpose.PROFILE_SIGNING,
            certificate__status=CertificateStatus.ISSUED,
            certificate__not_after__gt=now,
        )
        .order_by("-pk")
        .first()
    )
    statement = Statement(
        "info",
        _(
            "A certificate of our own issuer, renewed by itself with the same key and name. Devices show "
            "profiles as not verified until they have the root; each enrolment profile brings it."
        ),
    )
    certificate = bytes(held.certificate.der) if held else None
    return Outlook(issuer.name, True, certificate, tuple(issuers.chain(issuer)), (statement,))


def change(before: Outlook | None, after: Outlook) -> list[Statement]:
    """What happens when another one signs."""
    if before is None:
        return []
    if before.certificate and after.certificate:
        if before.certificate == after.certificate:
            return [Statement("good", _("It signs already: nothing changes."))]
        if _same_identity(before.certificate, after.certificate):
            return [
                Statement(
                    "good",
                    _(
                        "Same name and same key as the one that signs now: a renewal. Devices should take it "
                        "for the same signer."
                    ),
                )
            ]
    return [
        Statement(
            "wait",
            _(
                "This is another signer. A device lets a person replace a signed profile only by one of the "
                "same signer: whoever downloads the enrolment profile again on an enrolled device is turned "
                "away, and has to remove the old profile first, which ends management."
            ),
        ),
        Statement(
            "info",
            _(
                "What the server itself sends is not touched: devices under management take renewed "
                "identities and changed profiles from it whoever signed them."
            ),
        ),
        Statement(
            "info", _("Enrolments over the air that are half done at that moment may have to begin again.")
        ),
    ]


def _same_identity(first: bytes, second: bytes) -> bool:
    one, other = read_identifiers(first), read_identifiers(second)
    return (one.subject, one.public_key) == (other.subject, other.public_key)


def _ends(facts: CertificateFacts, now: datetime) -> list[Statement]:
    at = timezone.localtime(facts.not_after).strftime("%Y-%m-%d")
    if facts.not_after <= now:
        return [Statement("bad", _("It expired on %(at)s and signs no profile any more.") % {"at": at})]
    if facts.not_after - now < SOON:
        return [
            Statement(
                "wait",
                _(
                    "It expires on %(at)s. No profile can be made after that. Renew it with the same key, "
                    "and import the new one before."
                )
                % {"at": at},
            )
        ]
    return []


def _leads_to(certificate: bytes, chain: tuple[bytes, ...], now: datetime) -> Statement:
    """Whether a device that has nothing from us yet shows the profile as verified."""
    brought = Roots(bytes(der) for der in TlsAnchor.objects.values_list("der", flat=True))
    anchor, way = find_way((certificate, *chain), Known(public_roots(), brought, Roots([])), now)
    top = describe(way[-1])
    if anchor is Anchor.PUBLIC:
        return Statement(
            "good",
            _("It leads to a public root, %(name)s: devices show profiles as verified.")
            % {"name": top.subject},
        )
    if anchor in {Anchor.IN_PROFILE, Anchor.PRIVATE}:
        return Statement(
            "wait",
            _(
                "It leads to a private root, %(name)s: devices show profiles as not verified until they have "
                "that root."
            )
            % {"name": top.subject},
        )
    return Statement(
        "wait",
        _(
            "The way to a root ends at %(name)s, issued by %(issuer)s: devices show profiles as not "
            "verified. If that is an intermediate CA, import the certificate again with its whole chain."
        )
        % {"name": top.subject, "issuer": top.issuer},
    )
