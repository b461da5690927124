"""The key generations of an issuer, as renewals and campaigns look at them."""

from __future__ import annotations

from pki import issuers
from pki.models import Issuer, IssuerKey, IssuerKeyState


def still_trusted(issuer: Issuer) -> list[list[bytes]]:
    """The chains that devices should keep beside the current one: of every generation that is not closed.

    A device that is renewed while a re-key is under way still meets what the old key signed.
    """
    return [
        chain_of_key(issuer_key)
        for issuer_key in issuers.keys_of(issuer)
        if issuer_key.state == IssuerKeyState.PREVIOUS
    ]


def chain_of_key(issuer_key: IssuerKey) -> list[bytes]:
    """The CA certificate of a generation and those above it, as DER; empty where it has none."""
    try:
        return issuers.chain_of(issuers.current_certificate(issuer_key))
    except issuers.IssuerMissing:
        return []


def older_keys(new_key: IssuerKey) -> list[IssuerKey]:
    """The generations before this one that are still in use or trusted."""
    return [
        issuer_key
        for issuer_key in issuers.keys_of(new_key.issuer)
        if issuer_key.generation < new_key.generation
        and issuer_key.state in (IssuerKeyState.CURRENT, IssuerKeyState.PREVIOUS)
    ]
