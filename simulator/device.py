"""One simulated device: enrols, checks in, connects, answers. All of it as conversations, no socket."""

from __future__ import annotations

import base64
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from commands.core import plist
from pki.core import cms
from scep.core.message import Identity
from simulator.answers import Answer, Contents, Effect, answer, error, may_be_not_now, profile_entry
from simulator.device_ca import Manufactured
from simulator.enrolment_profile import EnrolmentProfile, MdmFacts, read_enrolment_profile
from simulator.exchange import Conversation, Request, SimulationError, expect_ok
from simulator.gate import Gate, pass_gate
from simulator.hardware import Hardware, dice
from simulator.identity import obtain_certificate

CHECK_IN_TYPE = "application/x-apple-aspen-mdm-checkin"
CONNECT_TYPE = "application/x-apple-aspen-mdm; charset=UTF-8"
PROFILE_TYPE = "application/x-apple-aspen-config"
USER_AGENT = "MDM/1.0"
MAX_COMMAND = 8 * 1024 * 1024
MAX_COMMANDS_A_CONNECT = 1000
MAX_REMEMBERED = 2000


@dataclass(frozen=True)
class Behaviour:
    """How it behaves: chances from 0 to 1, and whether signatures carry signed attributes.

    ``mutual_tls``: it shows its identity in TLS at the MDM addresses. ``signs``: it signs messages where the
    profile asks for that.
    """

    not_now: float = 0.0
    errors: float = 0.0
    signed_attributes: bool = False
    mutual_tls: bool = False
    signs: bool = True


@dataclass
class Enrolled:
    """What an enrolled device holds on to."""

    mdm: MdmFacts
    certificate: bytes
    token: bytes
    push_magic: str
    unlock_token: bytes


@dataclass
class Tally:
    """What it did. ``twice``: commands that came again after their final answer."""

    connects: int = 0
    commands: int = 0
    request_types: Counter[str] = field(default_factory=Counter)
    twice: list[str] = field(default_factory=list)


def utc_now() -> datetime:
    """The clock of a device, where a test gives it none."""
    return datetime.now(UTC)


