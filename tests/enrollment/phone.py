"""A device that enrols over the air step by step, so that a test can do any of them in another way.

It speaks to the project in this process, through the door for devices, as the simulator does over HTTP.
"""

from __future__ import annotations

import plistlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from django.db import connection
from django.utils import timezone

from audit.models import Refusal
from audit.recording import SERVER
from commands.core import plist
from enrollment import device_authorities
from enrollment.models import EnrollmentSession
from pki.core import cms
from pki.core.certificates import encode_pem
from scep.core.message import Identity
from simulator import over_the_air
from simulator.device import Behaviour, SimulatedDevice
from simulator.device_ca import Manufactured
from simulator.enrolment_profile import ScepFacts, read_identity_profile
from simulator.exchange import Response, converse
from simulator.hardware import Hardware, make_hardware
from simulator.identity import obtain_certificate
from simulator.over_the_air import Service
from tests.enrollment.device_cas import Authority, authority, rsa_key
from tests.simulator.in_process import InProcess
from tests.support.snapshot import no_change

ADDRESS = "http://127.0.0.1:8000/enroll/default/ota"
CANARY = "CANARY-7b3e"


def trust(ca: Authority) -> None:
    """Let a CA's certificates count as those of devices."""
    device_authorities.trust(encode_pem(ca.certificate).encode(), actor=SERVER, now=timezone.now())


@dataclass
class Phone:
    """What a device holds: the identity it was made with, and the key that it makes for the enrolment."""

    hardware: Hardware
    manufactured: Manufactured
    enrolment_key: RSAPrivateKey
    behaviour: Behaviour = field(default_factory=Behaviour)
    address: str = ADDRESS
    project: InProcess = field(default_factory=InProcess)

    @property
    def device(self) -> SimulatedDevice:
        return SimulatedDevice(self.hardware, rsa_key("identity"), behaviour=self.behaviour)

    # Step by step

    def fetch_service(self) -> Service:
        """Phase 1."""
        return converse(over_the_air.fetch_service(self.address), self.project.send)

    def say(
        self,
        service: Service,
        signer: Manufactured | Identity | None = None,
        *,
        challenge: bool = True,
        **changes: Any,
    ) -> bytes:
        """A message: with the identity that it was made with, if no other signs."""
        return over_the_air.message(
            self.device, signer or self.manufactured, service, challenge=challenge, changes=changes
        )

    def post(self, body: bytes, address: str = "") -> Response:
        service = Service(address or self.address, (), "", b"")
        return self.project.send(over_the_air.post(service, body))

    def identify(self, service: Service) -> ScepFacts:
        """Phase 2."""
        answer = self.post(self.say(service))
        assert answer.status == 200, answer
        return read_identity_profile(answer.body)[0]

    def certify(self, scep: ScepFacts) -> Identity:
        """The certificate that phase 3 is signed with."""
        conversation = obtain_certificate(
            scep, private_key=self.enrolment_key, signer=None, now=timezone.now()
        )
        return Identity(converse(conversation, self.project.send), self.enrolment_key)

    def come_so_far(self) -> tuple[Service, Identity]:
        """Phases 1 and 2, with the certificate: phase 3 is next."""
        service = self.fetch_service()
        return service, self.certify(self.identify(service))

    def enrol(self) -> SimulatedDevice:
        """All of it, up to the first TokenUpdate."""
        device = self.device
        converse(
            over_the_air.enrol_over_the_air(
                device, self.manufactured, self.address, private_key=self.enrolment_key
            ),
            self.project.send,
        )
        return device

    def session(self) -> EnrollmentSession:
        """The newest session."""
        return EnrollmentSession.objects.latest("id")


def make_phone(letter: str = "A", *, ca: Authority | None = None, **changes: Any) -> Phone:
    """A phone; another letter is another one, with other keys."""
    phone = Phone(
        hardware=make_hardware("over the air", ord(letter)),
        manufactured=(ca or authority()).manufacture(
            rsa_key(f"manufactured {letter}"), subject=f"DEVICE-{letter}", serial_number=ord(letter)
        ),
        enrolment_key=rsa_key(f"enrolment {letter}"),
    )
    return replace(phone, **changes)


def signed(content: bytes | dict[str, Any], signer: Manufactured | Identity, **how: Any) -> bytes:
    """Any content, signed."""
    data = content if isinstance(content, bytes) else plist.write(content)
    how.setdefault("attributes", None)
    return cms.sign(data, certificate=signer.certificate, private_key=signer.private_key, **how)


def opened(answer: Response) -> dict[str, Any]:
    """The property list in a signed answer."""
    assert answer.status == 200, answer
    value: dict[str, Any] = plistlib.loads(cms.verify_signed_data(answer.body).content)
    return value


def assert_refused(
    call: Callable[[], Response],
    status: int,
    reason: str,
    *,
    session: EnrollmentSession | None = None,
    detail: str = "",
) -> None:
    """Refused in plain words that say nothing, nothing changed, the administrator told why and of whom."""
    counted = sum(Refusal.objects.values_list("count", flat=True))
    with no_change():
        answer = call()
    assert answer.status == status, (answer, list(Refusal.objects.values_list("reason", "detail")))
    assert answer.headers["content-type"] == "text/plain"
    assert answer.body in {b"bad request\n", b"not allowed\n", b"too large\n"}
    assert "www-authenticate" not in answer.headers
    assert sum(Refusal.objects.values_list("count", flat=True)) == counted + 1
    last = Refusal.objects.order_by("-last_at", "-pk").filter(surface="enroll", reason=reason).first()
    assert last is not None, list(Refusal.objects.values_list("reason", "detail"))
    assert detail in last.detail
    assert CANARY not in repr(list(Refusal.objects.values()))
    if session is None:
        assert last.target_kind == "enrollment.enrollmentprofile"
        return
    assert (last.target_kind, last.target_id) == ("enrollment.enrollmentsession", str(session.pk))
    session.refresh_from_db()
    assert session.refusal_reason.startswith(reason)
    assert session.refused_at is not None


@contextmanager
def queries(at_most: int) -> Iterator[None]:
    """No more than so many queries."""
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as captured:
        yield
    assert len(captured) <= at_most, [query["sql"] for query in captured]


def payload_types(content: dict[str, Any]) -> Sequence[str]:
    return [payload["PayloadType"] for payload in content["PayloadContent"]]
