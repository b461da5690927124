"""The page "Send a command": for whom, which, what it says, confirm. Nothing goes out before the last step.

Entry: ``admin:commands_command_send`` with ``?devices=1,2,3`` (primary keys), ``?group=5`` or ``?all=1``, and
``&command=DeviceLock`` where the command is known already. The steps after it are POSTs. For devices that are
too many for an address, :func:`address_for` keeps them in the session.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import AdminForm
from django.core.exceptions import PermissionDenied
from django.db import IntegrityError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.debug import sensitive_post_parameters

from audit.recording import Actor
from commands import queue, sending
from commands.core.catalogue import REQUEST_TYPES
from commands.core.masking import readable
from commands.enqueueing import REQUEST_TYPE
from commands.forms import ChooseForm, PayloadForm, WhenForm, form_for, has_own_form
from commands.models import Command, CommandSource
from commands.sending import Draft, NoTargets, Targets
from devices.models import Channel, DeviceGroup, Enrollment, EnrollmentState

MAX_IN_ADDRESS = 200
SELECTION = "commands.selection"


@sensitive_post_parameters()
def send(request: HttpRequest) -> HttpResponse:
    """The whole page; the field ``step`` says what is being answered."""
    if not request.user.has_perm("commands.add_command"):
        raise PermissionDenied
    step = request.POST.get("step", "")
    if step == "confirm":
        return _confirmed(request)
    values = request.POST if request.method == "POST" else request.GET
    try:
        targets = _remembered(request) if "selection" in request.GET else Targets.read(values)
        heading = targets.words()
    except NoTargets:
        return _ask_for_whom(request)
    if step == "which":
        chosen = ChooseForm(request.POST)
        if not chosen.is_valid():
            return _ask_which(request, targets, heading, chosen)
        return _ask_what(request, _Asked(targets, heading, chosen.request_type()))
    request_type = values.get("command", "")
    if not REQUEST_TYPE.fullmatch(request_type):
        return _ask_which(request, targets, heading, ChooseForm())
    asked = _Asked(targets, heading, request_type, raw=bool(values.get("raw")))
    return _filled(request, asked) if step == "what" else _ask_what(request, asked)


@dataclass(frozen=True)
class _Asked:
    """What is known once a command is chosen. ``raw``: as a property list, though it has a form."""

    targets: Targets
    heading: str
    request_type: str
    raw: bool = False

    def parameters(self) -> dict[str, str]:
        """For hidden fields."""
        raw = {"raw": "1"} if self.raw else {}
        return {**self.targets.parameters(), "command": self.request_type, **raw}


# Steps


def _ask_for_whom(request: HttpRequest) -> HttpResponse:
    return _page(
        request,
        "whom",
        _("Send a command"),
        groups=DeviceGroup.objects.all()[:500],
        enrolled=Enrollment.objects.filter(channel=Channel.DEVICE, state=EnrollmentState.ENROLLED).count(),
    )


def _ask_which(request: HttpRequest, targets: Targets, heading: str, form: ChooseForm) -> HttpResponse:
    return _page(
        request,
        "which",
        _("Send a command to %(whom)s") % {"whom": heading},
        hidden=targets.parameters(),
        form=form,
        fieldsets=_in_fieldset(form),
    )


def _ask_what(
    request: HttpRequest, asked: _Asked, form: PayloadForm | None = None, when: WhenForm | None = None
) -> HttpResponse:
    form = form or form_for(asked.request_type, as_property_list=asked.raw)()
    when = when or WhenForm(prefix="when")
    return _page(
        request,
        "what",
        _("%(command)s: %(whom)s") % {"command": _title(asked.request_type), "whom": asked.heading},
        hidden=asked.parameters(),
        hidden_for_other_form={**asked.targets.parameters(), "command": asked.request_type},
        request_type=asked.request_type,
        known=REQUEST_TYPES.get(asked.request_type),
        raw=asked.raw,
        has_own_form=has_own_form(asked.request_type),
        form=form,
        when=when,
        fieldsets=[*_in_fieldset(form), *_in_fieldset(when, _("When"))],
    )


def _filled(request: HttpRequest, asked: _Asked) -> HttpResponse:
    form = form_for(asked.request_type, as_property_list=asked.raw)(request.POST, request.FILES)
    when = WhenForm(request.POST, prefix="when")
    if not (form.is_valid() and when.is_valid()):
        return _ask_what(request, asked, form, when)
    try:
        queue.encode_command(asked.request_type, form.payload())
    except queue.InvalidCommand as problem:
        form.add_error(None, _("This cannot be sent: %(problem)s.") % {"problem": problem})
        return _ask_what(request, asked, form, when)
    now = timezone.now()
    not_before, expires_at = when.times(now)
    return _ask_to_confirm(
        request,
        Draft(asked.request_type, form.payload(), asked.targets, not_before, expires_at, now, uuid.uuid4()),
    )


def _ask_to_confirm(request: HttpRequest, draft: Draft, problem: str = "") -> HttpResponse:
    preview = sending.preview(draft.request_type, draft.targets)
    known = REQUEST_TYPES.get(draft.request_type)
    return _page(
        request,
        "confirm",
        _("%(command)s: confirm") % {"command": _title(draft.request_type)},
        draft=draft,
        sealed=draft.seal(_user_id(request)),
        preview=preview,
        payload=readable(draft.payload)[0] if draft.payload else "",
        dangerous=known is not None and known.at_most_once,
        must_be_typed=sending.must_be_typed(draft.request_type, preview.count),
        problem=problem,
        command_title=_title(draft.request_type),
    )


def _confirmed(request: HttpRequest) -> HttpResponse:
    now = timezone.now()
    draft = Draft.open(request.POST.get("draft", ""), _user_id(request), now)
    if draft is None:
        messages.error(request, _("That took too long. Nothing was sent; please start again."))
        return HttpResponseRedirect(reverse("admin:commands_command_send"))
    if sent := Command.objects.filter(uuid=draft.uuid).first():
        return _to_command(sent)
    preview = sending.preview(draft.request_type, draft.targets)
    if sending.must_be_typed(draft.request_type, preview.count):
        typed = "".join(request.POST.get("count", "").split())
        if typed != str(preview.count):
            problem = _("Type the number of devices, %(count)d, to confirm.") % {"count": preview.count}
            return _ask_to_confirm(request, draft, problem)
    return _enqueue(request, draft)


def _enqueue(request: HttpRequest, draft: Draft) -> HttpResponse:
    now = timezone.now()
    try:
        result = queue.enqueue_for_devices(
            draft.request_type,
            draft.payload,
            draft.targets.device_ids(),
            source=CommandSource.ADMIN,
            actor=Actor.of_request(request),
            now=now,
            not_before=draft.not_before,
            expires_at=draft.expires_at,
            command_uuid=draft.uuid,
        )
    except queue.InvalidCommand as problem:
        messages.error(request, _("Nothing was sent: %(problem)s.") % {"problem": problem})
        return HttpResponseRedirect(reverse("admin:commands_command_send"))
    except IntegrityError:  # the same form, sent twice at the same moment
        return _to_command(Command.objects.get(uuid=draft.uuid))
    _say(request, result)
    return _to_command(result.command)


# Pieces


def address_for(request: HttpRequest, device_ids: Sequence[int]) -> str:
    """The address of this page for these devices, however many they are."""
    page = reverse("admin:commands_command_send")
    if len(device_ids) <= MAX_IN_ADDRESS:
        return f"{page}?devices={','.join(map(str, device_ids))}"
    key = uuid.uuid4().hex
    request.session[SELECTION] = {"key": key, "devices": [int(pk) for pk in device_ids]}
    return f"{page}?selection={key}"


def _remembered(request: HttpRequest) -> Targets:
    """What :func:`address_for` kept; the last selection only."""
    kept = request.session.get(SELECTION) or {}
    if not kept.get("devices") or kept.get("key") != request.GET["selection"]:
        raise NoTargets
    return Targets("devices", tuple(kept["devices"]))


def _say(request: HttpRequest, result: queue.Enqueued) -> None:
    """The outcome in words."""
    queued = ngettext("Queued for %(count)d device.", "Queued for %(count)d devices.", result.queued)
    (messages.success if result.queued else messages.warning)(request, queued % {"count": result.queued})
    for skips in sending.summarise(result.skipped):
        words = ngettext(
            "%(count)d was skipped: %(reason)s.", "%(count)d were skipped: %(reason)s.", skips.count
        )
        messages.warning(request, words % {"count": skips.count, "reason": skips.reason})


def _to_command(command: Command) -> HttpResponseRedirect:
    return HttpResponseRedirect(reverse("admin:commands_command_change", args=[command.pk]))


def _title(request_type: str) -> str:
    known = REQUEST_TYPES.get(request_type)
    return _(known.title) if known else request_type


def _user_id(request: HttpRequest) -> int:
    return int(request.user.pk or 0)


def _in_fieldset(form: forms.Form, heading: str | None = None) -> list[Any]:
    """The form as Django's admin draws one."""
    if not form.fields:
        return []
    fieldsets: Any = [(heading, {"fields": list(form.fields)})]
    return list(AdminForm(form, fieldsets, {}))  # type: ignore[arg-type]


def _page(request: HttpRequest, step: str, title: str, **context: Any) -> HttpResponse:
    return TemplateResponse(
        request,
        f"admin/commands/command/send_{step}.html",
        {
            **admin.site.each_context(request),
            "opts": Command._meta,
            "title": title,
            "has_view_permission": request.user.has_perm("commands.view_command"),
            **context,
        },
    )
