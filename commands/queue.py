"""The queue of commands, as the apps above see it.

Everything that can happen to a command, in the order in which it does: queued (:func:`enqueue`), handed out
(:func:`next_command`), answered (:func:`record_report`), taken back (:func:`cancel`), decided
(:func:`decide_uncertain`), expired (:func:`expire`).
"""

from __future__ import annotations

from commands.deciding import (
    NotUncertain,
    Swept,
    cancel,
    cancel_outstanding,
    decide_uncertain,
    expire,
    push_what_became_due,
)
from commands.enqueueing import (
    Audience,
    Enqueued,
    InvalidCommand,
    Skipped,
    audience_of,
    decode_command,
    encode_command,
    enqueue,
    enqueue_for_devices,
    enrollments_of,
    warnings_about,
)
from commands.first_commands import enqueue_for_new
from commands.handing_out import (
    CannotBeFilled,
    Filler,
    Filling,
    Handed,
    Recorded,
    Taken,
    hand_out,
    has_outstanding,
    next_command,
    open_payload,
    open_report,
    record_report,
    take_answer,
    take_answer_of,
    take_first_answer,
    with_device,
)

__all__ = [
    "Audience",
    "CannotBeFilled",
    "Enqueued",
    "Filler",
    "Filling",
    "Handed",
    "InvalidCommand",
    "NotUncertain",
    "Recorded",
    "Skipped",
    "Swept",
    "Taken",
    "audience_of",
    "cancel",
    "cancel_outstanding",
    "decide_uncertain",
    "decode_command",
    "encode_command",
    "enqueue",
    "enqueue_for_devices",
    "enqueue_for_new",
    "enrollments_of",
    "expire",
    "hand_out",
    "has_outstanding",
    "next_command",
    "open_payload",
    "open_report",
    "push_what_became_due",
    "record_report",
    "take_answer",
    "take_answer_of",
    "take_first_answer",
    "warnings_about",
    "with_device",
]
