"""A fleet in the database: made straight through the models, for pages to show."""

from __future__ import annotations

import hashlib
import random
import uuid
import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from audit.models import AuditEvent, Outcome, Refusal
from commands.core import plist
from commands.models import Command, CommandDelivery, CommandResult, CommandSource, DeliveryState
from devices.models import (
    Channel,
    Device,
    DeviceGroup,
    Enrollment,
    EnrollmentState,
    EscrowedSecret,
    Identity,
    SecretKind,
)
from enrollment.models import EnrollmentProfile, EnrollmentSession, SessionState
from pki.models import Certificate, Crl, Issuer, IssuerCertificate, IssuerCertificateKind, IssuerKey, Purpose
from push.models import PushCertificate, PushCertificateState, PushRequest, PushState
from scep import services
from scep.models import Challenge, Transaction, TransactionStatus
from vault.sealed import seal

MODELS = (
    ("iPadOS", "iPad13,18", "iPad (10th generation)", ("18.6", "26.1", "26.0.1")),
    ("iOS", "iPhone15,4", "iPhone 15", ("26.1", "26.0.1", "18.7")),
    ("macOS", "Mac15,12", "MacBook Air", ("26.1", "15.7.2", "14.8")),
    ("iOS", "iPhone14,5", "iPhone 13", ("26.1", "18.7")),
    ("macOS", "Mac14,2", "MacBook Air", ("26.1", "15.7.2")),
    ("tvOS", "AppleTV14,1", "Apple TV 4K", ("26.1",)),
)
FIRST = ("Ada", "Grace", "Alan", "Edsger", "Barbara", "Donald", "Frances", "Ken", "Margaret", "Radia")
NAMES = {"iPadOS": "iPad", "iOS": "iPhone", "macOS": "MacBook", "tvOS": "Apple TV"}

_serials = count(1)


