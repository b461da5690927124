"""Who issued a push certificate or the certificate of an MDM vendor, as far as it can be told here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from django.conf import settings
from django.utils.translation import gettext as _

from pki.core.certificates import describe, load_certificates
from pki.core.scan import Malformed
from push.core import apple, chain
from push.core.pushcert import PushCertError

APPLE = "O=Apple Inc."
APPLE_HOSTS = ".push.apple.com"


class Forged(PushCertError):
    """The certificate names a CA of Apple's that did not issue it."""


@dataclass(frozen=True)
class Provenance:
    """``verified``: signature by signature to Apple's root, or to that of the APNs that is set.

    ``says_apple``: the issuer's name is one of Apple's. ``warning``: what an administrator should know, in
    words; empty if all is well.
    """

    issuer: str
    verified: bool
    warning: str = ""
    says_apple: bool = False


def roots() -> tuple[bytes, ...]:
    """Apple's root, and what ``BRAMLEY_APNS_CA`` names: whoever stands in for APNs issues for it too (DER).

    A file that cannot be read adds nothing: the connection to APNs says so, with its reason.
    """
    if not settings.BRAMLEY_APNS_CA:
        return (apple.ROOT,)
    try:
        return (apple.ROOT, *load_certificates(Path(settings.BRAMLEY_APNS_CA).read_bytes()))
    except (OSError, Malformed):
        return (apple.ROOT,)


def is_apples_apns() -> bool:
    """Whether pushes go to Apple, and not to a stand-in."""
    return (urlsplit(settings.BRAMLEY_APNS_URL).hostname or "").endswith(APPLE_HOSTS)


def of_push_certificate(certificate: bytes, others: Sequence[bytes], *, now: datetime) -> Provenance:
    """Who issued it (DER). ``others``: what came in the same file.

    APNs is the judge of that, so an issuer that is not known here is told, not refused. Raises
    :class:`Forged` where one of Apple's CAs is named and its signature is wrong.
    """
    try:
        facts = describe(certificate)
        issuer = chain.issuer_name(certificate)
    except Malformed as error:
        return Provenance("", False, _("The certificate cannot be checked: %s.") % error.reason)
    try:
        chain.build(certificate, [*others, *apple.INTERMEDIATES], roots=roots(), now=now)
    except chain.NotIssued as error:
        if _names_apples_ca(facts.issuer):
            raise Forged(
                _("The certificate is not genuine, though it says that it comes from Apple. %s") % error
            ) from error
        return _unknown(facts.issuer, issuer)
    except chain.ChainError:
        return _unknown(facts.issuer, issuer)
    return Provenance(issuer, True, says_apple=_says_apple(facts.issuer))


def _names_apples_ca(issuer: str) -> bool:
    return issuer in {describe(der).subject for der in (apple.ROOT, *apple.INTERMEDIATES)}


def _says_apple(issuer: str) -> bool:
    return APPLE in issuer.split(",")


def _unknown(issuer: str, name: str) -> Provenance:
    if _says_apple(issuer):
        text = _("Issued by “%s” of Apple's, which this version does not know: it could not be verified.")
    elif is_apples_apns():
        text = _(
            "Issued by “%s”, not by Apple: Apple's push service will refuse it. "
            "Import the one from Apple's portal."
        )
    else:
        text = _("Issued by “%s”, not by Apple: only another APNs than Apple's takes it.")
    return Provenance(name, False, text % name, says_apple=_says_apple(issuer))
