"""Is the process up, can it work, and what does it count."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import redis
from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.db.models import Count, Model, QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from commands.models import OUTSTANDING, CommandDelivery
from devices.models import Enrollment
from mdm_project.threshold import is_operator
from pki.models import Certificate, CertificateStatus, IssuerCertificate
from push.models import PushCertificate, PushCertificateState, PushRequest, PushState

logger = logging.getLogger(__name__)

EXPIRING = timedelta(days=30)
METRICS_AGE = 10.0
"""Seconds for which counted figures are handed out again."""


def healthz(request: HttpRequest) -> HttpResponse:
    """200 as long as the process answers."""
    return HttpResponse("ok\n", content_type="text/plain")


def readyz(request: HttpRequest) -> HttpResponse:
    """200 when requests can be served, else 503; JSON that names each part and whether it works."""
    parts = {name: _works(name, check) for name, check in CHECKS.items()}
    ready = all(parts.values())
    return JsonResponse(
        {"ready": ready, **{name: "ok" if works else "failed" for name, works in parts.items()}},
        status=200 if ready else 503,
    )


class NotReady(Exception):
    """A part that requests depend on does not work."""


def verify_database() -> None:
    """One statement. Raises :class:`django.db.DatabaseError`."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


_migrated = threading.Event()


def verify_migrations() -> None:
    """Every migration of this version is applied. Once seen, not asked again. Raises :class:`NotReady`."""
    if _migrated.is_set():
        return
    executor = MigrationExecutor(connection)
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        raise NotReady("migrations are not applied")
    _migrated.set()


def verify_broker() -> None:
    """Redis answers, or the folder of the embedded broker can be written. Raises :class:`NotReady`."""
    if not settings.REDIS_URL:
        if not os.access(settings.BROKER_FOLDER, os.R_OK | os.W_OK | os.X_OK):
            raise NotReady("the folder of the broker cannot be used")
        return
    with redis.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=1, socket_timeout=1) as client:
        client.ping()


CHECKS: dict[str, Callable[[], None]] = {
    "database": verify_database,
    "migrations": verify_migrations,
    "broker": verify_broker,
}


def _works(name: str, check: Callable[[], None]) -> bool:
    try:
        check()
    except (DatabaseError, redis.RedisError, NotReady, OSError) as error:
        logger.warning("not ready: %s: %s", name, type(error).__name__)
        return False
    return True


def metrics(request: HttpRequest) -> HttpResponse:
    """Prometheus text, for this machine and for ``BRAMLEY_TRUSTED_PROXIES``; 403 for others."""
    if not is_operator(request.META):
        return HttpResponse(status=403, content_type="text/plain")
    text = _figures.text() + generate_latest(_process)
    return HttpResponse(text, content_type="text/plain; version=0.0.4; charset=utf-8")


_process = CollectorRegistry(auto_describe=False)
ProcessCollector(registry=_process)


class FiguresOfTheDatabase(Collector):
    """Gauges counted from the rows, so that every process of every machine tells the same."""

    def collect(self) -> Iterator[Metric]:
        now = timezone.now()
        yield _by_state("bramley_enrollments", "Enrollments by state.", Enrollment.objects.all())
        yield _by_state(
            "bramley_deliveries_outstanding",
            "Deliveries of commands that wait for a device, by state.",
            CommandDelivery.objects.filter(state__in=OUTSTANDING),
        )
        due = PushRequest.objects.filter(state=PushState.DUE, due_at__lte=now)
        yield _gauge("bramley_pushes_due", "Pushes that should be sent now.", due.count())
        held = PushRequest.objects.filter(state=PushState.HELD)
        yield _gauge("bramley_pushes_held", "Pushes held: the push certificate does not work.", held.count())
        live = Certificate.objects.filter(
            status=CertificateStatus.ISSUED, not_before__lte=now, not_after__gt=now
        )
        yield _gauge("bramley_certificates_live", "Certificates issued and valid now.", live.count())
        yield _gauge(
            "bramley_certificates_expiring",
            "Of these, those that expire within 30 days.",
            live.filter(not_after__lte=now + EXPIRING).count(),
        )
        yield _expiry(
            "bramley_push_certificate_expiry_timestamp_seconds",
            "When a push certificate expires.",
            [
                (certificate.topic, certificate.not_after.timestamp())
                for certificate in PushCertificate.objects.filter(state=PushCertificateState.ACTIVE)
                if certificate.not_after is not None
            ],
        )
        yield _expiry(
            "bramley_issuer_certificate_expiry_timestamp_seconds",
            "When the certificate of an issuer expires.",
            [
                (
                    f"{certificate.issuer_key.issuer.slug}/{certificate.issuer_key.generation}",
                    certificate.not_after.timestamp(),
                )
                for certificate in IssuerCertificate.objects.filter(is_current=True).select_related(
                    "issuer_key__issuer"
                )
            ],
        )


def _by_state(name: str, text: str, rows: QuerySet[Model]) -> Metric:
    gauge = GaugeMetricFamily(name, text, labels=["state"])
    for row in rows.order_by().values("state").annotate(count=Count("pk")):
        gauge.add_metric([row["state"]], row["count"])
    return gauge


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _expiry(name: str, text: str, values: list[tuple[str, float]]) -> Metric:
    gauge = GaugeMetricFamily(name, text, labels=["name"])
    for label, value in values:
        gauge.add_metric([label], value)
    return gauge


class _Figures:
    """The counted text, kept for :data:`METRICS_AGE` seconds, counted by one thread at a time."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(FiguresOfTheDatabase())
        self._lock = threading.Lock()
        self._text = b""
        self._counted_at = float("-inf")

    def text(self) -> bytes:
        with self._lock:
            if time.monotonic() - self._counted_at > METRICS_AGE:
                self._text = generate_latest(self._registry)
                self._counted_at = time.monotonic()
            return self._text


_figures = _Figures()
