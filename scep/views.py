"""SCEP over HTTP (RFC 8894 section 4): by GET, and PKIOperation by POST too."""

from __future__ import annotations

from django.http import Http404, HttpRequest, HttpResponse
from django.http.request import UnreadablePostError
from django.utils import timezone

from audit import recording
from audit.addresses import client_address
from pki import issuers
from pki.core import cms
from scep import operations, recipients, services, standing, throttle
from scep.core import capabilities, wire
from scep.models import ScepService
from scep.standing import Standing


def scep(request: HttpRequest, slug: str | None = None) -> HttpResponse:
    """``/scep/`` and ``/scep/<service>/``."""
    if request.method not in {"GET", "POST"}:
        return _plain(405, "method not allowed", {"Allow": "GET, POST"})
    try:
        query = wire.decode_query(request.META.get("QUERY_STRING", ""))
    except wire.WireError as fault:
        return _plain(400, str(fault))
    try:
        return _answer(request, slug, query)
    except (services.ServiceMissing, issuers.IssuerMissing):
        raise Http404 from None
    except recipients.NotReady as fault:
        recording.refuse("scep", str(fault), remote_addr=client_address(request))
        return _plain(503, "not ready", {"Retry-After": "60"})


def _answer(request: HttpRequest, slug: str | None, query: wire.Query) -> HttpResponse:
    # A POST can only be a PKIOperation; some clients leave the name out, some send the message twice.
    operation = query.operation or ("PKIOperation" if request.method == "POST" else "")
    if operation == "PKIOperation":
        return _pki_operation(request, slug, query)
    stands = standing.find(slug)
    if request.method != "GET":
        return _plain(400, "unknown operation")
    now = timezone.now()
    match operation:
        case "GetCACaps":
            keywords = capabilities.advertised(stands.service.capabilities, next_ca=stands.has_next)
            return HttpResponse(
                capabilities.encode_capabilities(keywords), content_type=capabilities.CONTENT_TYPE
            )
        case "GetCACert":
            return _ca_certificates(standing.ca_certificates(stands, now))
        case "GetNextCACert":
            following = recipients.next_ca_certificates(stands.service, now)
            if following is None:
                return _plain(404, "there is no next CA certificate")
            return HttpResponse(following, content_type=wire.NEXT_CA_CERTIFICATES)
    return _plain(400, "unknown operation")


def _ca_certificates(answer: recipients.CaCertificates) -> HttpResponse:
    if answer.single:
        return HttpResponse(answer.certificates[0], content_type=wire.CA_CERTIFICATE)
    return HttpResponse(cms.degenerate(answer.certificates), content_type=wire.CA_CERTIFICATES)


def _pki_operation(request: HttpRequest, slug: str | None, query: wire.Query) -> HttpResponse:
    now = timezone.now()
    stands, certain = standing.remembered(slug), False
    if stands is None or _wrong_method(request, stands):
        stands, certain = standing.find(slug), True
        if wrong := _wrong_method(request, stands):
            return wrong
    remote_addr = client_address(request)
    if wait := throttle.seconds_to_wait(remote_addr, now):
        return _too_many_failures(wait)
    who = {"remote_addr": remote_addr, "user_agent": request.META.get("HTTP_USER_AGENT", "")}
    try:
        body = _body(request) if request.method == "POST" else wire.decode_get_message(query.message)
        reply = operations.pki_operation(stands, body, certain=certain, now=now, **who)
    except wire.WireError as fault:
        standing.find(slug)
        status = 413 if isinstance(fault, wire.TooLarge) else 400
        recording.refuse("scep", str(fault), remote_addr=remote_addr, now=now)
        reply = operations.Reply(status, "text/plain", f"{fault}\n".encode(), failed=True)
    except standing.Outdated:
        stands = standing.find(slug)
        if wrong := _wrong_method(request, stands):
            return wrong
        reply = operations.pki_operation(stands, body, certain=True, now=now, **who)
    if reply.failed:
        counted = throttle.count_failure(remote_addr, now)
        if counted is throttle.Counted.BEYOND:
            return _too_many_failures(throttle.seconds_left(now))
        if counted is throttle.Counted.REACHED:
            recording.refuse("scep", "too many failures", remote_addr=remote_addr, now=now)
    headers = {"Retry-After": str(reply.retry_after)} if reply.retry_after else None
    return HttpResponse(reply.body, status=reply.status, content_type=reply.content_type, headers=headers)


def _too_many_failures(wait: int) -> HttpResponse:
    return _plain(429, "too many failures", {"Retry-After": str(wait)})


def _wrong_method(request: HttpRequest, stands: Standing) -> HttpResponse | None:
    """The answer to a PKIOperation that comes by a way that the service does not take."""
    methods = _methods(stands.service)
    if request.method in methods:
        return None
    return _plain(405, "method not allowed", {"Allow": ", ".join(methods)})


def _methods(service: ScepService) -> list[str]:
    """By which a PKIOperation may come."""
    by_post = "POSTPKIOperation" in service.capabilities
    return [*(["GET"] if service.allow_get else []), *(["POST"] if by_post else [])]


def _body(request: HttpRequest) -> bytes:
    """The body, of which no more is read than is allowed."""
    length = request.META.get("CONTENT_LENGTH") or "0"
    if not length.isdecimal():
        raise wire.WireError("no length")
    if int(length) > wire.MAX_MESSAGE:
        raise wire.TooLarge("the message is too large")
    try:
        body = request.read()
    except UnreadablePostError:
        raise wire.WireError("the body did not arrive") from None
    if not body:
        raise wire.WireError("no message")
    return body


def _plain(status: int, text: str, headers: dict[str, str] | None = None) -> HttpResponse:
    return HttpResponse(f"{text}\n", status=status, content_type="text/plain", headers=headers)
