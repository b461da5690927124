"""Pages that end the management of devices, and that keep devices out or let them in again."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin import ModelAdmin
from django.contrib.admin.helpers import AdminForm
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import escape
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_POST

from audit.recording import Actor
from devices.models import Device
from enrollment import blocking
from mdm import departure

MOST_AT_ONCE = 500
"""Devices that one page unenrols: each is a row of its own in the record, all in one transaction."""
NAMES_SHOWN = 50
_DIGITS = 19
"""Of a number that is too large for a row's."""


def may_unenrol(request: HttpRequest) -> bool:
    """Whether the person may end the management of devices."""
    return all(request.user.has_perm(name) for name in ("devices.change_enrollment", "commands.add_command"))


def may_block(request: HttpRequest) -> bool:
    """Whether the person may keep devices out."""
    return request.user.has_perm("enrollment.add_blockeddevice")


def may_unblock(request: HttpRequest) -> bool:
    """Whether the person may let them in again."""
    return request.user.has_perm("enrollment.delete_blockeddevice")


def urls(site_admin: ModelAdmin[Device]) -> list[URLPattern]:
    """The addresses of the pages, beside those of the list of devices."""
    pages = LeavingPages(site_admin)
    view = site_admin.admin_site.admin_view
    return [
        path("unenrol/", view(require_POST(pages.unenrol_many)), name="devices_device_unenrol_many"),
        path("<int:pk>/unenrol/", view(pages.unenrol), name="devices_device_unenrol"),
        path("<int:pk>/block/", view(pages.block), name="devices_device_block"),
        path("<int:pk>/unblock/", view(pages.unblock), name="devices_device_unblock"),
    ]


class _HowForm(forms.Form):
    """How devices leave, and what is typed to confirm."""

    REMOVE, TURN_AWAY = "remove", "turn_away"

    way = forms.ChoiceField(
        label=_("how"),
        choices=[
            (
                REMOVE,
                _("Send the command to remove the management profile. The device says when it is off."),
            ),
            (
                TURN_AWAY,
                _(
                    "End the enrolment now and turn the device away when it next connects. "
                    "For a device that does not carry out commands."
                ),
            ),
        ],
        initial=REMOVE,
        widget=forms.RadioSelect,
    )
    reason = forms.CharField(label=_("reason"), required=False, max_length=200)
    block = forms.BooleanField(label=_("Block it as well: it cannot enrol again"), required=False)
    typed = forms.CharField(label=_("to confirm"), max_length=100)

    def forbid_block(self) -> None:
        """For who may unenrol, but not keep devices out: whatever is sent, nothing is blocked."""
        del self.fields["block"]


class UnenrolForm(_HowForm):
    """One device: its serial number (or what else it is known by) is typed."""

    def __init__(self, device: Device, data: Any = None) -> None:
        super().__init__(data)
        self.wanted = device.serial_number or device.udid
        # The page takes a help text for HTML, and this is what a device says of itself.
        self.fields["typed"].help_text = gettext("Type %(name)s.") % {"name": escape(self.wanted)}

    def clean_typed(self) -> str:
        typed: str = self.cleaned_data["typed"].strip()
        if typed.casefold() != self.wanted.casefold():
            raise forms.ValidationError(gettext("That is not the device's."))
        return typed


class UnenrolManyForm(_HowForm):
    """Many devices: their number is typed. ``devices`` carries which."""

    devices = forms.CharField(widget=forms.HiddenInput, max_length=12 * MOST_AT_ONCE)

    def __init__(self, count: int, data: Any = None, **more: Any) -> None:
        super().__init__(data, **more)
        self.count = count
        self.fields["block"].label = gettext("Block them as well: they cannot enrol again")
        self.fields["typed"].label = gettext("number of devices")
        self.fields["typed"].help_text = gettext("Type %(count)d to confirm.") % {"count": count}
        self.fields["typed"].widget.attrs.update(inputmode="numeric", autocomplete="off")

    def clean_typed(self) -> str:
        typed: str = self.cleaned_data["typed"].strip()
        if typed != str(self.count):
            raise forms.ValidationError(gettext("That is not the number of devices."))
        return typed


class BlockForm(forms.Form):
    """Why."""

    reason = forms.CharField(label=_("reason"), required=False, max_length=300)


