"""Which rules an address has: the SCEP services, one for each issuer of ours at least."""

from __future__ import annotations

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet

from audit import recording
from audit.recording import Actor
from pki import issuers
from pki.models import Issuer, IssuerKind
from scep import webhooks
from scep.models import Mode, ScepService

# The most that each number of a service may be; the least is 1.
LIMITS = {"pending_days": 90, "validity_days": 3650, "renewal_window_days": 3650, "clock_minutes": 1440}


class ServiceMissing(Exception):
    """There is no such address, or it is turned off."""


class ServiceRefused(Exception):
    """A service cannot be so; ``reason`` says why, for who asked."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def find(slug: str | None) -> ScepService:
    """The service at ``/scep/<slug>/``, or at ``/scep/``, with its issuer.

    Every issuer of ours has one of its own name; it is made when it is first asked for. Raises
    :class:`ServiceMissing`.
    """
    service = _named(_default_slug() if slug is None else slug)
    if service is None or not service.enabled:
        raise ServiceMissing(f"there is no SCEP service {slug}")
    return service


def address(service: ScepService) -> str:
    """What clients are told."""
    return f"{settings.BRAMLEY_PUBLIC_URL}/scep/{service.slug}/"


def of_issuer(issuer: Issuer) -> ScepService:
    """The service of an issuer's own name; made where there is none."""
    service, _created = ScepService.objects.get_or_create(slug=issuer.slug, defaults={"issuer": issuer})
    return service


def ensure() -> None:
    """Make the service of every issuer of ours that has none of its name yet."""
    taken = ScepService.objects.values("slug")
    for issuer in _own_issuers().exclude(slug__in=taken):
        of_issuer(issuer)


def save(service: ScepService, *, actor: Actor) -> ScepService:
    """Keep a service, new or changed; audited. Validated by ``full_clean`` before.

    One that asks a webhook gets a secret at the first time. Raises :class:`ServiceRefused`.
    """
    verify(service.slug, service.issuer)
    with transaction.atomic():
        created = service.pk is None
        if service.challenge_mode == Mode.WEBHOOK and service.webhook_secret_sealed is None:
            webhooks.give_secret(service)
        service.save()
        recording.record(
            "scep_service.created" if created else "scep_service.changed",
            actor=actor,
            target=service,
            details={
                "issuer": service.issuer.slug,
                "enabled": service.enabled,
                "challenge_mode": str(service.challenge_mode),
                "approval": str(service.approval),
                "capabilities": list(service.capabilities),
            },
        )
    return service


def verify(slug: str, issuer: Issuer) -> None:
    """Whether an issuer may have a service of this name. Raises :class:`ServiceRefused`."""
    if issuer.kind == IssuerKind.TRUST_ONLY:
        raise ServiceRefused("that issuer does not issue certificates")
    if Issuer.objects.filter(slug=slug).exclude(pk=issuer.pk).exists():
        raise ServiceRefused(f"{slug} is the name of another issuer: its address would be taken")


def _named(slug: str) -> ScepService | None:
    service = ScepService.objects.select_related("issuer").filter(slug=slug).first()
    if service is not None:
        return service
    issuer = _own_issuers().filter(slug=slug).first()
    if issuer is None:
        return None
    return of_issuer(issuer)


def _default_slug() -> str:
    try:
        return issuers.default_issuer().slug
    except issuers.IssuerMissing as missing:
        raise ServiceMissing(str(missing)) from None


def _own_issuers() -> QuerySet[Issuer]:
    return Issuer.objects.exclude(kind=IssuerKind.TRUST_ONLY)
