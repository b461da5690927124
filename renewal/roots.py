"""The new root as a profile of its own: so that devices trust the new key before it is used."""

from __future__ import annotations

from datetime import datetime

from django.utils.translation import gettext as _

from enrollment.core.payloads import Texts, encode, trust_profile
from pki.models import IssuerKey
from pki.signing import sign_profile
from renewal import generations

IDENTIFIER = "org.bramley.authority"


def root_profile(issuer_key: IssuerKey, now: datetime) -> bytes:
    """The signed profile with the CA certificates of a key generation, the same again each time.

    Raises :class:`pki.issuers.IssuerMissing`, :class:`pki.issuance.IssuanceRefused`.
    """
    content = trust_profile(
        identifier=f"{IDENTIFIER}.{issuer_key.uuid}",
        profile_uuid=issuer_key.uuid,
        texts=Texts(
            display_name=_("Certificate authority %(name)s") % {"name": issuer_key.issuer.name},
            organization="",
            description=_("Lets the device trust the next key of its management server."),
        ),
        chain=generations.chain_of_key(issuer_key),
    )
    return sign_profile(encode(content), now=now)
