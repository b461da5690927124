"""Check-in: the device enrols, tells how to wake it, leaves, keeps and fetches its tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from django.db import transaction

from audit.models import AuditEvent
from commands import queue
from commands.core import plist
from database import rows
from devices import escrow, registry
from devices.models import Enrollment, EnrollmentState, SecretKind
from enrollment import access, completion
from mdm import newcomers, questions
from mdm.answers import Rejected, Reply
from mdm.authentication import Presented
from mdm.channels import adopt_renewed, device_enrollment, owner_of, verify_open
from mdm.core import checkin as messages
from push import outbox
from push import statements as push_statements
from renewal import progress

UNMANAGED_USER = 410
"""Apple: the server does not manage this user; the user's session goes on without management."""


def check_in(presented: Presented, message: Mapping[str, Any], digest: bytes, now: datetime) -> Reply:
    """Answer one check-in message. ``digest`` is the SHA-256 of the body. Raises :class:`Rejected`."""
    try:
        decoded = messages.decode_checkin(message)
    except messages.CheckinError as error:
        raise Rejected("bad check-in message", detail=error.reason) from error
    try:
        reply = _short_way(presented, decoded, digest, now)
        if reply is None:
            # A certificate that is new here comes in the transaction that took it up.
            with transaction.atomic(savepoint=presented.identity is not None):
                reply = _answer(presented, decoded, digest, now)
    except registry.Refused as error:
        raise Rejected(error.reason, target=presented.enrollment) from error
    if presented.enrollment is not None:
        registry.seen(presented.enrollment.pk, presented.enrollment.last_seen_at, now)
    return reply


def _short_way(presented: Presented, message: messages.Message, digest: bytes, now: datetime) -> Reply | None:
    """The first TokenUpdate of a device, in one statement; None for all else, and nothing is changed."""
    if not isinstance(message, messages.TokenUpdate) or presented.identity is None:
        return None
    verify_open(device_enrollment(presented, message.channel))
    return newcomers.first_token_update(presented, message, digest, now)


def _answer(presented: Presented, message: messages.Message, digest: bytes, now: datetime) -> Reply:
    match message:
        case messages.Authenticate():
            return _authenticate(presented, message, digest, now)
        case messages.TokenUpdate():
            return _token_update(presented, message, digest, now)
        case messages.CheckOut():
            return _check_out(presented, message, now)
        case messages.SetBootstrapToken():
            return _set_bootstrap_token(presented, message, digest, now)
        case messages.GetBootstrapToken():
            return _get_bootstrap_token(presented, message, now)
        case messages.UserAuthenticate():
            # Network users of Macs are not managed yet. Local users never send this.
            _open_enrollment(presented, message, now)
            return Reply(status=UNMANAGED_USER)
        case messages.DeclarativeManagement():
            # Not yet: 404 is what Apple has a server say that knows no such declaration.
            _open_enrollment(presented, message, now)
            return Reply(status=404)
        case messages.GetToken():
            owner = _open_enrollment(presented, message, now)
            raise Rejected("no token for this service", detail=message.service_type, target=owner)


def _open_enrollment(presented: Presented, message: messages.Message, now: datetime) -> Enrollment:
    """The device enrollment behind the message, which has begun and not ended."""
    owner = device_enrollment(presented, message.channel)
    verify_open(owner)
    return adopt_renewed(presented, owner, now)


