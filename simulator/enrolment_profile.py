"""What a device reads from an enrolment profile before it does anything."""

from __future__ import annotations

import hashlib
import plistlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from commands.core import plist
from pki.core import cms
from pki.core.path import verify_issued_by
from pki.core.scan import Malformed
from pki.core.server_trust import Anchor, Known, Roots, find_way
from pki.public_roots import public_roots
from scep.core.message import Identity
from simulator.exchange import SimulationError

STEP = "enrolment profile"
MAX_PROFILE = 1024 * 1024


@dataclass(frozen=True)
class ScepFacts:
    """How to get the identity."""

    url: str
    name: str
    subject: tuple[tuple[str, str], ...]
    challenge: str
    key_size: int
    ca_fingerprint: bytes


@dataclass(frozen=True)
class MdmFacts:
    """Whom to report to.

    ``server_pinned``, ``check_in_pinned``: the certificates (DER) by which alone the server's TLS is judged
    at that address; none: by all that is trusted.
    """

    topic: str
    server_url: str
    check_in_url: str
    sign_message: bool
    check_out_when_removed: bool
    server_pinned: tuple[bytes, ...] = ()
    check_in_pinned: tuple[bytes, ...] = ()

    def pinned_at(self, url: str) -> tuple[bytes, ...]:
        """What alone is believed at this address, if the profile says so."""
        pinned = {self.check_in_url: self.check_in_pinned, self.server_url: self.server_pinned}
        return tuple(pinned.get(url, ()))


@dataclass(frozen=True)
class EnrolmentProfile:
    """A Configuration that was read and, where it is signed, verified."""

    identifier: str
    uuid: str
    content: Mapping[str, Any]
    signed: bool
    anchors: tuple[bytes, ...]
    scep: ScepFacts
    mdm: MdmFacts


def read_enrolment_profile(
    data: bytes, *, identity: Identity | None = None, signers: Sequence[bytes] = ()
) -> EnrolmentProfile:
    """Read a ``.mobileconfig``. Raises :class:`SimulationError` for what a device would not install.

    ``identity``: to whom its payloads may be encrypted. ``signers``: who signed what led here; they must be
    as trustworthy as the one who signed this.
    """
    plain, signer = open_profile(data)
    try:
        content = _decrypted(plist.read(plain, max_size=MAX_PROFILE), identity)
    except plist.PlistError as error:
        raise SimulationError(STEP, f"not a property list: {error}") from error
    if content.get("PayloadType") != "Configuration":
        raise SimulationError(STEP, f"top level is {content.get('PayloadType')!r}, not Configuration")
    anchors = tuple(_certificates(content).values())
    for one in (signer, *signers):
        if one is not None:
            _verify_signer(one, anchors, cms.certificates_of(data))
    scep_payload, mdm_payload = _one(content, "com.apple.security.scep"), _one(content, "com.apple.mdm")
    if mdm_payload.get("IdentityCertificateUUID") != scep_payload.get("PayloadUUID"):
        raise SimulationError(STEP, "IdentityCertificateUUID names no payload of the profile")
    try:
        return EnrolmentProfile(
            identifier=content["PayloadIdentifier"],
            uuid=content["PayloadUUID"],
            content=content,
            signed=signer is not None,
            anchors=anchors,
            scep=_scep_facts(scep_payload["PayloadContent"]),
            mdm=_mdm_facts(mdm_payload, content),
        )
    except KeyError as missing:
        raise SimulationError(STEP, f"{missing} is missing") from missing


def read_identity_profile(data: bytes) -> tuple[ScepFacts, bytes]:
    """The answer to phase 2 over the air: its one SCEP payload, and who signed it."""
    plain, signer = open_profile(data)
    if signer is None:
        raise SimulationError(STEP, "the profile is not signed")
    try:
        content = plist.read(plain, max_size=MAX_PROFILE)
        if [payload["PayloadType"] for payload in content["PayloadContent"]] != ["com.apple.security.scep"]:
            raise SimulationError(STEP, "one SCEP payload was expected, and nothing else")
        return _scep_facts(_one(content, "com.apple.security.scep")["PayloadContent"]), signer
    except (plist.PlistError, KeyError, TypeError) as problem:
        raise SimulationError(STEP, f"the profile is malformed: {problem}") from problem


