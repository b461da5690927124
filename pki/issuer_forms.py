"""What administrators are asked about issuers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from django import forms
from django.contrib.admin.widgets import AdminTextInputWidget
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from pki import issuers
from pki.admin_cells import certifiable
from pki.keys import ALGORITHMS
from pki.models import Issuer, IssuerKind, IssuerState, Purpose, RevocationReason

if TYPE_CHECKING:  # generic for the type checker only
    _IssuerForm: TypeAlias = forms.ModelForm[Issuer]
else:
    _IssuerForm = forms.ModelForm

MAX_LEAF_DAYS = 3653
MAX_CRL_DAYS = 90
MAX_UPLOAD = 1 << 20
_ALGORITHM_CHOICES = [(name, name) for name in ALGORITHMS]


def _key_location() -> forms.CharField:
    return forms.CharField(
        label=_("keep the key in a token"),
        max_length=500,
        required=False,
        help_text=_(
            "PKCS #11 URI with a label, as in pkcs11:token=ca;object=bramley. Empty: kept here, encrypted."
        ),
    )


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
    """A new issuer of our own: a root, one below another of ours, or one that an external CA certifies."""

    kind = forms.ChoiceField(
        label=_("kind"),
        choices=[
            (IssuerKind.ROOT, _("root: it signs its own certificate")),
            (IssuerKind.SUBORDINATE, _("below an issuer of ours")),
            (IssuerKind.EXTERNAL, _("below an external CA: makes a request that this CA has to sign")),
        ],
        initial=IssuerKind.ROOT,
        widget=forms.RadioSelect,
        required=False,
    )
    parent = forms.ModelChoiceField(
        label=_("issued by"),
        queryset=Issuer.objects.filter(state=IssuerState.ACTIVE).exclude(kind=IssuerKind.TRUST_ONLY),
        required=False,
        help_text=_("Only below an issuer of ours."),
    )
    organization = forms.CharField(label=_("organisation"), max_length=64, required=False)
    algorithm = forms.ChoiceField(
        label=_("key"),
        choices=_ALGORITHM_CHOICES,
        initial=issuers.DEFAULT_ALGORITHM,
        help_text=_("RSA where devices enrol by SCEP: with another key it needs a certificate of its own."),
    )
    years = forms.IntegerField(
        label=_("years that its certificate is valid"),
        min_value=1,
        max_value=issuers.MAX_YEARS,
        initial=10,
        help_text=_("Below an issuer of ours never longer than that one. An external CA decides itself."),
    )
    key_location = _key_location()

    class Meta:
        model = Issuer
        fields = ["name", "slug"]

    def clean_name(self) -> str:
        return certifiable(self.cleaned_data["name"])

    def clean_organization(self) -> str:
        organization: str = self.cleaned_data["organization"].strip()
        return certifiable(organization) if organization else ""

    def clean_kind(self) -> str:
        return self.cleaned_data["kind"] or IssuerKind.ROOT

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if cleaned.get("kind") == IssuerKind.SUBORDINATE and not cleaned.get("parent"):
            self.add_error("parent", gettext("Choose the issuer that signs its certificate."))
        return cleaned


class TrustForm(forms.Form):
    """A CA of another system, whose certificates devices present."""

    file = forms.FileField(
        label=_("certificate file"),
        help_text=_("The CA's certificate and those above it, PEM or DER. No private key is needed."),
    )
    purpose = forms.ChoiceField(label=_("trusted for"), choices=Purpose.choices, initial=Purpose.MDM_IDENTITY)
    name = forms.CharField(label=_("name"), max_length=200, required=False)


# --- The life of an issuer -------------------------------------------------------------------------------


class RenewForm(forms.Form):
    """For how long. ``replaces``: the certificate that was looked at when this was decided."""

    years = forms.IntegerField(label=_("years"), min_value=1, max_value=issuers.MAX_YEARS, initial=10)
    replaces = forms.IntegerField(widget=forms.HiddenInput)


class WhenForm(forms.Form):
    """When the next key takes over."""

    when = forms.ChoiceField(
        label=_("the new key takes over"),
        choices=[
            ("by hand", _("when somebody activates it here")),
            ("at", _("at the time below")),
            ("now", _("at once: devices that do not know it yet cannot check what it issues")),
        ],
        initial="by hand",
        widget=forms.RadioSelect,
    )
    activate_at = forms.DateTimeField(
        label=_("time"),
        required=False,
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
        help_text=_("In your time zone."),
    )

    def leave_out_now(self) -> None:
        """Where the certificate has to come from elsewhere first."""
        when: Any = self.fields["when"]
        when.choices = [choice for choice in when.choices if choice[0] != "now"]

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if (
            cleaned.get("when") == "at"
            and not cleaned.get("activate_at")
            and "activate_at" not in self.errors
        ):
            self.add_error("activate_at", gettext("Say at what time."))
        return cleaned


class RekeyForm(WhenForm):
    """What kind of key, for how long, and when it takes over."""

    algorithm = forms.ChoiceField(label=_("key"), choices=_ALGORITHM_CHOICES)
    years = forms.IntegerField(
        label=_("years that its certificate is valid"),
        min_value=1,
        max_value=issuers.MAX_YEARS,
        initial=10,
    )
    key_location = _key_location()

    field_order = ["algorithm", "years", "key_location", "when", "activate_at"]


class ConfirmForm(forms.Form):
    """Something for good: the short name has to be typed."""

    demand = _("To confirm, type %(slug)s")

    def __init__(self, *args: Any, slug: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.slug = slug
        self.fields["confirm"] = forms.CharField(
            label=self.demand % {"slug": slug},
            widget=AdminTextInputWidget(attrs={"autocomplete": "off"}),
        )

    def clean_confirm(self) -> str:
        typed: str = self.cleaned_data["confirm"]
        if typed.strip() != self.slug:
            raise forms.ValidationError(gettext("That is not the short name of this issuer."))
        return typed


class RevokeIssuerForm(ConfirmForm):
    """Why: everybody who reads the lists is told."""

    reason = forms.ChoiceField(
        label=_("reason"), choices=RevocationReason.choices, initial=RevocationReason.CESSATION
    )


class ImportForm(forms.Form):
    """What the external CA sent back."""

    certificate = forms.FileField(
        label=_("certificate"),
        help_text=_("PEM, DER or PKCS #7. In a PEM file this certificate comes first, the root last."),
    )
    chain = forms.FileField(
        label=_("certificates above it"),
        required=False,
        help_text=_("Only if they are not in the same file, and not known from an earlier import."),
    )
    anchor_is_last = forms.BooleanField(
        label=_("the chain ends at a CA that is no root"),
        required=False,
        help_text=_("Relying parties then have to trust that CA itself."),
    )
