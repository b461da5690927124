"""CA certificates and CRLs over HTTP (RFC 5280 section 4.2.2.1, RFC 2585)."""

from __future__ import annotations

from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils.http import http_date
from django.views.decorators.http import require_safe

from pki.core.certificates import encode_pem
from pki.issuers import OWN_KINDS, chain_of
from pki.models import Crl, IssuerCertificate, IssuerKeyState, IssuerKind

# A revocation is on the list at once; a cache in between may delay it by this much.
CACHE_CONTROL = "public, max-age=300"


@require_safe
def certificate(request: HttpRequest, slug: str) -> HttpResponse:
    """The certificate that an issuer of ours signs with now, DER."""
    row = get_object_or_404(_own(slug), issuer_key__state=IssuerKeyState.CURRENT)
    return _file(bytes(row.der), "application/pkix-cert", f"{slug}.cer")


@require_safe
def key_certificate(request: HttpRequest, slug: str, generation: int) -> HttpResponse:
    """The certificate of one key generation, DER; certificates that it issued name this address."""
    row = get_object_or_404(_own(slug), issuer_key__generation=generation)
    return _file(bytes(row.der), "application/pkix-cert", f"{slug}-{generation}.cer")


@require_safe
def chain(request: HttpRequest, slug: str) -> HttpResponse:
    """The certificate that an issuer of ours signs with now and those above it, PEM, the root last."""
    row = get_object_or_404(_own(slug), issuer_key__state=IssuerKeyState.CURRENT)
    pem = "".join(encode_pem(der) for der in chain_of(row))
    return _file(pem.encode(), "application/x-pem-file", f"{slug}-chain.pem")


def _own(slug: str) -> QuerySet[IssuerCertificate]:
    """What an issuer of ours hands out for its keys."""
    return (
        IssuerCertificate.objects.select_related("signed_by")
        .filter(issuer_key__issuer__slug=slug, is_current=True, kind__in=OWN_KINDS)
        .exclude(issuer_key__issuer__kind=IssuerKind.TRUST_ONLY)
    )


@require_safe
def crl(request: HttpRequest, slug: str, generation: int) -> HttpResponse:
    """The newest CRL of one key generation, DER; earlier generations go on answering."""
    row = Crl.objects.filter(issuer_key__issuer__slug=slug, issuer_key__generation=generation).first()
    if row is None:
        raise Http404
    response = _file(bytes(row.der), "application/pkix-crl", f"{slug}-{generation}.crl")
    response.headers["Last-Modified"] = http_date(row.this_update.timestamp())
    return response


def _file(content: bytes, content_type: str, name: str) -> HttpResponse:
    return HttpResponse(
        content,
        content_type=content_type,
        headers={"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": CACHE_CONTROL},
    )
