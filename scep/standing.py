"""How a SCEP service stands at this moment: its rules, its issuer, and the certificates that it answers with.

Asked anew for each request: a changed setting, a re-key, a revocation count at once in every process. Kept in
the process is what can never change (the bytes of a certificate by its fingerprint, the opened key of a key
generation), and how things stood, as long as the rows are of the same version.

A PKIOperation is opened by what was read for the request before (:func:`remembered`), and that is confirmed
(:func:`confirm`) in the statement that looks for its challenge, before anything is decided or answered. Where
it is no longer so, it is :class:`Outdated`, and the request is opened again by how things are now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache

from pki import issuers, keys, profiles
from pki.core import cms
from pki.core.algorithms import PrivateKey
from pki.core.profile import BUILT_IN
from pki.issuance import Means
from pki.models import (
    CertificateProfile,
    Issuer,
    IssuerCertificate,
    IssuerCertificateKind,
    IssuerKey,
    IssuerKeyState,
    Purpose,
)
from scep import challenges, recipients, services, statements
from scep.challenges import Found
from scep.core.decision import ChallengeMode
from scep.core.message import Credentials
from scep.models import CaForm, ScepService
from scep.recipients import CaCertificates, Recipient

_REMEMBERED = 64


@dataclass(frozen=True)
class Authority:
    """One certificate of a live key of the issuer. Its bytes are there; those of its key are not."""

    certificate: IssuerCertificate
    issuer_key: IssuerKey
    has_private_key: bool

    @property
    def der(self) -> bytes:
        """The certificate."""
        return _bytes_of(self.certificate.sha256)

    @property
    def is_handed_out(self) -> bool:
        """Whether it is the one given out for its key, not an earlier one and no link."""
        return self.certificate.is_current and self.certificate.kind in issuers.OWN_KINDS

    def private_key(self) -> PrivateKey:
        """Raises as :func:`pki.keys.issuer_private_key`."""
        return keys.remembered_private_key(self.issuer_key, kept_here=self.has_private_key)


class Outdated(Exception):
    """What was remembered of a service is not so any more."""


@dataclass(frozen=True)
class Standing:
    """A service that is turned on, and what its issuer has in force. ``slug``: as it was asked for."""

    slug: str | None
    service: ScepService
    authorities: tuple[Authority, ...]

    @property
    def issuer(self) -> Issuer:
        """Whose certificates the service gives out."""
        return self.service.issuer

    @cached_property
    def current(self) -> Authority | None:
        """What the issuer signs with and GetCACert gives out."""
        return self._handed_out(IssuerKeyState.CURRENT)

    @cached_property
    def all_decrypt(self) -> bool:
        """Whether requests are encrypted to the issuer's own certificates, whichever generation it is."""
        return not self.service.ra_certificate and all(
            keys.decrypts(one.issuer_key) for one in self.authorities
        )

    @cached_property
    def has_next(self) -> bool:
        """Whether a next key generation has its certificate."""
        return self._handed_out(IssuerKeyState.NEXT) is not None

    def _handed_out(self, state: IssuerKeyState) -> Authority | None:
        return next(
            (one for one in self.authorities if one.is_handed_out and one.issuer_key.state == state), None
        )


def find(slug: str | None) -> Standing:
    """The service at ``/scep/<slug>/``, or at ``/scep/``.

    Raises :class:`scep.services.ServiceMissing`.
    """
    former = _former.get(slug)
    if former is not None and former[0] == statements.find_version(slug, issuers.DEFAULT_SLUG):
        stands = former[1]
    else:
        stands = _read(slug)
    if not stands.service.enabled:
        raise services.ServiceMissing(f"there is no SCEP service {slug}")
    return stands


def remembered(slug: str | None) -> Standing | None:
    """How the service stood when it was last looked at, to be confirmed.

    None where it was off, and where more than this is needed to open a request (an RA certificate).
    """
    former = _former.get(slug)
    if former is None:
        return None
    stands = former[1]
    return stands if stands.service.enabled and stands.current is not None and stands.all_decrypt else None


