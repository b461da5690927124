"""What the admin pages of pki share: cells, links, downloads, who acts."""

from __future__ import annotations

from typing import Any

from django import forms
from django.http import Http404, HttpResponse
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext

from pki.core.certificates import encode_pem
from pki.core.names import NameRefused, verify_name_value


def certifiable(value: str) -> str:
    """What may stand in the name of a certificate."""
    try:
        verify_name_value(value)
    except NameRefused as refused:
        raise forms.ValidationError(
            gettext("It stands in the certificate, which cannot hold it: %(reason)s.")
            % {"reason": refused.reason}
        ) from refused
    return value


def code(text: str) -> SafeString:
    """In the type of numbers and fingerprints."""
    return format_html("<code>{}</code>", text)


def lines(found: Any) -> SafeString | str:
    """One below the other; a dash for none."""
    return format_html_join("", "<div>{}</div>", ((line,) for line in found)) or "-"


def link_to(view: str, pk: Any, text: str) -> SafeString | str:
    """The text, linked where the view exists."""
    try:
        return format_html('<a href="{}">{}</a>', reverse(view, args=[pk]), text)
    except NoReverseMatch:
        return text


def link_to_list(view: str, parameter: str, value: Any) -> SafeString | str:
    """A link to a list that is filtered by a value."""
    try:
        return format_html('<a href="{}?{}={}">{}</a>', reverse(view), parameter, value, gettext("show"))
    except NoReverseMatch:
        return str(value)


def download_links(view: str, pk: Any) -> SafeString:
    """Links to a certificate as PEM and as DER, at a view that takes the form."""
    links = ((reverse(view, args=[pk, form]), form.upper()) for form in ("pem", "der"))
    return format_html_join(" · ", '<a href="{}">{}</a>', links)


def certificate_file(der: bytes, name: str, form: str) -> HttpResponse:
    """A certificate as a download: ``pem`` or ``der``."""
    if form == "pem":
        return file_of(encode_pem(der).encode(), "application/x-pem-file", f"{name}.pem")
    if form == "der":
        return file_of(der, "application/pkix-cert", f"{name}.cer")
    raise Http404


def file_of(content: bytes, content_type: str, name: str) -> HttpResponse:
    """A download."""
    return HttpResponse(
        content,
        content_type=content_type,
        headers={"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"},
    )