class SimulatedDevice:
    """A device with its key. ``enrolled`` is None before enrolment, after CheckOut and after an erase."""

    def __init__(
        self,
        hardware: Hardware,
        private_key: RSAPrivateKey,
        *,
        behaviour: Behaviour = Behaviour(),
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.hardware = hardware
        self.private_key = private_key
        self.behaviour = behaviour
        self.clock = clock
        self.contents = Contents(name=hardware.name)
        self.manufactured: Manufactured | None = None
        self.enrolled: Enrolled | None = None
        self.anchors: tuple[bytes, ...] = ()
        self.tally = Tally()
        self.answered: dict[str, None] = {}
        self.unsent: Mapping[str, Any] | None = None
        self.chance = dice(f"{hardware.udid}/behaviour")

    # Enrolment

    def enrol(self, profile_url: str, gate: Gate | None = None) -> Conversation[None]:
        """Download the profile, get the identity, Authenticate and TokenUpdate.

        ``gate``: what the person shows before the download.
        """
        if gate is not None:
            profile_url = yield from pass_gate(profile_url, gate)
        response = yield Request("GET", profile_url, headers={"User-Agent": "Mozilla/5.0 Safari/605.1.15"})
        data = expect_ok("download of the profile", response)
        if response.headers.get("content-type") != PROFILE_TYPE:
            raise SimulationError(
                "download of the profile", f"Content-Type {response.headers.get('content-type')!r}"
            )
        yield from self.install(data)

    def install(
        self, mobileconfig: bytes, *, identity: Identity | None = None, signers: Sequence[bytes] = ()
    ) -> Conversation[None]:
        """Enrol with a profile that was downloaded before, or that came over the air: then ``identity``
        decrypts it, and ``signers`` are those of the phases before."""
        profile = read_enrolment_profile(mobileconfig, identity=identity, signers=signers)
        self.anchors = profile.anchors  # payloads with certificates are installed first
        certificate = yield from self._certificate(profile)
        self._adopt(profile, certificate)
        yield from self.authenticate()
        yield from self.update_token()
        if self.hardware.is_mac:
            yield from self.check_in("SetBootstrapToken", BootstrapToken=secrets.token_bytes(32))

    def _certificate(self, profile: EnrolmentProfile) -> Conversation[bytes]:
        if profile.scep.key_size != self.private_key.key_size:
            raise SimulationError("SCEP", f"Keysize {profile.scep.key_size} asked for")
        return (
            yield from obtain_certificate(
                profile.scep, private_key=self.private_key, signer=None, now=self.clock()
            )
        )

    def _adopt(self, profile: EnrolmentProfile, certificate: bytes) -> None:
        """The profile is installed: this is the management from now on."""
        before = self.enrolled
        self.enrolled = Enrolled(
            mdm=profile.mdm,
            certificate=certificate,
            token=before.token if before else secrets.token_bytes(32),
            push_magic=before.push_magic if before else secrets.token_hex(16).upper(),
            unlock_token=before.unlock_token if before else secrets.token_bytes(64),
        )
        self.contents.management_identifier = profile.identifier
        self.contents.profiles[profile.identifier] = profile_entry(profile.content)
        self.contents.certificates = [
            *(("Certificate authority", der, False) for der in profile.anchors),
            ("Device identity", certificate, True),
        ]

    # Check-in

    def authenticate(self) -> Conversation[None]:
        """Authenticate: the start of a life under management."""
        hardware = self.hardware
        facts: dict[str, Any] = {
            "Topic": self._enrolled.mdm.topic,
            "OSVersion": hardware.os_version,
            "BuildVersion": hardware.build_version,
            "ProductName": hardware.product_name,
            "SerialNumber": hardware.serial_number,
        }
        if hardware.imei:
            facts |= {"IMEI": hardware.imei, "MEID": hardware.meid}
        if hardware.is_mac:
            facts |= {
                "DeviceName": self.contents.name,
                "Model": hardware.product_name,
                "ModelName": hardware.model_name,
            }
        yield from self.check_in("Authenticate", **facts)

    def update_token(self) -> Conversation[None]:
        """TokenUpdate with the token, the magic and, on iOS and iPadOS, the unlock token."""
        enrolled = self._enrolled
        facts: dict[str, Any] = {
            "Topic": enrolled.mdm.topic,
            "Token": enrolled.token,
            "PushMagic": enrolled.push_magic,
            "AwaitingConfiguration": False,
        }
        if self.hardware.platform in ("iOS", "iPadOS"):
            facts["UnlockToken"] = enrolled.unlock_token
        if self.hardware.is_mac:
            facts["NotOnConsole"] = False
        yield from self.check_in("TokenUpdate", **facts)

    def check_out(self) -> Conversation[None]:
        """The profile is removed: say so where the profile asks for it, and forget the enrolment."""
        if self._enrolled.mdm.check_out_when_removed:
            yield from self.check_in("CheckOut", Topic=self._enrolled.mdm.topic)
        self._forget()

    def check_in(self, message_type: str, **facts: Any) -> Conversation[bytes]:
        """Any check-in message; the body of the answer."""
        message = {"MessageType": message_type, "UDID": self.hardware.udid, **facts}
        request = self.request(self._enrolled.mdm.check_in_url, message, CHECK_IN_TYPE)
        return expect_ok(message_type, (yield request))

    # Connect

    def connect(self) -> Conversation[int]:
        """One connect: Idle, then answers until the server has nothing more. How many commands it got.

        An answer that the server did not take goes first the next time, instead of Idle.
        """
        if self.enrolled is None:
            return 0
        self.tally.connects += 1
        report = self.unsent or {"Status": "Idle", "UDID": self.hardware.udid}
        for count in range(MAX_COMMANDS_A_CONNECT):
            response = yield self.request(self._enrolled.mdm.server_url, report, CONNECT_TYPE)
            body = expect_ok("connect", response)
            self.unsent = None
            if not body:
                return count
            uuid, command = _read_command(body)
            answered = self._decide(command)
            if answered.effect is Effect.RENEWED:
                answered = yield from self._renew(answered.payload)
            self.unsent = report = self._report(uuid, command, answered)
            self._remember(uuid, command, answered)
            if answered.effect in (Effect.ERASED, Effect.MANAGEMENT_REMOVED):
                yield from self._end(report, answered.effect)
                return count + 1
        raise SimulationError("connect", f"more than {MAX_COMMANDS_A_CONNECT} commands without an end")

    def _decide(self, command: Mapping[str, Any]) -> Answer:
        """NotNow or an error by chance, else the real answer."""
        if may_be_not_now(command.get("RequestType")) and self.chance.random() < self.behaviour.not_now:
            return Answer("NotNow")
        if self.chance.random() < self.behaviour.errors:
            return error(12067, "MCMDMErrorDomain", "The simulated device was told to fail.")
        return answer(self.hardware, self.contents, command)

    def _report(self, uuid: str, command: Mapping[str, Any], answered: Answer) -> dict[str, Any]:
        report: dict[str, Any] = {
            "Status": answered.status,
            "CommandUUID": uuid,
            "UDID": self.hardware.udid,
            **answered.keys,
        }
        if self.hardware.is_mac and answered.status == "Acknowledged":
            report["RequestType"] = command.get("RequestType")
        return report

    def _remember(self, uuid: str, command: Mapping[str, Any], answered: Answer) -> None:
        self.tally.commands += 1
        self.tally.request_types[str(command.get("RequestType"))] += 1
        if answered.status == "NotNow":
            return
        if uuid in self.answered:
            self.tally.twice.append(f"{command.get('RequestType')} {uuid}")
        self.answered[uuid] = None
        if len(self.answered) > MAX_REMEMBERED:
            del self.answered[next(iter(self.answered))]

    def _renew(self, mobileconfig: bytes) -> Conversation[Answer]:
        """The management profile came again: a new identity, then a TokenUpdate with it.

        Where either is refused the device keeps what it had, as it does with a profile that fails to install.
        """
        before = self.enrolled, dict(self.contents.profiles), list(self.contents.certificates)
        anchors = self.anchors
        try:
            profile = read_enrolment_profile(mobileconfig)
            self.anchors = profile.anchors
            certificate = yield from self._certificate(profile)
            self._adopt(profile, certificate)
            yield from self.update_token()
        except SimulationError as problem:
            self.enrolled, self.contents.profiles, self.contents.certificates = before
            self.anchors = anchors
            return error(4001, "MCInstallationErrorDomain", f"Profile Failed to Install: {problem}")
        return Answer()

    def _end(self, report: Mapping[str, Any], effect: Effect) -> Conversation[None]:
        """Send the last answer; what the server still wants is not heard any more."""
        expect_ok("connect", (yield self.request(self._enrolled.mdm.server_url, report, CONNECT_TYPE)))
        self.unsent = None
        if effect is Effect.MANAGEMENT_REMOVED:
            yield from self.check_out()
        else:
            self._forget()

    def _forget(self) -> None:
        self.enrolled = None
        self.anchors = ()
        self.contents = Contents(name=self.hardware.name)

    # Signing

    def request(self, url: str, message: Mapping[str, Any], content_type: str) -> Request:
        """A PUT with the message and its ``Mdm-Signature``, where the profile asks for one."""
        body = plist.write(message)
        headers = {"Content-Type": content_type, "User-Agent": USER_AGENT}
        if self._enrolled.mdm.sign_message and self.behaviour.signs:
            headers["Mdm-Signature"] = base64.b64encode(self.sign(body)).decode("ascii")
        return Request("PUT", url, body, headers)

    def shown_to(self, url: str) -> Identity | None:
        """The identity that it shows in TLS at this address, if it does."""
        if self.enrolled is None or not self.behaviour.mutual_tls:
            return None
        if url not in (self.enrolled.mdm.server_url, self.enrolled.mdm.check_in_url):
            return None
        return Identity(self.enrolled.certificate, self.private_key)

    def pinned_at(self, url: str) -> tuple[bytes, ...]:
        """The certificates that alone count for TLS at this address; none: all that it trusts."""
        return self.enrolled.mdm.pinned_at(url) if self.enrolled else ()

    def sign(self, body: bytes) -> bytes:
        """The detached CMS signature over a body, with the identity of the enrolment."""
        with_attributes = self.behaviour.signed_attributes
        return cms.sign(
            body,
            certificate=self._enrolled.certificate,
            private_key=self.private_key,
            attributes=() if with_attributes else None,
            signing_time=self.clock() if with_attributes else None,
            detached=True,
        )

    @property
    def _enrolled(self) -> Enrolled:
        if self.enrolled is None:
            raise SimulationError("device", "is not enrolled")
        return self.enrolled


def _read_command(body: bytes) -> tuple[str, Mapping[str, Any]]:
    try:
        envelope = plist.read(body, max_size=MAX_COMMAND)
        uuid, command = envelope["CommandUUID"], envelope["Command"]
    except (plist.PlistError, KeyError) as problem:
        raise SimulationError("connect", f"the command is malformed: {problem}") from problem
    if not isinstance(uuid, str) or not isinstance(command, dict):
        raise SimulationError("connect", "the command is malformed")
    return uuid, command
