"""CA certificates, CRLs and OCSP over HTTP (RFC 5280 section 4.2.2.1, RFC 2585, RFC 6960 appendix A)."""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime

from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.http.request import UnreadablePostError
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404
from django.utils import timezone
from django.utils.cache import get_conditional_response
from django.utils.http import http_date
from django.views.decorators.http import require_GET, require_POST, require_safe

from pki.core.certificates import encode_pem
from pki.core.ocsp import MAX_REQUEST, RESPONSE_TYPE
from pki.issuers import OWN_KINDS, IssuerMissing, chain_of
from pki.models import Crl, IssuerCertificate, IssuerKeyState, IssuerKind
from pki.ocsp import Answer, answer

CACHE_CONTROL = "public, max-age=300"
# A revocation is on the list at once; a cache in between may delay it by this much.
CRL_CACHE_CONTROL = "public, max-age=60, must-revalidate"
_MAX_ENCODED = 4 * MAX_REQUEST


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
def crl(request: HttpRequest, slug: str, generation: int) -> HttpResponseBase:
    """The newest CRL of one key generation, DER; earlier generations go on answering.

    Who has it already is told so, without its being read.
    """
    row = (
        Crl.objects.filter(issuer_key__issuer__slug=slug, issuer_key__generation=generation)
        .only("number", "this_update", "next_update")
        .first()
    )
    if row is None:
        raise Http404
    etag, changed_at = f'"{generation}-{row.number}"', int(row.this_update.timestamp())
    response = get_conditional_response(request, etag=etag, last_modified=changed_at)
    if response is None:
        der = bytes(Crl.objects.values_list("der", flat=True).get(pk=row.pk))
        response = _file(der, "application/pkix-crl", f"{slug}-{generation}.crl")
    response.headers["Cache-Control"] = CRL_CACHE_CONTROL
    response.headers["ETag"] = etag
    response.headers["Last-Modified"] = http_date(changed_at)
    return response


@require_POST
def ocsp(request: HttpRequest, slug: str) -> HttpResponse:
    """An OCSPRequest in the body (RFC 6960 appendix A.1.1)."""
    length = request.META.get("CONTENT_LENGTH") or "0"
    if not length.isdecimal():
        return HttpResponse(status=400, content_type="text/plain")
    if int(length) > MAX_REQUEST:
        return HttpResponse(status=413, content_type="text/plain")
    try:
        body = request.read(MAX_REQUEST)
    except UnreadablePostError:
        return HttpResponse(status=400, content_type="text/plain")
    return _status_response(_answer(slug, body, timezone.now()))


@require_GET
def ocsp_by_get(request: HttpRequest, slug: str, encoded: str) -> HttpResponse:
    """An OCSPRequest in the address, in Base64: what caches in between can keep (RFC 5019 section 5)."""
    if len(encoded) > _MAX_ENCODED:
        return HttpResponse(status=414, content_type="text/plain")
    now = timezone.now()
    answer = _answer(slug, _from_base64(encoded), now)
    response = _status_response(answer)
    if answer.fresh_until is not None and answer.produced_at is not None:
        seconds = int((answer.fresh_until - now).total_seconds())
        response.headers["Cache-Control"] = f"public, no-transform, must-revalidate, max-age={seconds}"
        response.headers["Expires"] = http_date(answer.fresh_until.timestamp())
        response.headers["Last-Modified"] = http_date(answer.produced_at.timestamp())
        response.headers["ETag"] = f'"{hashlib.sha256(answer.body).hexdigest()}"'
    return response


def _answer(slug: str, request: bytes, now: datetime) -> Answer:
    try:
        return answer(slug, request, now)
    except IssuerMissing:
        raise Http404 from None


def _from_base64(encoded: str) -> bytes:
    """The request in an address; nothing, which is no request either, where it is no Base64."""
    # Some leave out the padding; a "+" that was not escaped may have become a space.
    text = encoded.replace(" ", "+").rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        return b""


def _status_response(answer: Answer) -> HttpResponse:
    """Faults are said in the answer itself; HTTP says that there is one (RFC 6960 appendix A.2)."""
    return HttpResponse(answer.body, content_type=RESPONSE_TYPE, headers={"Cache-Control": "no-store"})


def _file(content: bytes, content_type: str, name: str) -> HttpResponse:
    return HttpResponse(
        content,
        content_type=content_type,
        headers={"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": CACHE_CONTROL},
    )