class LeavingPages:
    """The views, in the look of ``model_admin``."""

    def __init__(self, model_admin: ModelAdmin[Device]) -> None:
        self.model_admin = model_admin

    # One device

    def unenrol(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Ask how, with the device's name typed, and with POST end its management."""
        if not may_unenrol(request):
            raise PermissionDenied
        device = _device(pk)
        form = UnenrolForm(device, request.POST if request.method == "POST" else None)
        if not may_block(request):
            form.forbid_block()
        if request.method == "POST" and form.is_valid():
            self._leave(request, [device], form.cleaned_data)
            return _back_to(device)
        return self._page(request, "unenrol", gettext("Unenrol"), form, device=device)

    def block(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Say what it means, and with POST keep the device out."""
        if not may_block(request):
            raise PermissionDenied
        device = _device(pk)
        form = BlockForm(request.POST if request.method == "POST" else None)
        names = blocking.names_of(device)
        if request.method == "POST" and form.is_valid():
            blocking.block_device(
                device,
                reason=form.cleaned_data["reason"],
                actor=Actor.of_request(request),
                now=timezone.now(),
            )
            self._say(request, gettext("Blocked: it cannot enrol any more."), messages.SUCCESS)
            return _back_to(device)
        more = {"device": device, "names": names, "blocks": blocking.blocks_of(device)}
        return self._page(request, "block", gettext("Block"), form, **more)

    def unblock(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Say what keeps the device out, and with POST let it in again."""
        if not may_unblock(request):
            raise PermissionDenied
        device = _device(pk)
        blocks = blocking.blocks_of(device)
        if request.method == "POST":
            ended = blocking.unblock(blocks, actor=Actor.of_request(request), now=timezone.now())
            text = gettext("It may enrol again.") if ended else gettext("It was not blocked.")
            self._say(request, text, messages.SUCCESS if ended else messages.WARNING)
            return _back_to(device)
        return self._page(request, "unblock", gettext("Unblock"), forms.Form(), device=device, blocks=blocks)

    # Many devices

    def choose(self, request: HttpRequest, ids: list[int]) -> HttpResponse | None:
        """The page that asks about these devices; None, with a message, where they are too many."""
        if len(ids) > MOST_AT_ONCE:
            text = gettext("%(count)d devices are chosen; at most %(most)d are unenrolled at once.")
            self._say(request, text % {"count": len(ids), "most": MOST_AT_ONCE}, messages.ERROR)
            return None
        found = departure.preview(ids)
        kept = ",".join(str(device.pk) for device in found.leaving)
        form = UnenrolManyForm(len(found.leaving), initial={"devices": kept})
        if not may_block(request):
            form.forbid_block()
        return self._ask_many(request, form, found)

    def unenrol_many(self, request: HttpRequest) -> HttpResponse:
        """End the management of the devices that the page named."""
        if not may_unenrol(request):
            raise PermissionDenied
        ids = _numbers(request.POST.get("devices", ""))
        if not ids or len(ids) > MOST_AT_ONCE:
            raise Http404
        form = UnenrolManyForm(len(ids), request.POST)
        if not may_block(request):
            form.forbid_block()
        found = departure.preview(ids)
        if not form.is_valid():
            return self._ask_many(request, form, found)
        self._leave(request, found.leaving, form.cleaned_data, found.left_out)
        return HttpResponseRedirect(reverse("admin:devices_device_changelist"))

    def _ask_many(
        self, request: HttpRequest, form: UnenrolManyForm, found: departure.Preview
    ) -> HttpResponse:
        more = {
            "count": form.count,
            "leaving": found.leaving[:NAMES_SHOWN],
            "more": max(0, len(found.leaving) - NAMES_SHOWN),
            "left_out": found.left_out[:NAMES_SHOWN],
            "left_out_more": max(0, len(found.left_out) - NAMES_SHOWN),
        }
        title = ngettext("Unenrol %(count)d device", "Unenrol %(count)d devices", form.count)
        return self._page(request, "unenrol_many", title % {"count": form.count}, form, **more)

    # Both

    def _leave(
        self,
        request: HttpRequest,
        devices: list[Device],
        values: dict[str, Any],
        left_out: list[tuple[Device, str]] = [],  # noqa: B006 - never changed
    ) -> None:
        actor, now = Actor.of_request(request), timezone.now()
        with transaction.atomic():
            done = _end(devices, values, actor, now)
            if values.get("block"):
                for device in devices:
                    blocking.block_device(device, reason=values["reason"], actor=actor, now=now)
        for device, why in [*left_out, *done.left_out][:20]:
            text = gettext("%(device)s: not possible, %(why)s.") % {"device": device, "why": why}
            self._say(request, text, messages.ERROR)
        if done.leaving:
            self._say(request, _said(values["way"], done.leaving), messages.SUCCESS)

    def _page(
        self, request: HttpRequest, template: str, title: str, form: forms.Form, **more: Any
    ) -> HttpResponse:
        shown = [name for name, field in form.fields.items() if not field.widget.is_hidden]
        context = {
            **self.model_admin.admin_site.each_context(request),
            "opts": self.model_admin.opts,
            "title": title,
            "form": form,
            "adminform": AdminForm(form, [(None, {"fields": shown})], {}),  # type: ignore[arg-type]
            **more,
        }
        return TemplateResponse(request, f"admin/devices/device/{template}.html", context)

    def _say(self, request: HttpRequest, text: str, level: int) -> None:
        self.model_admin.message_user(request, text, level)


def _end(devices: list[Device], values: dict[str, Any], actor: Actor, now: datetime) -> departure.Departure:
    ids = [device.pk for device in devices]
    if values["way"] == _HowForm.REMOVE:
        return departure.remove_profiles(ids, actor=actor, now=now)
    return departure.turn_away(ids, actor=actor, now=now, reason=values["reason"])


def _said(way: str, count: int) -> str:
    if way == _HowForm.REMOVE:
        return ngettext(
            "The command to remove the management profile is queued.",
            "The command to remove the management profile is queued for %(count)d devices.",
            count,
        ) % {"count": count}
    return ngettext(
        "Unenrolled. The device is turned away when it next connects.",
        "Unenrolled. %(count)d devices are turned away when they next connect.",
        count,
    ) % {"count": count}


def _numbers(text: str) -> list[int]:
    """What can be the number of a row, each once."""
    found = (int(one) for one in text.split(",") if one.isdecimal() and len(one) < _DIGITS)
    return list(dict.fromkeys(found))


def _device(pk: int) -> Device:
    device = Device.objects.filter(pk=pk).first()
    if device is None:
        raise Http404
    return device


def _back_to(device: Device) -> HttpResponse:
    return HttpResponseRedirect(reverse("admin:devices_device_change", args=[device.pk]))
