"""Getting a certificate by SCEP, as a device does it: GetCACaps, GetCACert, PKCSReq."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pki.core import cms
from pki.core.certificates import describe, load_certificate
from pki.core.csr import encode_signing_request
from pki.core.path import verify_issued_by
from pki.core.scan import Malformed
from scep.core import message, wire
from scep.core.attributes import MessageType, PkiStatus
from scep.core.capabilities import decode_capabilities
from simulator.enrolment_profile import ScepFacts, verify_fingerprint
from simulator.exchange import Conversation, Request, SimulationError, expect_ok

USER_AGENT = "profiled/1.0 CFNetwork/1568.200.51 Darwin/24.1.0"


@dataclass(frozen=True)
class CaCertificates:
    """From GetCACert. ``issuer``: who issues. ``recipient``: to whom requests are encrypted, and who signs
    the answers: an RA, or the issuer itself."""

    issuer: bytes
    recipient: bytes


def read_ca_certificates(body: bytes, content_type: str) -> CaCertificates:
    """Both forms of the answer (RFC 8894 section 4.2): one certificate, or a PKCS #7 with several.

    Raises :class:`SimulationError`.
    """
    try:
        if content_type == wire.CA_CERTIFICATE:
            load_certificate(body)
            return CaCertificates(body, body)
        if content_type != wire.CA_CERTIFICATES:
            raise SimulationError("GetCACert", f"Content-Type {content_type!r}")
        found = cms.certificates_of(body)
        own = [der for der in found if not describe(der).is_ca]
        authorities = [der for der in found if der not in own]
        if not authorities:
            raise SimulationError("GetCACert", "no certificate of a CA")
        if not own:
            return CaCertificates(authorities[0], authorities[0])
        return CaCertificates(_issuer_of(own[0], authorities), own[0])
    except Malformed as error:
        raise SimulationError("GetCACert", str(error)) from error


def _issuer_of(certificate: bytes, authorities: Sequence[bytes]) -> bytes:
    for authority in authorities:
        try:
            verify_issued_by(certificate, authority)
        except Malformed:
            continue
        return authority
    raise SimulationError("GetCACert", "the RA certificate was issued by none of the CAs")


def obtain_certificate(
    facts: ScepFacts, *, private_key: RSAPrivateKey, signer: message.Identity | None, now: datetime
) -> Conversation[bytes]:
    """The certificate (DER) that the CA issues for ``private_key``.

    ``signer`` signs the request; without one the device signs with a throw-away identity of the same key,
    as iOS does. Raises :class:`SimulationError`.
    """
    query = f"&message={quote(facts.name)}"
    headers = {"User-Agent": USER_AGENT}
    capabilities = decode_capabilities(
        expect_ok(
            "GetCACaps", (yield Request("GET", f"{facts.url}?operation=GetCACaps{query}", headers=headers))
        )
    )
    answer = yield Request("GET", f"{facts.url}?operation=GetCACert{query}", headers=headers)
    ca = read_ca_certificates(expect_ok("GetCACert", answer), answer.headers.get("content-type", ""))
    verify_fingerprint(facts.ca_fingerprint, ca.issuer)

    signer = signer or message.self_signed(private_key, secrets.token_hex(16), serial_number=1, now=now)
    transaction_id = message.transaction_id_of(private_key)
    nonce = secrets.token_bytes(message.NONCE_SIZE)
    body = message.encode_request(
        encode_signing_request(
            subject=facts.subject, private_key=private_key, challenge_password=facts.challenge
        ),
        message_type=MessageType.PKCS_REQ,
        transaction_id=transaction_id,
        sender_nonce=nonce,
        signer=signer,
        recipient=ca.recipient,
        cipher=capabilities.cipher,
        digest=capabilities.digest,
        random=secrets.token_bytes,
        now=now,
    )
    if capabilities.by_post:
        request = Request(
            "POST",
            f"{facts.url}?operation=PKIOperation",
            body,
            {**headers, "Content-Type": wire.PKI_MESSAGE},
        )
    else:
        request = Request("GET", f"{facts.url}?{wire.encode_query('PKIOperation', body)}", headers=headers)
    reply = expect_ok("PKIOperation", (yield request))
    try:
        answered = message.open_reply(
            reply,
            ca_certificate=ca.recipient,
            identity=signer,
            transaction_id=transaction_id,
            sender_nonce=nonce,
            random=secrets.token_bytes,
        )
    except Malformed as error:
        raise SimulationError("PKIOperation", str(error)) from error
    if answered.status is not PkiStatus.SUCCESS:
        raise SimulationError(
            "PKIOperation", f"{answered.status.name} {answered.fail_info} {answered.fail_info_text}".strip()
        )
    return _verified(answered.certificates[0], ca.issuer, private_key)


def _verified(certificate: bytes, ca_certificate: bytes, private_key: RSAPrivateKey) -> bytes:
    """The issued certificate holds our key and the CA signed it."""
    try:
        verify_issued_by(certificate, ca_certificate)
    except Malformed as error:
        raise SimulationError("PKIOperation", f"the issued certificate: {error}") from error
    issued, ours = load_certificate(certificate).public_key(), private_key.public_key()
    if issued.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != ours.public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    ):
        raise SimulationError("PKIOperation", "the issued certificate holds another key")
    return certificate
