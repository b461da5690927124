"""What administrators are asked about certificate profiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from django import forms
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from pki import certificate_words, profiles
from pki.admin_cells import certifiable
from pki.core.profile import LEAF_KEY_USAGES, MAX_DAYS, RSA_SIZES, RulesRefused, verify_rules
from pki.models import CertificateProfile, Issuer, IssuerKind, Purpose

if TYPE_CHECKING:  # generic for the type checker only
    _ProfileForm: TypeAlias = forms.ModelForm[CertificateProfile]
else:
    _ProfileForm = forms.ModelForm

# The keys of other certificates are made here, or by devices as they are told here.
MADE_BITS = 2048
ANY_BITS = frozenset({Purpose.SERVER_TLS})


def _chosen(words: Any, label: Any, names: Any = None, help_text: Any = "") -> forms.MultipleChoiceField:
    choices = [(name, text) for name, text in words.items() if names is None or name in names]
    return forms.MultipleChoiceField(
        label=label,
        choices=choices,
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text=help_text,
    )


class ProfileForm(_ProfileForm):
    """Every rule as a field of its own. Which of them do not go together is said beside the field."""

    key_usage = _chosen(
        certificate_words.KEY_USAGES,
        _("the key may be used for"),
        LEAF_KEY_USAGES,
        _("What the kind of key cannot do is left out of the certificate."),
    )
    extended_key_usage = _chosen(certificate_words.EXTENDED_KEY_USAGES, _("purposes in the certificate"))
    subject_attributes = _chosen(
        certificate_words.NAME_PARTS,
        _("parts of the name that are kept"),
        help_text=_("Of what the challenge or the session says. The rest is left out."),
    )
    alternative_names = _chosen(
        certificate_words.ALTERNATIVE_NAMES,
        _("kinds of alternative names that are kept"),
        help_text=_("Of what the challenge or the session says. The rest is left out."),
    )
    min_rsa_bits = forms.TypedChoiceField(
        label=_("smallest RSA key"),
        choices=[(bits, _("%(bits)d bits") % {"bits": bits}) for bits in RSA_SIZES],
        coerce=int,
    )
    validity_days = forms.IntegerField(
        label=_("days that a certificate is valid"),
        min_value=1,
        max_value=MAX_DAYS,
        required=False,
        help_text=_("Empty: as the issuer says. Never longer than the issuer's own certificate."),
    )

    class Meta:
        model = CertificateProfile
        fields = [
            "purpose",
            "issuer",
            "validity_days",
            "key_usage",
            "extended_key_usage",
            "subject_attributes",
            "organization",
            "organizational_unit",
            "country",
            "alternative_names",
            "min_rsa_bits",
            "ec_allowed",
            "crl_address",
            "authority_address",
        ]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "issuer" in self.fields:
            issuer: Any = self.fields["issuer"]
            issuer.queryset = Issuer.objects.exclude(kind=IssuerKind.TRUST_ONLY).order_by("slug")
            issuer.empty_label = gettext("every issuer")
        for name, text in (
            ("organization", _("The same in all certificates, whatever is asked for. Empty: as asked for.")),
            ("organizational_unit", _("Likewise.")),
            ("country", _("Likewise; two letters, as in GB.")),
        ):
            if name in self.fields:  # none of them where the page is only looked at
                self.fields[name].help_text = text

    def clean_organization(self) -> str:
        return _fixed(self.cleaned_data["organization"])

    def clean_organizational_unit(self) -> str:
        return _fixed(self.cleaned_data["organizational_unit"])

    def clean_country(self) -> str:
        country: str = self.cleaned_data["country"].strip().upper()
        if country and not (len(country) == 2 and country.isascii() and country.isalpha()):
            raise forms.ValidationError(gettext("A country has two letters, as in GB."))
        return country

    def clean(self) -> dict[str, Any]:
        """What goes together: only the row as a whole says that."""
        cleaned: dict[str, Any] = super().clean() or {}
        purpose = cleaned.get("purpose") or self.instance.purpose
        if self.errors or not purpose:
            return cleaned
        new: bool = self.instance._state.adding
        if new and CertificateProfile.objects.filter(purpose=purpose, issuer=cleaned.get("issuer")).exists():
            self.add_error("purpose", gettext("There are such rules already: change those."))
            return cleaned
        self._clean_rules(purpose, cleaned)
        return cleaned

    def _clean_rules(self, purpose: str, cleaned: dict[str, Any]) -> None:
        rules = profiles.rules_of(CertificateProfile(**{**cleaned, "purpose": purpose}))
        try:
            verify_rules(purpose, rules)
        except RulesRefused as refused:
            field = refused.field if refused.field in self.fields else None
            self.add_error(field, f"{refused.reason[:1].upper()}{refused.reason[1:]}.")
        if rules.min_rsa_bits > MADE_BITS and purpose not in ANY_BITS:
            self.add_error(
                "min_rsa_bits",
                gettext("Keys for this purpose are made with %(bits)d bits: nothing could be issued.")
                % {"bits": MADE_BITS},
            )


def _fixed(value: str) -> str:
    value = value.strip()
    return certifiable(value) if value else ""
