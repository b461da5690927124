"""What people fill in before they enrol."""

from __future__ import annotations

from django import forms
from django.utils.translation import gettext_lazy as _

from enrollment.core.access import MAX_CODE


class CodeForm(forms.Form):
    """A code, typed on a phone: no correction, no capitals at the beginning of sentences."""

    code = forms.CharField(
        label=_("Code"),
        max_length=2 * MAX_CODE,
        widget=forms.TextInput(
            attrs={
                "autocomplete": "off",
                "autocapitalize": "characters",
                "autocorrect": "off",
                "spellcheck": "false",
            }
        ),
    )


class SignInForm(forms.Form):
    """Name and password of an account of this server."""

    username = forms.CharField(
        label=_("Name"),
        max_length=150,
        widget=forms.TextInput(
            attrs={
                "autocomplete": "username",
                "autocapitalize": "none",
                "autocorrect": "off",
                "spellcheck": "false",
            }
        ),
    )
    password = forms.CharField(
        label=_("Password"),
        max_length=1000,
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password"}),
    )
