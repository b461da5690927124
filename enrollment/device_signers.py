"""What each device certificate claimed: the first word counts, another one is refused (threats E3).

A signature with a device certificate proves "an Apple device". Whoever owns one could still put the serial
number of another device into the message; what it cannot do is to speak for two.
"""

from __future__ import annotations

from datetime import datetime

from django.db.models import Q

from enrollment.core.machine_info import MachineInfo
from enrollment.core.session import same_device
from enrollment.models import DeviceSigner as Claim
from pki.core.device_identity import DeviceSigner


class SecondClaim(Exception):
    """The certificate has spoken for another device before; ``claim`` is what it said then."""

    def __init__(self, claim: Claim) -> None:
        super().__init__("the device certificate claimed to be another device before")
        self.claim = claim


def claim(signer: DeviceSigner, said: MachineInfo, now: datetime) -> Claim:
    """Record whom the certificate speaks for. Raises :class:`SecondClaim`.

    Call it in the transaction of the act: what is refused for another reason leaves no record here.
    """
    facts = signer.facts
    for known in Claim.objects.filter(Q(sha256=facts.sha256) | Q(public_key_sha256=facts.public_key_sha256)):
        _verify(known, said)
    row, created = Claim.objects.get_or_create(
        sha256=facts.sha256,
        defaults={
            "public_key_sha256": facts.public_key_sha256,
            "subject": facts.subject[:500],
            "authority": signer.anchor.name[:200],
            "serial_number": said.serial_number,
            "udid": said.udid,
            "first_seen_at": now,
            "last_seen_at": now,
        },
    )
    if not created:
        _verify(row, said)  # another process may have been quicker
        Claim.objects.filter(pk=row.pk).update(last_seen_at=now)
    return row


def _verify(known: Claim, said: MachineInfo) -> None:
    if not (same_device(known.serial_number, said.serial_number) and same_device(known.udid, said.udid)):
        raise SecondClaim(known)
