"""What administrators are asked about issuers."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from django import forms
from django.utils.translation import gettext_lazy as _

from pki import issuers
from pki.admin_cells import certifiable
from pki.keys import ALGORITHMS
from pki.models import Issuer, Purpose

if TYPE_CHECKING:  # generic for the type checker only
    _IssuerForm: TypeAlias = forms.ModelForm[Issuer]
else:
    _IssuerForm = forms.ModelForm

MAX_LEAF_DAYS = 3653
MAX_CRL_DAYS = 90


class IssuerForm(_IssuerForm):
    """What may change of an issuer: how it is called, for what it is trusted, how long things are valid."""

    trusted_for = forms.MultipleChoiceField(
        label=_("trusted for"),
        choices=Purpose.choices,
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text=_("Certificates of this issuer are accepted for these purposes."),
    )
    leaf_validity_days = forms.IntegerField(
        label=_("days that a certificate is valid"), min_value=1, max_value=MAX_LEAF_DAYS
    )
    crl_validity_days = forms.IntegerField(
        label=_("days that a CRL is valid"), min_value=2, max_value=MAX_CRL_DAYS
    )

    class Meta:
        model = Issuer
        fields = ["name", "trusted_for", "leaf_validity_days", "crl_validity_days"]


class NewIssuerForm(_IssuerForm):
    """A new root of our own."""

    organization = forms.CharField(label=_("organisation"), max_length=64, required=False)
    algorithm = forms.ChoiceField(
        label=_("key"),
        choices=[(name, name) for name in ALGORITHMS],
        initial=issuers.DEFAULT_ALGORITHM,
        help_text=_("Devices that enrol by SCEP need an issuer with an RSA key."),
    )
    years = forms.IntegerField(
        label=_("years that its certificate is valid"), min_value=1, max_value=issuers.MAX_YEARS, initial=10
    )

    class Meta:
        model = Issuer
        fields = ["name", "slug"]

    def clean_name(self) -> str:
        return certifiable(self.cleaned_data["name"])

    def clean_organization(self) -> str:
        organization: str = self.cleaned_data["organization"].strip()
        return certifiable(organization) if organization else ""


class TrustForm(forms.Form):
    """A CA of another system, whose certificates devices present."""

    file = forms.FileField(
        label=_("certificate file"),
        help_text=_("The CA's certificate and those above it, PEM or DER. No private key is needed."),
    )
    purpose = forms.ChoiceField(label=_("trusted for"), choices=Purpose.choices, initial=Purpose.MDM_IDENTITY)
    name = forms.CharField(label=_("name"), max_length=200, required=False)