def confirm(stands: Standing, passwords: Sequence[str], now: datetime) -> Found | None:
    """Make sure that what was remembered is so; and what the challenge is worth, where that was asked along.

    Raises :class:`Outdated`.
    """
    hashes = challenges.hashes_of(passwords)
    if not hashes or stands.service.rules.mode is not ChallengeMode.BOUND:
        version, found = statements.find_version(stands.slug, issuers.DEFAULT_SLUG), None
    else:
        version, challenge = statements.find_version_and_challenge(stands.slug, issuers.DEFAULT_SLUG, hashes)
        found = challenges.judge(challenge, stands.issuer, now)
    former = _former.get(stands.slug)
    if former is None or former[1] is not stands or former[0] != version:
        raise Outdated
    return found


def _read(slug: str | None) -> Standing:
    rows = statements.find_standing(slug, issuers.DEFAULT_SLUG)
    if not rows:
        # The service of an issuer's own name is made when it is first asked for.
        rows = statements.find_standing(services.find(slug).slug, issuers.DEFAULT_SLUG)
    found = statements.read_standing(rows)
    if not found:
        raise services.ServiceMissing(f"there is no SCEP service {slug}")
    stands = Standing(
        slug,
        found[0].service,
        tuple(
            Authority(row.certificate, row.issuer_key, row.has_private_key)
            for row in found
            if row.issuer_key is not None and row.certificate is not None
        ),
    )
    if len(_former) >= _REMEMBERED:
        _former.clear()
    _former[slug] = (statements.version_of(rows), stands)
    return stands


_former: dict[str | None, tuple[statements.Version, Standing]] = {}


def recipient(standing: Standing, envelope: bytes, now: datetime) -> Recipient:
    """As :func:`scep.recipients.choose`: from what is known already, where no RA certificate is used."""
    current = standing.current
    if current is None or not standing.all_decrypt:
        return recipients.choose(standing.service, envelope, now)
    try:
        chosen = current
        if len(standing.authorities) > 1:
            named = cms.find_recipient(envelope, [current.der, *(one.der for one in standing.authorities)])
            chosen = next((one for one in standing.authorities if one.der == named), current)
        private_key = chosen.private_key()
        certificate = chosen.der
    except (IssuerKey.DoesNotExist, IssuerCertificate.DoesNotExist):
        raise recipients.NotReady("the issuer has no such key any more") from None
    except keys.CANNOT_SIGN as unavailable:
        raise recipients.NotReady(str(unavailable)) from None
    if not keys.decrypts(private_key):
        raise recipients.NotReady("issuer without an RSA key")
    return Recipient(Credentials(certificate, private_key), chosen.issuer_key)  # type: ignore[arg-type]


def ca_certificates(standing: Standing, now: datetime) -> CaCertificates:
    """As :func:`scep.recipients.ca_certificates`: from what is known already, where it is one certificate."""
    current = standing.current
    if current is not None and standing.all_decrypt:
        self_signed = current.certificate.kind == IssuerCertificateKind.SELF_SIGNED
        if self_signed or standing.service.ca_form == CaForm.SINGLE:
            return CaCertificates((current.der,))
    return recipients.ca_certificates(standing.service, now)


def means(authority: Authority, purpose: Purpose, profile: int | None) -> Means:
    """What certificates for a purpose are made with. ``profile``: the row of its rules, None: built-in ones.

    Raises :class:`pki.keys.KeyUnavailable`.
    """
    rules = (
        BUILT_IN[purpose.value]
        if profile is None
        else profiles.rules_of(CertificateProfile.objects.get(pk=profile))
    )
    return Means(authority.issuer_key, authority.certificate, authority.der, authority.private_key(), rules)


@lru_cache(maxsize=_REMEMBERED)
def _bytes_of(sha256: str) -> bytes:
    return bytes(IssuerCertificate.objects.values_list("der", flat=True).get(sha256=sha256))
