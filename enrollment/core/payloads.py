"""What devices are given to enrol, in Apple's keys: root certificate, SCEP, MDM, and the top level.

Pure builders: certificates as DER, names and addresses in, dictionaries and an XML property list out.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from commands.core import plist
from pki.core.names import NAME_OIDS, Name

Payload = dict[str, Any]

SERVER_CAPABILITIES = ("com.apple.mdm.per-user-connections", "com.apple.mdm.bootstraptoken")
SIGN_AND_ENCRYPT = 5
RSA_BITS = 2048
IDENTIFIER = "org.bramley.enrollment"

# The bits of AccessRights, and which need another one (schema: com.apple.mdm).
RIGHTS = tuple(1 << bit for bit in range(13))
NEEDS = {2: 1, 128: 64}
ALL_RIGHTS = sum(RIGHTS)

# Attribute names that the SCEP payload takes as they are; others go by their number.
SCEP_SUBJECT_NAMES = frozenset({"C", "L", "ST", "O", "OU", "CN"})

# XML 1.0 has no place for these, and plistlib refuses some of them.
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Texts:
    """What a person reads on the device before and after installing."""

    display_name: str
    organization: str
    description: str


@dataclass(frozen=True)
class Addresses:
    """Where the device goes, as absolute URLs."""

    scep: str
    server: str
    check_in: str


@dataclass(frozen=True)
class Identity:
    """How the device gets its certificate: subject asked for and the one-time challenge."""

    name: str
    subject: Name
    challenge: str


@dataclass(frozen=True)
class Management:
    """What the MDM payload allows.

    ``pinned``: certificates (DER, among those of the profile) that the server's TLS has to end in; none: any
    that the device believes. ``pinned_unrevoked``: there, only with proof that none of them was revoked.
    """

    topic: str
    access_rights: int
    check_out_when_removed: bool
    pinned: tuple[bytes, ...] = ()
    pinned_unrevoked: bool = False


def clean(text: str) -> str:
    """``text`` without what a property list cannot hold, with line ends as LF."""
    return _NOT_IN_XML.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def management_profile(
    *,
    profile_uuid: uuid.UUID,
    session_uuid: uuid.UUID,
    texts: Texts,
    chain: Sequence[bytes],
    identity: Identity,
    addresses: Addresses,
    management: Management,
    also_trusted: Sequence[Sequence[bytes]] = (),
    identity_part: str = "scep",
) -> Payload:
    """The profile that brings a device under management: root, SCEP and MDM payloads.

    ``chain`` is DER: the issuing CA first, its root last (one certificate where the CA is a root).
    ``profile_uuid`` stays the same for an enrolment profile, so that a later download replaces an earlier
    one; ``session_uuid`` makes every payload of one download its own.

    To renew the identity of a device it is made again for the same session, with another ``identity_part``:
    then all is the same but the SCEP payload. ``also_trusted``: further chains, of which the device keeps the
    certificates.
    """
    base = f"{IDENTIFIER}.{profile_uuid}"
    scep_uuid = payload_uuid(session_uuid, identity_part)
    content = [
        certificate_payload(
            der,
            is_root=position == len(chain) - 1,
            identifier=f"{base}.ca.{len(chain) - position}",
            payload_uuid=payload_uuid(session_uuid, f"ca {position}"),
            organization=texts.organization,
        )
        for position, der in reversed(list(enumerate(chain)))
    ]
    content += [
        certificate_payload(
            der,
            is_root=is_root,
            identifier=f"{base}.ca.{fingerprint}",
            payload_uuid=payload_uuid(session_uuid, f"ca {fingerprint}"),
            organization=texts.organization,
        )
        for fingerprint, (der, is_root) in _others(also_trusted, chain).items()
    ]
    content.append(
        scep_payload(
            identity,
            url=addresses.scep,
            ca_certificate=chain[0],
            identifier=f"{base}.scep",
            payload_uuid=scep_uuid,
            organization=texts.organization,
        )
    )
    by_certificate = {payload["PayloadContent"]: payload["PayloadUUID"] for payload in content[:-1]}
    content.append(
        mdm_payload(
            management,
            addresses=addresses,
            identity_uuid=scep_uuid,
            pinned_uuids=[by_certificate[der] for der in management.pinned],
            identifier=f"{base}.mdm",
            payload_uuid=payload_uuid(session_uuid, "mdm"),
            organization=texts.organization,
        )
    )
    return configuration(
        content,
        texts=texts,
        identifier=base,
        payload_uuid=payload_uuid(session_uuid, "configuration"),
    )


def _others(chains: Sequence[Sequence[bytes]], chain: Sequence[bytes]) -> dict[str, tuple[bytes, bool]]:
    """Certificates that are not in ``chain``, each once, roots first: by fingerprint, and whether a root."""
    found = {
        hashlib.sha256(der).hexdigest(): (der, position == 0)
        for other in chains
        for position, der in enumerate(reversed(other))
        if der not in chain
    }
    return dict(sorted(found.items(), key=lambda entry: not entry[1][1]))


def trust_profile(
    *, identifier: str, profile_uuid: uuid.UUID, texts: Texts, chain: Sequence[bytes]
) -> Payload:
    """A profile that only makes a device trust a CA: the certificates of ``chain``, the issuing CA first.

    ``profile_uuid`` is what its payloads' UUIDs come from: the same CA, the same profile.
    """
    content = [
        certificate_payload(
            der,
            is_root=position == 0,
            identifier=f"{identifier}.ca.{position + 1}",
            payload_uuid=payload_uuid(profile_uuid, f"ca {position + 1}"),
            organization=texts.organization,
        )
        for position, der in enumerate(reversed(chain))
    ]
    return configuration(
        content, texts=texts, identifier=identifier, payload_uuid=payload_uuid(profile_uuid, "trust")
    )


def profile_service(
    *,
    profile_uuid: uuid.UUID,
    session_uuid: uuid.UUID,
    texts: Texts,
    address: str,
    attributes: Sequence[str],
    challenge: str,
) -> Payload:
    """Phase 1 over the air: where to say which device this is, and with which challenge.

    No Configuration but a bare payload of type "Profile Service". ``attributes``: what the device is asked to
    say of itself.
    """
    top = _head(
        "Profile Service",
        f"{IDENTIFIER}.{profile_uuid}.ota",
        payload_uuid(session_uuid, "profile service"),
        texts.display_name,
        texts.organization,
    )
    if texts.description:
        top["PayloadDescription"] = clean(texts.description)
    top["PayloadContent"] = {
        "URL": address,
        "DeviceAttributes": list(attributes),
        "Challenge": challenge,
    }
    return top


def ota_identity_profile(
    *,
    profile_uuid: uuid.UUID,
    session_uuid: uuid.UUID,
    texts: Texts,
    identity: Identity,
    scep: str,
    ca_certificate: bytes,
) -> Payload:
    """The answer to phase 2: one SCEP payload, for the identity that signs phase 3 and decrypts its answer.

    ``scep``: where. ``ca_certificate``: DER of the issuing CA.
    """
    base = f"{IDENTIFIER}.{profile_uuid}.ota"
    payload = scep_payload(
        identity,
        url=scep,
        ca_certificate=ca_certificate,
        identifier=f"{base}.scep",
        payload_uuid=payload_uuid(session_uuid, "ota scep"),
        organization=texts.organization,
    )
    return configuration(
        [payload],
        texts=texts,
        identifier=f"{base}.identity",
        payload_uuid=payload_uuid(session_uuid, "ota configuration"),
    )


def payload_uuid(session: uuid.UUID, part: str) -> str:
    """A PayloadUUID: the same for the same part of the same session, unlike any other."""
    return str(uuid.uuid5(session, part)).upper()


def certificate_payload(
    der: bytes, *, is_root: bool, identifier: str, payload_uuid: str, organization: str
) -> Payload:
    """A trust anchor (``com.apple.security.root``) or a CA below one (``com.apple.security.pkcs1``)."""
    return {
        **_head(
            "com.apple.security.root" if is_root else "com.apple.security.pkcs1",
            identifier,
            payload_uuid,
            "Certificate authority" if is_root else "Intermediate certificate authority",
            organization,
        ),
        "PayloadDescription": "Lets the device trust this management server.",
        "PayloadCertificateFileName": "root.cer" if is_root else "intermediate.cer",
        "PayloadContent": der,
    }


def scep_payload(
    identity: Identity,
    *,
    url: str,
    ca_certificate: bytes,
    identifier: str,
    payload_uuid: str,
    organization: str,
) -> Payload:
    """``com.apple.security.scep``: a 2048 bit RSA key made on the device, for signing and decrypting.

    CAFingerprint is the SHA-256 of the issuing CA's certificate: its length tells the device which digest it
    is, and it makes the answer to GetCACert worth believing over plain HTTP.
    """
    return {
        **_head("com.apple.security.scep", identifier, payload_uuid, "Device identity", organization),
        "PayloadDescription": "Gets a certificate that proves which device this is.",
        "PayloadContent": {
            "URL": url,
            "Name": clean(identity.name),
            "Subject": [[[_scep_attribute(kind), clean(value)]] for kind, value in identity.subject],
            "Challenge": identity.challenge,
            "Keysize": RSA_BITS,
            "Key Type": "RSA",
            "Key Usage": SIGN_AND_ENCRYPT,
            "CAFingerprint": hashlib.sha256(ca_certificate).digest(),
            "Retries": 3,
            "RetryDelay": 10,
            "KeyIsExtractable": False,
            "AllowAllAppsAccess": False,
        },
    }


def mdm_payload(
    management: Management,
    *,
    addresses: Addresses,
    identity_uuid: str,
    identifier: str,
    payload_uuid: str,
    organization: str,
    pinned_uuids: Sequence[str] = (),
) -> Payload:
    """``com.apple.mdm``: every message is signed with the identity of the payload ``identity_uuid``.

    ``pinned_uuids``: the certificate payloads by which alone the server's TLS is judged.
    """
    payload = {
        **_head("com.apple.mdm", identifier, payload_uuid, "Device management", organization),
        "PayloadDescription": "Lets the organisation manage this device.",
        "IdentityCertificateUUID": identity_uuid,
        "Topic": clean(management.topic),
        "ServerURL": addresses.server,
        "CheckInURL": addresses.check_in,
        "SignMessage": True,
        "AccessRights": management.access_rights,
        "CheckOutWhenRemoved": management.check_out_when_removed,
        "ServerCapabilities": list(SERVER_CAPABILITIES),
    }
    if pinned_uuids:
        payload["ServerURLPinningCertificateUUIDs"] = list(pinned_uuids)
        payload["CheckInURLPinningCertificateUUIDs"] = list(pinned_uuids)
        if management.pinned_unrevoked:
            payload["PinningRevocationCheckRequired"] = True
    return payload


def configuration(content: Sequence[Payload], *, texts: Texts, identifier: str, payload_uuid: str) -> Payload:
    """The top level. System scope: on a Mac, management belongs to the machine, not to a user."""
    top = {
        **_head("Configuration", identifier, payload_uuid, texts.display_name, texts.organization),
        "PayloadScope": "System",
        "PayloadContent": list(content),
    }
    if texts.description:
        top["PayloadDescription"] = clean(texts.description)
    return top


def encode(profile: Payload) -> bytes:
    """The XML property list of a profile, keys in the order given."""
    return plist.write(profile)


class RightsRefused(ValueError):
    """Rights that a device does not take: none, unknown ones, or ``right`` without what it ``needs``."""

    def __init__(self, right: int = 0, needs: int = 0) -> None:
        super().__init__(f"right {right} needs right {needs}" if right else "no right, or one that is none")
        self.right = right
        self.needs = needs


def verify_access_rights(rights: int) -> int:
    """``rights``, where a device takes them (AccessRights). Raises :class:`RightsRefused`."""
    if not 0 < rights <= ALL_RIGHTS:
        raise RightsRefused
    for right, needs in NEEDS.items():
        if rights & right and not rights & needs:
            raise RightsRefused(right, needs)
    return rights


def _head(payload_type: str, identifier: str, payload_uuid: str, name: str, organization: str) -> Payload:
    head: Payload = {
        "PayloadType": payload_type,
        "PayloadVersion": 1,
        "PayloadIdentifier": identifier,
        "PayloadUUID": payload_uuid,
        "PayloadDisplayName": clean(name),
    }
    if organization:
        head["PayloadOrganization"] = clean(organization)
    return head


def _scep_attribute(kind: str) -> str:
    return kind if kind in SCEP_SUBJECT_NAMES else NAME_OIDS[kind].dotted_string
