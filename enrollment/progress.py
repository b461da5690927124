"""How far an attempt to enrol came, step by step, and where and why it stopped."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.urls import reverse
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from devices.models import Channel, Enrollment, EnrollmentState
from enrollment import device_authorities
from enrollment.models import EnrollmentSession, Flow, SessionState
from pki.models import Certificate, Purpose
from scep.models import Transaction, TransactionStatus


@dataclass(frozen=True)
class Step:
    """One step: ``at`` is None where it was not taken, ``lines`` say what is known of it."""

    title: str
    at: datetime | None
    lines: list[str]
    url: str = ""

    @property
    def done(self) -> bool:
        return self.at is not None


@dataclass(frozen=True)
class Progress:
    """All steps of a session. ``stopped``: why it went no further; ``waiting``: for what it waits."""

    steps: list[Step]
    stopped: str
    waiting: str

    @property
    def next_step(self) -> Step | None:
        """The first that was not taken."""
        return next((step for step in self.steps if not step.done), None)


_WAITS: dict[str, str | Promise] = {
    SessionState.OFFERED: gettext_lazy("Waiting for the device."),
    SessionState.IDENTIFIED: gettext_lazy("Waiting for the device to fetch its certificate and come back."),
    SessionState.OTA_CERTIFIED: gettext_lazy("Waiting for the device to fetch the management profile."),
    SessionState.DELIVERED: gettext_lazy("Waiting for the request for a certificate."),
    SessionState.CERTIFIED: gettext_lazy("Waiting for the device to check in."),
    SessionState.AUTHENTICATED: gettext_lazy("Waiting for the device's push token."),
}


def progress(session: EnrollmentSession) -> Progress:
    """What happened so far. Every step stands on its own evidence, whatever the state says."""
    enrollment = (
        Enrollment.objects.filter(binding=session.uuid, channel=Channel.DEVICE)
        .select_related("device")
        .order_by("-id")
        .first()
    )
    over_the_air = [_identified(session), _certificate(session, Purpose.OTA_IDENTITY), _delivered(session)]
    steps = [
        _downloaded(session),
        *(over_the_air if session.flow == Flow.OTA else []),
        _certificate(session, Purpose.MDM_IDENTITY),
        _checked_in(enrollment),
        Step(_("Enrolled"), enrollment.enrolled_at if enrollment else None, []),
    ]
    ended = session.state in (SessionState.FAILED, SessionState.EXPIRED)
    return Progress(
        steps,
        stopped=(session.reason or session.get_state_display()) if ended else "",
        waiting=_waiting(session, enrollment),
    )


def _waiting(session: EnrollmentSession, enrollment: Enrollment | None) -> str:
    decided = held_or_refused(enrollment.state) if enrollment else ""
    return decided or str(_WAITS.get(session.state, ""))


def held_or_refused(state: str) -> str:
    """What keeps a device that checked in from being enrolled, where that is an administrator; else empty."""
    if state == EnrollmentState.QUARANTINED:
        return _("The device is enrolled already: held until an administrator admits or refuses it.")
    return _("An administrator refused it.") if state == EnrollmentState.REFUSED else ""


def _downloaded(session: EnrollmentSession) -> Step:
    title = _("Phase 1: profile service downloaded") if session.flow == Flow.OTA else _("Profile downloaded")
    lines = []
    if session.remote_addr:
        lines.append(_("From %(address)s.") % {"address": session.remote_addr})
    if session.user_agent:
        lines.append(session.user_agent)
    return Step(title, session.created_at, lines)


def _identified(session: EnrollmentSession) -> Step:
    title = _("Phase 2: the device made itself known")
    if session.identified_at is None:
        return Step(title, None, [])
    said = [session.serial_number, session.product, session.version]
    return Step(
        title,
        session.identified_at,
        [
            ", ".join(part for part in said if part),
            _("Signed with a certificate of: %(authority)s.")
            % {"authority": device_authorities.name_of(session.device_ca_sha256)},
        ],
    )


def _delivered(session: EnrollmentSession) -> Step:
    title = _("Phase 3: management profile delivered")
    if session.delivered_at is None:
        return Step(title, None, [])
    if session.delivered_cipher:
        line = _("Encrypted to the certificate of the enrolment: %(cipher)s.") % {
            "cipher": session.get_delivered_cipher_display()
        }
    else:
        line = _("Not encrypted: %(reason)s.") % {"reason": session.not_encrypted_reason}
    return Step(title, session.delivered_at, [line])


def _certificate(session: EnrollmentSession, purpose: Purpose) -> Step:
    title = (
        _("Certificate for the enrolment issued")
        if purpose == Purpose.OTA_IDENTITY
        else _("Device identity issued")
    )
    issued = Certificate.objects.filter(binding=session.uuid, purpose=purpose).order_by("id").first()
    if issued is not None:
        return Step(
            title,
            issued.created_at,
            [issued.subject],
            reverse("admin:pki_certificate_change", args=[issued.pk]),
        )
    refused = (
        Transaction.objects.filter(
            challenge__binding=session.uuid, challenge__purpose=purpose, status=TransactionStatus.FAILURE
        )
        .order_by("-id")
        .first()
    )
    if refused is None:
        return Step(title, None, [])
    line = _("The request was refused: %(reason)s.") % {"reason": refused.reason}
    return Step(title, None, [line], reverse("admin:scep_transaction_change", args=[refused.pk]))


def _checked_in(enrollment: Enrollment | None) -> Step:
    title = _("The device checked in")
    if enrollment is None:
        return Step(title, None, [])
    device = enrollment.device
    undecided = enrollment.state == EnrollmentState.QUARANTINED
    where = (
        ("devices_enrollment_change", enrollment.pk) if undecided else ("devices_device_change", device.pk)
    )
    url = reverse(f"admin:{where[0]}", args=[where[1]])
    return Step(title, enrollment.authenticated_at, [str(device)], url)
