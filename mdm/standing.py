"""Where a device stands, and why nothing happens, in words for administrators."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Count
from django.utils.timesince import timesince
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from commands.models import CommandDelivery, DeliveryState
from devices.models import Channel, Enrollment, EnrollmentState, Identity, IdentityState
from pki.models import Certificate, CertificateStatus
from push import certificates
from push.models import PushCertificate, PushRequest, PushState

EXPIRES_SOON = timedelta(days=30)


@dataclass(frozen=True)
class Remark:
    """One sentence. ``tone``: ``good``, ``info``, ``wait`` (for somebody or something) or ``bad``.

    ``enrollment``: the one that it is about, where that has to be looked at.
    """

    text: str
    tone: str
    enrollment: Enrollment | None = None


def remarks(enrollment: Enrollment | None, now: datetime) -> list[Remark]:
    """What keeps the device from doing what it is told; one that says that all is well, if so.

    ``enrollment``: the device channel's, the latest one if none is live.
    """
    if enrollment is None:
        return [Remark(_("This device never enrolled."), "wait")]
    return [*_about_rivals(enrollment, now), *_about(enrollment, now)]


def _about_rivals(enrollment: Enrollment, now: datetime) -> list[Remark]:
    """Others that say to be this device, and wait for a decision."""
    text = _(
        "A device with another certificate says to be this one since %(time)s. "
        "It gets nothing until you decide."
    )
    held = Enrollment.objects.filter(
        device=enrollment.device_id, channel=Channel.DEVICE, state=EnrollmentState.QUARANTINED
    ).exclude(pk=enrollment.pk)
    return [
        Remark(text % {"time": timesince(rival.authenticated_at, now)}, "wait", rival)
        for rival in held.order_by("-pk")[:3]
        if rival.authenticated_at is not None
    ]


def _about(enrollment: Enrollment, now: datetime) -> list[Remark]:
    if enrollment.state not in (EnrollmentState.ENROLLED, EnrollmentState.AUTHENTICATED):
        return [_not_managed(enrollment)]
    found = _about_certificate(enrollment, now)
    if enrollment.state == EnrollmentState.AUTHENTICATED:
        found.append(
            Remark(
                _("The device said who it is, but has not sent its push token yet: it takes no commands."),
                "wait",
            )
        )
        return found
    counts = _deliveries(enrollment)
    waiting = sum(counts.get(state, 0) for state in (DeliveryState.QUEUED, DeliveryState.SENT))
    found += [
        *_about_waking(enrollment, now),
        *_about_push(enrollment, waiting, now),
        *_about_deliveries(counts, waiting),
    ]
    return found or [Remark(_("Nothing is waiting for this device."), "good")]


def _not_managed(enrollment: Enrollment) -> Remark:
    if enrollment.state == EnrollmentState.QUARANTINED:
        text = _("Held: an administrator has to admit or refuse this enrolment.")
        return Remark(text, "wait", enrollment)
    if enrollment.state == EnrollmentState.CHECKED_OUT:
        return Remark(_("The management profile was removed from the device. It has to enrol again."), "bad")
    if enrollment.state == EnrollmentState.TURN_AWAY:
        return Remark(
            _("Unenrolled: when the device next connects it is told so, and removes its profile."), "wait"
        )
    if enrollment.state == EnrollmentState.TURNED_AWAY:
        return Remark(_("Unenrolled, and the device was told. It has to enrol again."), "bad")
    if enrollment.state == EnrollmentState.REFUSED:
        return Remark(_("An administrator refused this enrolment."), "bad")
    return Remark(_("This enrolment was replaced by a later one."), "bad")


def _about_certificate(enrollment: Enrollment, now: datetime) -> list[Remark]:
    certificate = active_certificate(enrollment)
    if certificate is None:
        return []
    if certificate.status == CertificateStatus.REVOKED:
        return [Remark(_("The certificate of the device was revoked: it has to enrol again."), "bad")]
    if certificate.not_after < now:
        text = _(
            "The certificate of the device has expired, so it is refused. Let it in for one renewal, or "
            "enrol it again."
        )
        return [Remark(text, "bad")]
    if certificate.not_after < now + EXPIRES_SOON:
        left = timesince(now, certificate.not_after)
        return [Remark(_("The certificate of the device expires in %(time)s.") % {"time": left}, "wait")]
    return []


def active_certificate(enrollment: Enrollment) -> Certificate | None:
    """The certificate that speaks for the enrollment now."""
    identity = (
        Identity.objects.select_related("certificate")
        .defer("certificate__der")
        .filter(enrollment=enrollment, state=IdentityState.ACTIVE)
        .order_by("-pk")
        .first()
    )
    return identity.certificate if identity else None


def _about_waking(enrollment: Enrollment, now: datetime) -> list[Remark]:
    if enrollment.token_dead_at is not None:
        return [
            Remark(
                _(
                    "Apple's push service no longer takes the push token of this device. "
                    "It sends a new one when it next connects, for example after a restart."
                ),
                "bad",
            )
        ]
    certificate: PushCertificate | None = certificates.active(enrollment.topic)
    if certificate is None:
        return [
            Remark(
                _("No push certificate has the topic %(topic)s: the device cannot be woken.")
                % {"topic": enrollment.topic},
                "bad",
            )
        ]
    if certificate.not_after is not None and certificate.not_after < now:
        return [Remark(_("The push certificate has expired: the device cannot be woken."), "bad")]
    if certificate.held_reason:
        return [
            Remark(_("Pushes are held: %(reason)s.") % {"reason": certificate.held_reason.rstrip(".")}, "bad")
        ]
    return []


def _about_push(enrollment: Enrollment, waiting: int, now: datetime) -> list[Remark]:
    push = PushRequest.objects.filter(enrollment=enrollment).first()
    if push is None or push.state != PushState.DUE:
        return []
    if push.last_sent_at is None or not push.attempts:
        return [Remark(_("A push is about to be sent."), "info")] if waiting else []
    text = _("A push was sent %(time)s ago (%(result)s); the device has not connected since.") % {
        "time": timesince(push.last_sent_at, now),
        "result": push.last_result or "-",
    }
    return [Remark(text, "wait")]


def _deliveries(enrollment: Enrollment) -> dict[str, int]:
    states = (
        DeliveryState.QUEUED,
        DeliveryState.SENT,
        DeliveryState.NOT_NOW,
        DeliveryState.UNCERTAIN,
    )
    return dict(
        CommandDelivery.objects.filter(enrollment=enrollment, epoch=enrollment.epoch, state__in=states)
        .order_by()
        .values_list("state")
        .annotate(Count("pk"))
    )


def _about_deliveries(counts: dict[str, int], waiting: int) -> list[Remark]:
    found = []
    if waiting:
        found.append(
            Remark(
                ngettext(
                    "%(count)d command waits for the device.",
                    "%(count)d commands wait for the device.",
                    waiting,
                )
                % {"count": waiting},
                "info",
            )
        )
    if busy := counts.get(DeliveryState.NOT_NOW, 0):
        found.append(
            Remark(
                ngettext(
                    "The device answered “not now” to %(count)d command, as when it is locked. "
                    "It is asked again when it connects.",
                    "The device answered “not now” to %(count)d commands, as when it is locked. "
                    "It is asked again when it connects.",
                    busy,
                )
                % {"count": busy},
                "wait",
            )
        )
    if unsure := counts.get(DeliveryState.UNCERTAIN, 0):
        found.append(
            Remark(
                ngettext(
                    "%(count)d command was handed out and never answered: decide whether to send it again.",
                    "%(count)d commands were handed out and never answered: "
                    "decide whether to send them again.",
                    unsure,
                )
                % {"count": unsure},
                "wait",
            )
        )
    return found
