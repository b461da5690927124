"""Enrolling over the air, as a device does it: fetch the service, make itself known, fetch the profile.

Also what a device should not do, for trying out what the server makes of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from commands.core import plist
from pki.core import cms
from scep.core.message import Identity
from simulator.device import PROFILE_TYPE, SimulatedDevice
from simulator.device_ca import Manufactured
from simulator.enrolment_profile import (
    MAX_PROFILE,
    ScepFacts,
    open_profile,
    read_identity_profile,
)
from simulator.exchange import Conversation, Request, Response, SimulationError, expect_ok
from simulator.gate import Gate, pass_gate
from simulator.identity import obtain_certificate

MESSAGE_TYPE = "application/pkcs7-signature"
USER_AGENT = "Profile/1.0"
BROWSER = "Mozilla/5.0 Safari/605.1.15"
FIRST, SECOND, THIRD = "over the air, phase 1", "over the air, phase 2", "over the air, phase 3"


class Misbehaviour(StrEnum):
    """What a device does beside the right thing; in the end it enrols all the same.

    ``interrupt``: goes away after phase 2 and begins anew. ``repeat``: sends every message twice, and phase 2
    once more when it is too late. ``swap``: takes the wrong identity for each phase first.
    """

    NONE = "none"
    INTERRUPT = "interrupt"
    REPEAT = "repeat"
    SWAP = "swap"


@dataclass(frozen=True)
class Service:
    """What phase 1 says: where to go, what to tell, and with which challenge. ``signer`` signed it."""

    url: str
    attributes: tuple[str, ...]
    challenge: str
    signer: bytes


def enrol_over_the_air(
    device: SimulatedDevice,
    manufactured: Manufactured,
    address: str,
    *,
    private_key: RSAPrivateKey,
    misbehaviour: Misbehaviour = Misbehaviour.NONE,
    gate: Gate | None = None,
) -> Conversation[None]:
    """All three phases, then the management profile is installed.

    ``private_key`` is made for the enrolment: it signs phase 3 and decrypts its answer. ``gate``: what the
    person shows first, each time anew.
    """
    service = yield from _begin(address, gate)
    if misbehaviour is Misbehaviour.INTERRUPT:
        yield from identify(device, manufactured, service)
        service = yield from _begin(address, gate)
    if misbehaviour is Misbehaviour.SWAP:
        # Phase 3's message before there is an identity for it.
        yield from expect_refused(service, message(device, manufactured, service, challenge=False))
    second = message(device, manufactured, service)
    scep, signer = yield from _identity_profile(service, second)
    if misbehaviour is Misbehaviour.REPEAT:
        again, _signer = yield from _identity_profile(service, second)
        _verify_same(SECOND, scep, again)
    certificate = yield from obtain_certificate(
        scep, private_key=private_key, signer=None, now=device.clock()
    )
    identity = Identity(certificate, private_key)
    if misbehaviour is Misbehaviour.REPEAT:
        yield from expect_refused(service, second)
    if misbehaviour is Misbehaviour.SWAP:
        yield from expect_refused(service, message(device, manufactured, service, challenge=False))
    third = message(device, identity, service, challenge=False)
    profile = yield from fetch_profile(service, third)
    if misbehaviour is Misbehaviour.REPEAT:
        _verify_same(THIRD, profile, (yield from fetch_profile(service, third)))
    yield from device.install(profile, identity=identity, signers=(service.signer, signer))


def _begin(address: str, gate: Gate | None) -> Conversation[Service]:
    if gate is not None:
        address = yield from pass_gate(address, gate)
    return (yield from fetch_service(address))


def fetch_service(address: str) -> Conversation[Service]:
    """Phase 1: download and read the "Profile Service"."""
    data = _profile(FIRST, (yield Request("GET", address, headers={"User-Agent": BROWSER})))
    plain, signer = open_profile(data)
    if signer is None:
        raise SimulationError(FIRST, "the profile is not signed")
    try:
        content = plist.read(plain, max_size=MAX_PROFILE)
        inner = content["PayloadContent"]
        if content["PayloadType"] != "Profile Service":
            raise SimulationError(FIRST, f"PayloadType is {content['PayloadType']!r}")
        return Service(inner["URL"], tuple(inner["DeviceAttributes"]), inner.get("Challenge", ""), signer)
    except (plist.PlistError, KeyError, TypeError) as problem:
        raise SimulationError(FIRST, f"the profile is malformed: {problem}") from problem


def identify(
    device: SimulatedDevice, manufactured: Manufactured, service: Service
) -> Conversation[ScepFacts]:
    """Phase 2: how to get the certificate for the rest of the enrolment."""
    scep, _signer = yield from _identity_profile(service, message(device, manufactured, service))
    return scep


def fetch_profile(service: Service, body: bytes) -> Conversation[bytes]:
    """Phase 3: the management profile as it came, signed and its payloads encrypted."""
    return _profile(THIRD, (yield post(service, body)))


def message(
    device: SimulatedDevice,
    signer: Manufactured | Identity,
    service: Service,
    *,
    challenge: bool = True,
    changes: Mapping[str, Any] | None = None,
) -> bytes:
    """What the device says of itself, signed. ``changes``: other values than the true ones."""
    hardware = device.hardware
    known = {
        "UDID": hardware.udid,
        "SERIAL": hardware.serial_number,
        "PRODUCT": hardware.product_name,
        "VERSION": hardware.build_version,
        "IMEI": hardware.imei,
        "MEID": hardware.meid,
        "DEVICE_NAME": hardware.name,
    }
    said: dict[str, Any] = {name: known[name] for name in service.attributes if known.get(name)}
    if challenge:
        said["CHALLENGE"] = service.challenge
    if hardware.is_mac:
        said["NotOnConsole"] = False
    with_attributes = device.behaviour.signed_attributes
    return cms.sign(
        plist.write({**said, **(changes or {})}),
        certificate=signer.certificate,
        private_key=signer.private_key,
        attributes=() if with_attributes else None,
        signing_time=device.clock() if with_attributes else None,
    )


def post(service: Service, body: bytes) -> Request:
    """A message on its way to the server."""
    return Request("POST", service.url, body, {"Content-Type": MESSAGE_TYPE, "User-Agent": USER_AGENT})


def expect_refused(service: Service, body: bytes) -> Conversation[None]:
    """The server refuses this message, and not as if it wanted a password."""
    response = yield post(service, body)
    if response.status not in (400, 403):
        raise SimulationError("over the air", f"HTTP {response.status} where a refusal was right")


def _identity_profile(service: Service, body: bytes) -> Conversation[tuple[ScepFacts, bytes]]:
    return read_identity_profile(_profile(SECOND, (yield post(service, body))))


def _profile(step: str, response: Response) -> bytes:
    data = expect_ok(step, response)
    kind = response.headers.get("content-type")
    if kind != PROFILE_TYPE:
        raise SimulationError(step, f"Content-Type {kind!r}")
    return data


def _verify_same(step: str, one: object, other: object) -> None:
    if one != other:
        raise SimulationError(step, "the same message was answered in another way")