def _authenticate(
    presented: Presented, message: messages.Authenticate, digest: bytes, now: datetime
) -> Reply:
    """Challenge, certificate, session and enrollment carry one binding: it decides what may happen."""
    certificate, udid = presented.certificate, message.channel.udid
    may_replace = False
    try:
        if owner_of(presented) is None:
            expected = completion.expectations(certificate.binding, udid, message.serial_number)
            may_replace = expected.may_replace
        elif presented.identity is not None:  # it starts over, which a blocked device may not either
            access.verify_device(None, udid=udid, serial_number=message.serial_number)
    except completion.SessionRefused as error:
        raise Rejected("enrolment session refused", detail=error.reason) from error
    except access.DeviceRefused as error:
        raise Rejected(error.reason, detail=error.detail) from error
    outcome = registry.authenticate(
        certificate, newcomers.said_by(message), may_replace=may_replace, body_digest=digest, now=now
    )
    if outcome.kind in (registry.Kind.NEW, registry.Kind.QUARANTINED):
        completion.authenticated(certificate.binding, udid, message.serial_number, now)
    if outcome.kind is registry.Kind.RENEWED:
        progress.taken_over(outcome.enrollment, certificate, now)
    drop_work(outcome.dropped, "the device enrolled again", now)
    return Reply()


def drop_work(enrollments: Iterable[Enrollment], reason: str, now: datetime) -> None:
    """End what waits for enrollments that are over, or begin anew: commands and pushes."""
    for enrollment in enrollments:
        queue.cancel_outstanding(enrollment, reason, now)
        outbox.connected(enrollment.pk, more=False, now=now)


def _token_update(presented: Presented, message: messages.TokenUpdate, digest: bytes, now: datetime) -> Reply:
    owner = _open_enrollment(presented, message, now)
    if message.channel.is_user:
        updated = registry.user_token_update(
            owner,
            message.channel,
            topic=message.topic,
            push_token=message.push_token,
            push_magic=message.push_magic,
            not_on_console=message.not_on_console,
            body_digest=digest,
            now=now,
        )
    else:
        updated = registry.token_update(
            owner,
            topic=message.topic,
            push_token=message.push_token,
            push_magic=message.push_magic,
            awaiting_configuration=message.awaiting_configuration,
            unlock_token=message.unlock_token,
            body_digest=digest,
            now=now,
        )
    enrollment = updated.enrollment
    if updated.repeated or enrollment.state != EnrollmentState.ENROLLED:
        return Reply()
    if updated.first and not message.channel.is_user:
        welcome(enrollment, now)
    elif queue.has_outstanding(enrollment, now=now):
        outbox.request_push([enrollment.pk], now=now)
    return Reply()


def welcome(enrollment: Enrollment, now: datetime) -> None:
    """The device channel is enrolled: its session is complete, and the server asks what the device is.

    In the transaction that completed it.
    """
    if completion.completed(enrollment.binding, now):
        access.join_groups(enrollment)
    if not push_statements.can_wake(enrollment.topic):
        rows.insert(AuditEvent(**newcomers.cannot_be_woken(enrollment, enrollment.topic)))
    questions.ask_at_first(enrollment, now)


def _check_out(presented: Presented, message: messages.CheckOut, now: datetime) -> Reply:
    owner = device_enrollment(presented, message.channel)
    if owner.state == EnrollmentState.CHECKED_OUT:
        return Reply()
    verify_open(owner)
    owner = adopt_renewed(presented, owner, now)
    ended = registry.check_out(owner, now, user_id=message.channel.user_id)
    drop_work(ended, "the device checked out", now)
    return Reply()


def _set_bootstrap_token(
    presented: Presented, message: messages.SetBootstrapToken, digest: bytes, now: datetime
) -> Reply:
    owner = registry.lock(_open_enrollment(presented, message, now))
    verify_open(owner)
    if not message.token:
        escrow.withdraw(owner, SecretKind.BOOTSTRAP_TOKEN, now)
    elif registry.accept_once(owner, digest, now):
        escrow.deposit(owner, SecretKind.BOOTSTRAP_TOKEN, message.token, now)
    return Reply()


def _get_bootstrap_token(presented: Presented, message: messages.GetBootstrapToken, now: datetime) -> Reply:
    """A device that is held gets none: it may not be the one that deposited it."""
    owner = _open_enrollment(presented, message, now)
    if owner.state == EnrollmentState.QUARANTINED:
        return Reply()
    token = escrow.current(owner, SecretKind.BOOTSTRAP_TOKEN)
    return Reply(body=plist.write({"BootstrapToken": token})) if token else Reply()