def _decrypted(content: dict[str, Any], identity: Identity | None) -> dict[str, Any]:
    """The profile with its payloads readable, where they were not."""
    if not content.get("IsEncrypted"):
        return content
    if identity is None:
        raise SimulationError(STEP, "its payloads are encrypted to somebody else")
    if "PayloadContent" in content:
        raise SimulationError(STEP, "encrypted, and yet with PayloadContent")
    try:
        opened = cms.decrypt(
            content["EncryptedPayloadContent"],
            recipient=identity.certificate,
            private_key=identity.private_key,
            random=secrets.token_bytes,
        )
        inner = plistlib.loads(opened.content)
    except (KeyError, Malformed, plistlib.InvalidFileException, ValueError) as problem:
        raise SimulationError(STEP, f"its payloads cannot be decrypted: {problem}") from problem
    return {**content, "PayloadContent": inner}


def open_profile(data: bytes) -> tuple[bytes, bytes | None]:
    """The property list of a profile and, where it is signed, the certificate whose signature is right."""
    if data.lstrip()[:1] == b"<":
        return data, None
    try:
        signed = cms.verify_signed_data(data)
    except Malformed as error:
        raise SimulationError(STEP, f"signature: {error}") from error
    return signed.content, signed.signer


def payloads(content: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    """The payloads of one type."""
    inner = content.get("PayloadContent")
    return (
        [payload for payload in inner if payload.get("PayloadType") == kind]
        if isinstance(inner, list)
        else []
    )


def _one(content: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    found = payloads(content, kind)
    if len(found) != 1:
        raise SimulationError(STEP, f"{len(found)} payloads of type {kind}, not one")
    return found[0]


def _verify_signer(signer: bytes, anchors: tuple[bytes, ...], along: Sequence[bytes]) -> None:
    """A device shows "Verified" only where the signer leads to a root that it trusts.

    Ours is in the profile; a public one it has, and what stands between comes ``along``.
    """
    for anchor in anchors:
        try:
            verify_issued_by(signer, anchor)
        except Malformed:
            continue
        return
    known = Known(public_roots(), Roots(anchors), Roots([]))
    found, _way = find_way((signer, *along), known, datetime.now(UTC))
    if found not in {Anchor.PUBLIC, Anchor.IN_PROFILE}:
        raise SimulationError(STEP, "signed by a certificate that no certificate of the profile issued")


def _scep_facts(content: Mapping[str, Any]) -> ScepFacts:
    return ScepFacts(
        url=content["URL"],
        name=content.get("Name", ""),
        subject=tuple((pair[0][0], pair[0][1]) for pair in content.get("Subject", [])),
        challenge=content.get("Challenge", ""),
        key_size=content.get("Keysize", 1024),
        ca_fingerprint=content.get("CAFingerprint", b""),
    )


def _certificates(content: Mapping[str, Any]) -> dict[str, bytes]:
    """The certificates of a profile by their PayloadUUID."""
    kinds = ("com.apple.security.root", "com.apple.security.pkcs1", "com.apple.security.pem")
    try:
        return {
            payload["PayloadUUID"]: payload["PayloadContent"]
            for kind in kinds
            for payload in payloads(content, kind)
        }
    except KeyError as missing:
        raise SimulationError(STEP, f"a certificate without {missing}") from missing


def _pinned(payload: Mapping[str, Any], key: str, certificates: Mapping[str, bytes]) -> tuple[bytes, ...]:
    named = payload.get(key, [])
    if unknown := [one for one in named if one not in certificates]:
        raise SimulationError(STEP, f"{key} names no certificate of the profile: {unknown[0]}")
    return tuple(certificates[one] for one in named)


def _mdm_facts(payload: Mapping[str, Any], content: Mapping[str, Any]) -> MdmFacts:
    certificates = _certificates(content)
    return MdmFacts(
        topic=payload["Topic"],
        server_url=payload["ServerURL"],
        check_in_url=payload.get("CheckInURL") or payload["ServerURL"],
        sign_message=payload.get("SignMessage", False),
        check_out_when_removed=payload.get("CheckOutWhenRemoved", False),
        server_pinned=_pinned(payload, "ServerURLPinningCertificateUUIDs", certificates),
        check_in_pinned=_pinned(payload, "CheckInURLPinningCertificateUUIDs", certificates),
    )


def verify_fingerprint(fingerprint: bytes, ca_certificate: bytes) -> None:
    """CAFingerprint against the answer to GetCACert: its length selects the digest, as on a device."""
    names = {16: "md5", 20: "sha1", 28: "sha224", 32: "sha256", 48: "sha384", 64: "sha512"}
    if not fingerprint:
        return
    name = names.get(len(fingerprint))
    if name is None or hashlib.new(name, ca_certificate, usedforsecurity=False).digest() != fingerprint:
        raise SimulationError("GetCACert", "the certificate is not the one of CAFingerprint")
