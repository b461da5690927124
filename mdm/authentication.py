"""Who sends a request: the certificate behind it, verified before anything of the body is parsed.

``BRAMLEY_DEVICE_AUTH`` says which proof counts. ``signature``: ``Mdm-Signature`` holds a detached CMS message
over the body. ``certificate``: the client showed its certificate in TLS, which this server itself ended, or a
trusted proxy that passes it on (``BRAMLEY_CLIENT_CERT_HEADER``); then a signature alone does not count
(threats A13). ``either``: one of them. Where both are there they have to name the same certificate.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.http import HttpRequest

from commands.statements import Candidate
from devices.models import Enrollment, Identity, IdentityState
from mdm.answers import Rejected
from mdm.core.headers import HeaderError, decode_client_certificate, decode_signature
from mdm.proxies import CLIENT_CERTIFICATE, HEADERS_TOLD_APART, is_trusted
from mdm.statements import find_certificate, find_identity
from pki import trust
from pki.core.cms import CmsError, verify_signed_data
from pki.models import Certificate, Purpose

PROOFS = ("signature", "certificate", "either")


@dataclass(frozen=True)
class Presented:
    """A verified, current, unrevoked device certificate, and what it is pinned to.

    ``identity`` is None for a certificate that was never used here: fresh, renewed, or of a foreign issuer.
    ``push_state``: of the device channel's row in the outbox, empty where there is none. ``first``: what is
    first in that channel's queue, as it was when the identity was read.
    """

    certificate: Certificate
    identity: Identity | None
    push_state: str = ""
    first: Candidate | None = None

    @property
    def enrollment(self) -> Enrollment | None:
        """The device enrollment that the certificate is pinned to."""
        return self.identity.enrollment if self.identity else None


class Expired(Rejected):
    """A pinned certificate whose time is over: refused, unless an administrator lets it in once more.

    ``identity``: what it is pinned to. Whether anything else speaks against it has not been looked at.
    """

    def __init__(self, identity: Identity) -> None:
        super().__init__("certificate expired", target=identity.enrollment)
        self.identity = identity


def required_proof() -> str:
    """One of :data:`PROOFS`. Unset: a certificate where a proxy passes it on, else a signature."""
    default = "certificate" if settings.BRAMLEY_CLIENT_CERT_HEADER else "signature"
    return settings.BRAMLEY_DEVICE_AUTH or default


def authenticate(request: HttpRequest, body: bytes, now: datetime) -> Presented:
    """The certificate with which the request was made. Raises :class:`Rejected`.

    1. The configured proof is there, from a peer that may give it, and holds for these very bytes.
    2. The certificate behind it is one that we know or whose issuer we trust for device identities.
    3. It is current, and neither revoked nor superseded.
    """
    der = proven_certificate(request, body)
    return pinned(der, now) or unpinned(der, now)


def pinned(der: bytes, now: datetime) -> Presented | None:
    """A certificate that speaks for an enrollment already, in one query; None if it does not.

    Raises :class:`Rejected`, of which :class:`Expired` is one.
    """
    found = find_identity(hashlib.sha256(der).hexdigest(), now)
    if found is None:
        return None
    identity = found.identity
    try:
        trust.verify_record(identity.certificate, purpose=Purpose.MDM_IDENTITY, now=now)
    except trust.Untrusted as error:
        if error.reason == "expired":
            raise Expired(identity) from error
        raise Rejected(f"certificate {error.reason}", target=identity.enrollment) from error
    if identity.state != IdentityState.ACTIVE:
        raise Rejected("certificate superseded", target=identity.enrollment)
    return Presented(identity.certificate, identity, found.push_state, found.first)


def unpinned(der: bytes, now: datetime) -> Presented:
    """A certificate that is new here: issued by us, or by a CA that is trusted for device identities.

    The latter gets a record now; call it in the transaction of the message, so that a refusal takes that
    back. Raises :class:`Rejected`.
    """
    fingerprint = hashlib.sha256(der).hexdigest()
    try:
        known = find_certificate(fingerprint)
        if known is not None:
            return Presented(trust.verify_record(known, purpose=Purpose.MDM_IDENTITY, now=now), None)
        return Presented(trust.identify(der, purpose=Purpose.MDM_IDENTITY, now=now), None)
    except trust.Untrusted as error:
        raise Rejected(f"certificate {error.reason}", detail=f"SHA-256 {fingerprint}") from error


def proven_certificate(request: HttpRequest, body: bytes) -> bytes:
    """DER of the certificate that the configured proof is for. Raises :class:`Rejected`."""
    signature, proof = request.META.get("HTTP_MDM_SIGNATURE", ""), required_proof()
    if proof == "signature":
        return _signer(signature, body)
    shown = _shown_certificate(request)
    if shown is None:
        if proof == "either" and signature:
            return _signer(signature, body)
        raise Rejected("no client certificate")
    if signature and _signer(signature, body) != shown:
        raise Rejected("signature and client certificate differ")
    return shown


def _shown_certificate(request: HttpRequest) -> bytes | None:
    """The certificate of the TLS connection, ended here or at a trusted proxy. Raises :class:`Rejected`."""
    header = settings.BRAMLEY_CLIENT_CERT_HEADER
    if not header:
        shown: bytes | None = request.META.get(CLIENT_CERTIFICATE)
        return shown
    value = request.META.get("HTTP_" + header.upper().replace("-", "_"), "")
    if not value and required_proof() == "either":
        return None
    # The peer of the socket, not what X-Forwarded-For says of it (threats A11).
    if not is_trusted(request.META.get("REMOTE_ADDR", ""), settings.BRAMLEY_TRUSTED_PROXIES):
        raise Rejected("peer is not a trusted proxy")
    if not request.META.get(HEADERS_TOLD_APART):
        raise Rejected("the web server confuses headers", detail="X_Name counts as X-Name; see docs/proxies")
    if not value:
        return None
    try:
        return decode_client_certificate(header, value)
    except HeaderError as error:
        raise Rejected("bad client certificate header", detail=error.reason) from error


def _signer(signature: str, body: bytes) -> bytes:
    if not signature:
        raise Rejected("no Mdm-Signature")
    try:
        message = decode_signature(signature)
        # Devices still sign with SHA-1 here, with and without signed attributes.
        return verify_signed_data(message, detached_content=body, allow_sha1=True).signer
    except (HeaderError, CmsError) as error:
        raise Rejected("bad Mdm-Signature", detail=error.reason) from error
