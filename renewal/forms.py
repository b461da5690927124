"""What administrators are asked about campaigns and renewals."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib.admin.widgets import AdminTextInputWidget
from django.utils.translation import gettext_lazy as _

from pki.issuer_forms import ConfirmForm
from pki.models import Issuer
from renewal.campaigns import MAX_DEVICES_PER_MINUTE
from renewal.permits import DEFAULT_TIME, LONGEST_TIME


def _rate() -> forms.IntegerField:
    return forms.IntegerField(
        label=_("devices a minute"),
        min_value=1,
        max_value=MAX_DEVICES_PER_MINUTE,
        initial=60,
        help_text=_("How many devices are asked in a minute. 60 is gentle: 3,600 devices take an hour."),
    )


class WhichIssuerForm(forms.Form):
    """Whose devices."""

    issuer: forms.ModelChoiceField[Issuer] = forms.ModelChoiceField(
        label=_("issuer"), queryset=Issuer.objects.none(), empty_label=None
    )

    def __init__(self, *args: Any, issuers: list[Issuer], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["issuer"].queryset = Issuer.objects.filter(  # type: ignore[attr-defined]
            pk__in=[issuer.pk for issuer in issuers]
        ).order_by("name")


class StartForm(forms.Form):
    """How a campaign goes. ``new_key``: the key that was looked at when this was decided."""

    devices_per_minute = _rate()
    threshold_percent = forms.IntegerField(
        label=_("enough, in percent"),
        min_value=1,
        max_value=100,
        initial=95,
        help_text=_("So many of the devices have to have the new root before the new key takes over."),
    )
    activate_automatically = forms.BooleanField(
        label=_("let the new key take over by itself"),
        required=False,
        help_text=_("As soon as enough devices have the new root. Otherwise it waits for you."),
    )
    new_key = forms.IntegerField(widget=forms.HiddenInput)


class RateForm(forms.Form):
    """From now on so many."""

    devices_per_minute = _rate()


class InsistForm(ConfirmForm):
    """Something that cuts devices off: the short name has to be typed."""

    demand = _("To do it all the same, type %(slug)s")


class PermitForm(forms.Form):
    """For how long, and why."""

    days = forms.IntegerField(
        label=_("days"),
        min_value=1,
        max_value=LONGEST_TIME.days,
        initial=DEFAULT_TIME.days,
        help_text=_("It ends earlier: as soon as the device has its new certificate."),
    )
    note = forms.CharField(
        label=_("why"),
        max_length=300,
        required=False,
        widget=AdminTextInputWidget(),
        help_text=_("For the record: where the device was, who asked for it."),
    )

    @property
    def time(self) -> timedelta:
        """Of the valid form."""
        return timedelta(days=self.cleaned_data["days"])
