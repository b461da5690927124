"""What stands in certificates, in words for administrators, with the names that other programs use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from django.utils.functional import Promise
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

KEY_USAGES: Mapping[str, str | Promise] = {
    "digitalSignature": _("signatures, as in TLS and MDM (digitalSignature)"),
    "nonRepudiation": _("signatures of persons (nonRepudiation)"),
    "keyEncipherment": _("receiving keys, as in SCEP; RSA keys only (keyEncipherment)"),
    "dataEncipherment": _("receiving data; RSA keys only (dataEncipherment)"),
    "keyAgreement": _("agreeing on keys; elliptic curves only (keyAgreement)"),
    "keyCertSign": _("signing certificates (keyCertSign)"),
    "cRLSign": _("signing CRLs (cRLSign)"),
}
EXTENDED_KEY_USAGES: Mapping[str, str | Promise] = {
    "clientAuth": _("client in TLS, device in MDM (clientAuth)"),
    "serverAuth": _("server in TLS (serverAuth)"),
    "emailProtection": _("mail (emailProtection)"),
    "codeSigning": _("signing software (codeSigning)"),
    "OCSPSigning": _("signing OCSP answers (OCSPSigning)"),
}
NAME_PARTS: Mapping[str, str | Promise] = {
    "CN": _("common name (CN)"),
    "O": _("organisation (O)"),
    "OU": _("organisational unit (OU)"),
    "C": _("country (C)"),
    "ST": _("state or province (ST)"),
    "L": _("place (L)"),
    "STREET": _("street (STREET)"),
    "SN": _("surname (SN)"),
    "GN": _("given name (GN)"),
    "T": _("title (T)"),
    "UID": _("user ID (UID)"),
    "DC": _("domain component (DC)"),
    "serialNumber": _("serial number of a device (serialNumber)"),
    "emailAddress": _("mail address (emailAddress)"),
}
ALTERNATIVE_NAMES: Mapping[str, str | Promise] = {
    "DNS": _("names in the DNS"),
    "email": _("mail addresses"),
    "URI": _("addresses of the web and other URIs"),
    "IP": _("IP addresses"),
}


def in_words(values: Iterable[str], words: Mapping[str, str | Promise]) -> str:
    """The values in the order of the words, and then those that have none."""
    known = set(values)
    found = [str(text) for value, text in words.items() if value in known]
    return ", ".join([*found, *sorted(known - set(words))]) or gettext("none")
