"""From a verified certificate and the ids in a message to the enrollment that the message is for."""

from __future__ import annotations

from datetime import datetime

from devices import identity as identities
from devices import registry
from devices.core.identity import ChannelIdentity
from devices.models import Channel, Enrollment, EnrollmentState
from mdm.answers import Rejected
from mdm.authentication import Presented
from renewal import progress


def owner_of(presented: Presented) -> Enrollment | None:
    """The device enrollment that the certificate is pinned to, or that it inherits as a renewed one."""
    return presented.enrollment or identities.heir_of(presented.certificate)


def device_enrollment(presented: Presented, channel: ChannelIdentity) -> Enrollment:
    """The device enrollment for which the certificate speaks. Raises :class:`Rejected`.

    The ids in the message have to be those of that device (threats A6); a message cannot name another one.
    """
    owner = owner_of(presented)
    if owner is None:
        raise Rejected(
            "certificate enrolled no device", detail=f"certificate {presented.certificate.serial_number}"
        )
    if not names(owner, channel):
        raise Rejected("identity of another device", detail=f"message says {channel.udid}", target=owner)
    return owner


def names(owner: Enrollment, channel: ChannelIdentity) -> bool:
    """Whether the ids in the message are those of the device."""
    device = owner.device
    return device.udid == channel.udid and device.user_enrollment == channel.user_enrollment


def adopt_renewed(presented: Presented, owner: Enrollment, now: datetime) -> Enrollment:
    """Pin the certificate if this is its first use (threats A10): a renewal has arrived.

    Inside the transaction of the message; a refusal of the message takes the pin back. Raises
    :class:`Rejected`.
    """
    if presented.identity is not None:
        return owner
    try:
        adopted = registry.adopt(owner, presented.certificate, now)
    except registry.Refused as error:
        raise Rejected(error.reason, target=owner) from error
    progress.taken_over(adopted, presented.certificate, now)
    return adopted


def addressed(owner: Enrollment, channel: ChannelIdentity) -> Enrollment | None:
    """The enrollment of the channel that the message names: the device's own or a user's.

    None for a user of a device in quarantine that has no row yet. Raises :class:`Rejected` for a user that
    the device never announced.
    """
    if not channel.is_user:
        return owner
    child = Enrollment.objects.filter(parent=owner, user_id=channel.user_id, channel=Channel.USER).first()
    if child is None and owner.state != EnrollmentState.QUARANTINED:
        raise Rejected("unknown user", target=owner)
    return child


def verify_open(enrollment: Enrollment) -> None:
    """The enrollment has not ended. Raises :class:`Rejected`."""
    if enrollment.state not in registry.OPEN_STATES:
        raise Rejected(f"enrollment ended: {enrollment.state}", target=enrollment)
