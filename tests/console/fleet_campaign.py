"""A re-key campaign in the middle of its work, and renewals in every state, for pages to show."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

from devices.models import EnrollmentState
from pki.models import Certificate, IssuerCertificate, IssuerCertificateKind, IssuerKey, IssuerKeyState
from renewal.models import (
    CampaignSample,
    CampaignState,
    CampaignWave,
    IdentityRenewal,
    RekeyCampaign,
    RenewalPermit,
    RenewalReason,
    RenewalState,
    WaveKind,
)
from tests.console.fleet import Fleet, some_certificate
from vault.sealed import seal


def make_campaign(fleet: Fleet, now: datetime) -> RekeyCampaign:
    """For the issuer of the fleet: a third of the devices is on the new key, some failed, one has ended."""
    new_key = _next_key(fleet, now)
    campaign = RekeyCampaign.objects.create(
        issuer=fleet.issuer,
        new_key=new_key,
        state=CampaignState.REISSUING,
        created_by="ada",
        created_at=now - timedelta(hours=3),
        ready_at=now - timedelta(hours=2),
        activated_at=now - timedelta(hours=2),
        last_wave_at=now,
    )
    renewed = len(fleet.certificates) // 3
    Certificate.objects.filter(pk__in=[row.pk for row in fleet.certificates[:renewed]]).update(
        issuer_key=new_key
    )
    _samples(campaign, len(fleet.devices), renewed, now)
    for number, command in enumerate(fleet.commands[:8], 1):
        kind = WaveKind.ROOT if number < 4 else WaveKind.IDENTITY
        CampaignWave.objects.create(
            campaign=campaign, number=number, kind=kind, command=command, devices=25, created_at=now
        )
    _renewals(fleet, campaign, now)
    return campaign


def _next_key(fleet: Fleet, now: datetime) -> IssuerKey:
    fleet.issuer.keys.update(state=IssuerKeyState.PREVIOUS)
    key = IssuerKey(
        issuer=fleet.issuer,
        generation=2,
        algorithm="RSA-3072",
        public_key=b"+",
        key_identifier=b"+" * 20,
        state=IssuerKeyState.CURRENT,
    )
    key.private_key_sealed = seal(b"no key", context=f"pki.issuerkey.private_key:{key.uuid}")
    key.save()
    der = some_certificate(now)
    IssuerCertificate.objects.create(
        issuer_key=key,
        kind=IssuerCertificateKind.SELF_SIGNED,
        der=der,
        subject="CN=Bramley device CA,O=Example School",
        serial_number="5C0B7E",
        sha256=hashlib.sha256(der + b"2").hexdigest(),
        not_before=now - timedelta(days=1),
        not_after=now + timedelta(days=3650),
    )
    return key


def _samples(campaign: RekeyCampaign, devices: int, renewed: int, now: datetime) -> None:
    CampaignSample.objects.bulk_create(
        CampaignSample(
            campaign=campaign,
            at=now - timedelta(minutes=180 - 9 * number),
            on_old=devices - renewed * max(0, number - 7) // 13,
            on_new=renewed * max(0, number - 7) // 13,
            installed=devices,
            failed=number // 6,
        )
        for number in range(21)
    )


def _renewals(fleet: Fleet, campaign: RekeyCampaign, now: datetime) -> None:
    said = "Profile Failed to Install; The SCEP server returned an invalid response."
    states = list(RenewalState)
    for number, enrollment in enumerate(fleet.enrollments):
        state = states[number % len(states)]
        failed = state == RenewalState.FAILED
        ended = state in (RenewalState.COMPLETED, RenewalState.FAILED, RenewalState.CANCELLED)
        IdentityRenewal.objects.create(
            enrollment=enrollment,
            reason=list(RenewalReason)[number % 3],
            state=state,
            error=said if failed else "",
            permanent=failed and number % 2 == 0,
            campaign=campaign,
            command=fleet.commands[0],
            certificate_before=fleet.certificates[number],
            requested_by="server",
            created_at=now - timedelta(minutes=number),
            finished_at=now if ended else None,
        )
    number, enrollment = [
        pair for pair in enumerate(fleet.enrollments) if pair[1].state == EnrollmentState.ENROLLED
    ][-1]
    certificate = fleet.certificates[number]
    Certificate.objects.filter(pk=certificate.pk).update(not_after=now - timedelta(days=2))
    RenewalPermit.objects.create(
        enrollment=enrollment,
        certificate=certificate,
        renewal=IdentityRenewal.objects.get(enrollment=enrollment),
        note="was in a drawer over the summer",
        granted_by="ada",
        granted_at=now,
        until=now + timedelta(days=7),
    )