def some_certificate(now: datetime) -> bytes:
    """A real certificate, so that pages that read one can."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a device")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=700))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )


@dataclass
class Fleet:
    """What was made."""

    issuer: Issuer
    devices: list[Device] = field(default_factory=list)
    enrollments: list[Enrollment] = field(default_factory=list)
    certificates: list[Certificate] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    deliveries: list[CommandDelivery] = field(default_factory=list)


def make_issuer(now: datetime, *, slug: str = "bramley", days: int = 3650) -> Issuer:
    """An issuer with its key, certificate and CRL; the key itself is no key."""
    der = some_certificate(now)
    issuer, _new = Issuer.objects.get_or_create(
        slug=slug,
        defaults={"name": "Bramley device CA", "trusted_for": [Purpose.MDM_IDENTITY]},
    )
    if issuer.keys.exists():
        return issuer
    key = IssuerKey(issuer=issuer, algorithm="RSA-3072", public_key=b"-", key_identifier=b"-" * 20)
    key.private_key_sealed = seal(b"no key", context=f"pki.issuerkey.private_key:{key.uuid}")
    key.save()
    IssuerCertificate.objects.create(
        issuer_key=key,
        kind=IssuerCertificateKind.SELF_SIGNED,
        der=der,
        subject="CN=Bramley device CA,O=Example School",
        serial_number="3F9A1C",
        sha256=hashlib.sha256(der + slug.encode()).hexdigest(),
        not_before=now - timedelta(days=30),
        not_after=now + timedelta(days=days),
    )
    Crl.objects.create(
        issuer_key=key, number=4, this_update=now, next_update=now + timedelta(days=7), der=b"-", entries=2
    )
    return issuer


def make_push_certificate(now: datetime, *, days: int = 41, held: str = "") -> PushCertificate:
    """An active push certificate that ends in ``days``."""
    row = PushCertificate(
        state=PushCertificateState.ACTIVE,
        topic="com.apple.mgmt.External.5f0c1b1e-9d3f-4f38-9a5d-2f4f2f3f8a55",
        common_name="APSP:5f0c1b1e-9d3f-4f38-9a5d-2f4f2f3f8a55",
        serial_number="6A11C09BD2",
        not_before=now - timedelta(days=365 - days),
        not_after=now + timedelta(days=days),
        der=some_certificate(now),
        held_reason=held,
        held_at=now if held else None,
    )
    row.private_key_sealed = seal(b"no key", context=f"push.pushcertificate.private_key:{row.uuid}")
    row.save()
    return row


def make_fleet(devices: int, now: datetime | None = None, *, seed: int = 7) -> Fleet:
    """Enrolled devices with identities, some silent, some waiting, one gone; commands in every state."""
    now = now or datetime.now(UTC)
    chance = random.Random(seed)
    fleet = Fleet(make_issuer(now))
    key = fleet.issuer.keys.get()
    der = some_certificate(now)
    groups = [DeviceGroup.objects.get_or_create(name=name)[0] for name in ("Class 7b", "Staff", "Library")]
    for _number in range(devices):
        fleet.devices.append(_device(chance, now))
    Device.objects.bulk_create(fleet.devices, batch_size=500)
    through = Device.groups.through
    through.objects.bulk_create(
        [through(device=device, devicegroup=chance.choice(groups)) for device in fleet.devices],
        batch_size=500,
    )
    for device in fleet.devices:
        fleet.enrollments.append(_enrollment(device, chance, now))
        fleet.certificates.append(_certificate(device, key, der, chance, now))
    Enrollment.objects.bulk_create(fleet.enrollments, batch_size=500)
    Certificate.objects.bulk_create(fleet.certificates, batch_size=500)
    Identity.objects.bulk_create(
        [
            Identity(enrollment=enrollment, certificate=certificate, sha256=certificate.sha256, pinned_at=now)
            for enrollment, certificate in zip(fleet.enrollments, fleet.certificates, strict=True)
        ],
        batch_size=500,
    )
    PushRequest.objects.bulk_create(
        [
            PushRequest(enrollment=enrollment, state=PushState.IDLE, last_sent_at=now, last_result="accepted")
            for enrollment in fleet.enrollments
        ],
        batch_size=500,
    )
    _commands(fleet, chance, now)
    return fleet


def make_records(fleet: Fleet, now: datetime) -> None:
    """Sessions, challenges, SCEP requests, audit rows and refusals."""
    profile, _new = EnrollmentProfile.objects.get_or_create(
        slug="default", defaults={"name": "School devices", "issuer": fleet.issuer}
    )
    for number, (device, certificate) in enumerate(
        zip(fleet.devices[:30], fleet.certificates[:30], strict=True)
    ):
        states = (SessionState.COMPLETED, SessionState.OFFERED, SessionState.FAILED)
        EnrollmentSession.objects.create(
            profile=profile,
            state=states[number % 3],
            reason="SCEP not requested" if number % 3 == 2 else "",
            serial_number=device.serial_number,
            udid=device.udid,
            remote_addr="192.0.2.17",
            created_at=now - timedelta(minutes=number),
            expires_at=now + timedelta(minutes=60 - number),
        )
        challenge = Challenge.objects.create(
            value_hash=uuid.uuid4().bytes * 2,
            issuer=fleet.issuer,
            subject=[["CN", device.serial_number], ["O", "Example School"]],
            created_by="enrolment",
            expires_at=now + timedelta(minutes=30),
            consumed_at=now if number % 2 else None,
        )
        refused = number % 5 == 0
        Transaction.objects.create(
            service=services.of_issuer(fleet.issuer),
            issuer=fleet.issuer,
            transaction_id=uuid.uuid4().hex.upper(),
            message_type="PKCSReq",
            status=TransactionStatus.FAILURE if refused else TransactionStatus.SUCCESS,
            fail_info="badRequest" if refused else "",
            reason="challenge expired" if refused else "",
            csr_sha256=hashlib.sha256(str(number).encode()).hexdigest(),
            csr_subject=f"CN={device.serial_number}",
            csr_key="RSA 2048",
            signer_subject="CN=MDM SCEP SIGNER",
            challenge=challenge,
            certificate=None if refused else certificate,
            remote_addr="192.0.2.17",
            user_agent="CFNetwork/1498",
            created_at=now - timedelta(minutes=number),
        )
        secret = EscrowedSecret(
            enrollment=fleet.enrollments[number], kind=SecretKind.BOOTSTRAP_TOKEN, epoch=1, deposited_at=now
        )
        secret.value_sealed = seal(b"CANARY-BOOTSTRAP", context=f"devices.escrowedsecret.value:{secret.uuid}")
        secret.save()
    actions = (
        ("device.enrolled", "enrolment", Outcome.DONE, ""),
        ("certificate.issued", "scep", Outcome.DONE, ""),
        ("command.enqueued", "ada", Outcome.DONE, ""),
        ("command.enqueued", "API token inventory (ada)", Outcome.DONE, ""),
        ("certificate.revoked", "grace", Outcome.DONE, "key compromise"),
        ("push_certificate.imported", "ada", Outcome.REFUSED, "another topic"),
    )
    for number, device in enumerate(fleet.devices[:60]):
        action, actor, outcome, reason = actions[number % len(actions)]
        AuditEvent.objects.create(
            at=now - timedelta(minutes=7 * (60 - number)),
            actor=actor,
            action=action,
            outcome=outcome,
            target_kind="devices.device",
            target_id=str(device.pk),
            target_label=str(device),
            reason=reason,
            details={"serial_number": device.serial_number},
        )
    for number, (surface, reason) in enumerate(
        (("mdm", "certificate revoked"), ("scep", "challenge already used"), ("mdm", "unknown certificate"))
    ):
        Refusal.objects.create(
            minute=now.replace(second=0, microsecond=0) - timedelta(minutes=number),
            surface=surface,
            reason=reason,
            remote_addr=f"198.51.100.{number}",
            count=3 + number,
            detail="serial number 3F9A1C",
            last_at=now - timedelta(minutes=number),
        )


def _device(chance: random.Random, now: datetime) -> Device:
    platform, product, model, versions = chance.choice(MODELS)
    number = next(_serials)
    version = chance.choice(versions)
    return Device(
        udid=f"00008{number:03d}-{uuid.UUID(int=chance.getrandbits(128)).hex[:16].upper()}",
        serial_number=f"{chance.choice('CDFGH')}{number:05d}{chance.choice('QRTVW')}LMN7",
        name=f"{chance.choice(FIRST)}’s {NAMES[platform]}",
        platform=platform,
        product_name=product,
        model_name=model,
        os_version=version,
        build_version="23B85",
        imei="35 693803 564380 9" if platform == "iOS" else "",
        supervised=chance.random() < 0.8,
        information={
            "DeviceName": f"{chance.choice(FIRST)}’s {NAMES[platform]}",
            "OSVersion": version,
            "BatteryLevel": round(chance.random(), 2),
            "DeviceCapacity": 128,
            "AvailableDeviceCapacity": round(chance.uniform(3, 120), 2),
            "WiFiMAC": "f0:d1:a9:" + chance.randbytes(3).hex(":"),
            "IsActivationLockEnabled": False,
        },
        information_at=now - timedelta(hours=chance.randint(0, 40)),
        security={"PasscodePresent": True, "PasscodeCompliant": True, "HardwareEncryptionCaps": 3},
        security_at=now - timedelta(hours=chance.randint(0, 40)),
    )


def _enrollment(device: Device, chance: random.Random, now: datetime) -> Enrollment:
    dice = chance.random()
    state = EnrollmentState.ENROLLED
    seen = now - timedelta(minutes=chance.randint(0, 1200))
    if dice < 0.08:
        seen = now - timedelta(days=chance.randint(8, 60), hours=3)
    elif dice < 0.2:
        seen = now - timedelta(days=chance.randint(1, 6), hours=3)
    elif dice < 0.22:
        state = EnrollmentState.QUARANTINED
    elif dice < 0.26:
        state = EnrollmentState.CHECKED_OUT
    return Enrollment(
        device=device,
        channel=Channel.DEVICE,
        state=state,
        topic="com.apple.mgmt.External.5f0c1b1e-9d3f-4f38-9a5d-2f4f2f3f8a55",
        push_token=b"\x01" * 32,
        push_magic="CANARY-PUSH-MAGIC",
        token_updated_at=seen,
        authenticated_at=now - timedelta(days=90),
        enrolled_at=now - timedelta(days=90),
        last_seen_at=seen,
        ended_at=seen if state == EnrollmentState.CHECKED_OUT else None,
    )


def _certificate(
    device: Device, key: IssuerKey, der: bytes, chance: random.Random, now: datetime
) -> Certificate:
    identifier = chance.randbytes(16)
    return Certificate(
        issuer_key=key,
        serial_number=identifier.hex().upper(),
        purpose=Purpose.MDM_IDENTITY,
        subject=f"CN={device.serial_number},O=Example School",
        der=der,
        sha256=hashlib.sha256(identifier).hexdigest(),
        public_key_sha256=hashlib.sha256(identifier + b"key").hexdigest(),
        not_before=now - timedelta(days=90),
        not_after=now + timedelta(days=chance.randint(5, 640)),
        first_used_at=now - timedelta(days=90),
    )


def _commands(fleet: Fleet, chance: random.Random, now: datetime) -> None:
    for number, request_type in enumerate(
        ("DeviceInformation", "SecurityInfo", "InstalledApplicationList", "DeviceLock", "RestartDevice")
    ):
        command = Command(
            request_type=request_type,
            source=CommandSource.SERVER if number < 2 else CommandSource.ADMIN,
            created_by="server" if number < 2 else "ada",
            created_at=now - timedelta(hours=5 - number),
            targets=len(fleet.enrollments),
            at_most_once=request_type in {"DeviceLock", "RestartDevice"},
        )
        payload = {"RequestType": request_type}
        if request_type == "DeviceLock":
            payload["PIN"] = "CANARY-PIN"
        command.payload_sealed = seal(
            plist.write(payload), context=f"commands.command.payload:{command.uuid}"
        )
        command.save()
        fleet.commands.append(command)
        deliveries = [
            _delivery(command, enrollment, chance, now)
            for enrollment in fleet.enrollments
            if enrollment.state == EnrollmentState.ENROLLED
        ]
        CommandDelivery.objects.bulk_create(deliveries, batch_size=500)
        fleet.deliveries.extend(deliveries)
        CommandResult.objects.bulk_create(
            [_result(delivery, now) for delivery in deliveries if delivery.completed_at], batch_size=500
        )


def _delivery(
    command: Command, enrollment: Enrollment, chance: random.Random, now: datetime
) -> CommandDelivery:
    state = chance.choices(
        [
            DeliveryState.ACKNOWLEDGED,
            DeliveryState.QUEUED,
            DeliveryState.SENT,
            DeliveryState.NOT_NOW,
            DeliveryState.ERROR,
            DeliveryState.UNCERTAIN if command.at_most_once else DeliveryState.EXPIRED,
        ],
        weights=[86, 6, 2, 3, 2, 1],
    )[0]
    done = state in {DeliveryState.ACKNOWLEDGED, DeliveryState.ERROR}
    return CommandDelivery(
        command=command,
        enrollment=enrollment,
        state=state,
        sent_count=0 if state == DeliveryState.QUEUED else 1,
        sent_at=None if state == DeliveryState.QUEUED else command.created_at,
        not_now_at=now if state == DeliveryState.NOT_NOW else None,
        completed_at=now - timedelta(minutes=chance.randint(1, 200)) if done else None,
    )


def _result(delivery: CommandDelivery, now: datetime) -> CommandResult:
    failed = delivery.state == DeliveryState.ERROR
    result = CommandResult(
        delivery=delivery,
        status="Error" if failed else "Acknowledged",
        error_chain=[
            {
                "ErrorCode": 12021,
                "ErrorDomain": "MCMDMErrorDomain",
                "LocalizedDescription": "Das Gerät kennt den Befehl nicht.",
                "USEnglishDescription": "The command is not supported.",
            }
        ]
        if failed
        else [],
        received_at=now,
    )
    report = {"Status": result.status, "UDID": "-", "UnlockToken": b"CANARY-UNLOCK"}
    result.report_sealed = seal(
        zlib.compress(plist.write(report)), context=f"commands.commandresult.report:{result.uuid}"
    )
    return result
