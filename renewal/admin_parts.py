"""What the admin pages of renewals share: pages that ask before they act, and who acts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin.helpers import AdminForm
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils.functional import Promise

from audit.admin import ReadOnlyAdmin
from pki.outlook import Statement
from renewal.campaigns import CampaignRefused
from renewal.identities import NotRenewable
from renewal.permits import PermitRefused

REFUSALS = (CampaignRefused, NotRenewable, PermitRefused)


@dataclass(frozen=True)
class Act:
    """A page that asks before it acts. ``do`` returns what to say afterwards, or refuses."""

    title: str
    button: str
    form: forms.Form
    do: Callable[[dict[str, Any]], str]
    back: str
    crumb: str = ""
    statements: Iterable[Statement] = ()
    danger: bool = False


class AskingAdmin(ReadOnlyAdmin):
    """Rows that only acts change, each with a page that says what it does."""

    def ask(self, request: HttpRequest, act: Act) -> HttpResponse:
        """Show the page, or do it: a refusal is shown with its reason, and nothing has changed."""
        form: Any = act.form
        if request.method == "POST" and form.is_valid():
            try:
                text = act.do(form.cleaned_data)
            except REFUSALS as refused:
                form.add_error(None, sentence(refused.reason))
            else:
                self.message_user(request, text, messages.SUCCESS)
                return HttpResponseRedirect(act.back)
        visible = [name for name, one in form.fields.items() if not one.widget.is_hidden]
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": act.title,
            "act": act,
            "form": form,
            "adminform": AdminForm(form, [(None, {"fields": visible})] if visible else [], {}, (), self),
        }
        return TemplateResponse(request, "admin/renewal/act.html", context)


def posted(request: HttpRequest) -> Any:
    """What was sent; None where the page is only looked at. A form without fields is valid when sent."""
    return request.POST if request.method == "POST" else None


def sentence(reason: str | Promise) -> str:
    """A reason as a sentence: a capital letter and a full stop."""
    text = str(reason)
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
