"""Revocation, and the lists that tell relying parties (RFC 5280 section 5)."""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Max, Q

from audit.recording import Actor, record
from pki import keys
from pki.core.crl import RevokedCertificate, build_crl
from pki.models import (
    Certificate,
    CertificateStatus,
    Crl,
    IssuerCertificate,
    IssuerCertificateKind,
    IssuerKey,
    IssuerKeyState,
    IssuerState,
    RevocationReason,
)

logger = logging.getLogger(__name__)

# A list is valid for a week (per issuer) and replaced every day.
REPUBLISH_AFTER = timedelta(hours=24)
KEPT_LISTS = 10
_ANSWERED_FOR = (
    IssuerKeyState.NEXT,
    IssuerKeyState.CURRENT,
    IssuerKeyState.PREVIOUS,
    IssuerKeyState.CLOSED,
)


class RevocationRefused(Exception):
    """The certificate cannot be revoked; ``reason`` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def revoke(certificate: Certificate, *, reason: RevocationReason, actor: Actor, now: datetime) -> Certificate:
    """Revoke one certificate and publish the new CRL, in one transaction; returns the row as it is now.

    Superseded is not revoked: that certificate's device has a newer one, and it can be revoked all the same.
    A certificate that another CA issued is refused here from now on; its CA is not told.
    Raises :class:`RevocationRefused` where it is revoked already.
    """
    with transaction.atomic():
        if not revoke_all([certificate.pk], reason=reason, actor=actor, now=now):
            raise RevocationRefused("the certificate is revoked already")
        certificate.refresh_from_db()
    return certificate


def revoke_all(ids: Collection[int], *, reason: RevocationReason, actor: Actor, now: datetime) -> int:
    """Revoke certificates by primary key, each recorded, with one new CRL per issuer key.

    Returns how many were not revoked before. Where a key cannot sign now (its token is away), they are
    revoked nevertheless, and its list follows as soon as it can.
    """
    with transaction.atomic():
        rows = list(
            Certificate.objects.select_for_update(of=("self",))
            .select_related("issuer_key")
            .filter(pk__in=ids)
            .exclude(status=CertificateStatus.REVOKED)
            .order_by("pk")
        )
        for certificate in rows:
            certificate.status = CertificateStatus.REVOKED
            certificate.revoked_at = now
            certificate.revocation_reason = reason
            certificate.save(update_fields=["status", "revoked_at", "revocation_reason"])
            record(
                "certificate.revoked",
                actor=actor,
                target=certificate,
                reason=reason.value,
                details={"serial_number": certificate.serial_number, "purpose": certificate.purpose},
                at=now,
            )
        for issuer_key in {row.issuer_key_id: row.issuer_key for row in rows}.values():
            publish_or_leave_due(issuer_key, now)
    return len(rows)


def publish_or_leave_due(issuer_key: IssuerKey, now: datetime) -> Crl | None:
    """Publish the CRL; where the key cannot sign now, the sweep does it as soon as it can.

    None where it was not published, and for a key that is only trusted.
    """
    if not issuer_key.is_ours:
        return None
    try:
        with transaction.atomic():
            return publish_crl(issuer_key, now)
    except keys.CANNOT_SIGN:
        logger.exception("no CRL of %s: its private key cannot sign now", issuer_key)
        IssuerKey.objects.filter(pk=issuer_key.pk).update(crl_due=True)
        return None


def publish_crl(issuer_key: IssuerKey, now: datetime) -> Crl:
    """Sign and store the next CRL of one key generation; its number only rises.

    Holds the revoked certificates of that key, those of CAs below among them, until they have expired and one
    more list has said so. The list of an issuer that is itself revoked is the last one: it is valid as long
    as the issuer's certificate. Raises any of :data:`pki.keys.CANNOT_SIGN`.
    """
    with transaction.atomic():
        # The lock comes before the rows are read: the list with the higher number knows the later revocation.
        locked = (
            IssuerKey.objects.select_for_update(of=("self",)).select_related("issuer").get(pk=issuer_key.pk)
        )
        number = locked.crl_number + 1
        revoked = _revoked(locked, _listed_after(locked, now), now)
        authority = _signing_certificate(locked)
        next_update = now + timedelta(days=locked.issuer.crl_validity_days)
        if locked.issuer.state == IssuerState.REVOKED:
            next_update = max(next_update, authority.not_after)
        der = build_crl(
            revoked,
            number=number,
            this_update=now,
            next_update=next_update,
            issuer_certificate=bytes(authority.der),
            private_key=keys.issuer_private_key(locked),
        )
        IssuerKey.objects.filter(pk=locked.pk).update(crl_number=number, crl_due=False)
        issuer_key.crl_number = number
        crl = Crl.objects.create(
            issuer_key=locked,
            number=number,
            this_update=now,
            next_update=next_update,
            der=der,
            entries=len(revoked),
        )
        Crl.objects.filter(issuer_key=locked, number__lte=number - KEPT_LISTS).delete()
    return crl


def _listed_after(issuer_key: IssuerKey, now: datetime) -> datetime:
    """A revoked certificate that ended before that leaves the list (RFC 5280 section 3.3).

    It is to stand on one scheduled list after its end. What the last list had said is over is gone, but not
    before a scheduled list has followed: several revocations within a day do not count as that.
    """
    scheduled = now - REPUBLISH_AFTER
    last = Crl.objects.filter(issuer_key=issuer_key).order_by("-number").values_list("this_update", flat=True)
    return min(scheduled, last.first() or scheduled)


def _revoked(issuer_key: IssuerKey, ended_after: datetime, now: datetime) -> list[RevokedCertificate]:
    """What stands on the list of a key: certificates that it issued, and those of CAs that it signed."""
    issued = Certificate.objects.filter(
        issuer_key=issuer_key,
        status=CertificateStatus.REVOKED,
        foreign=False,
        not_after__gt=ended_after,
    )
    authorities = IssuerCertificate.objects.filter(
        signed_by=issuer_key, revoked_at__isnull=False, not_after__gt=ended_after
    )
    columns = ("serial_number", "revoked_at", "revocation_reason")
    rows = [
        *authorities.order_by("pk").values_list(*columns),
        *issued.order_by("pk").values_list(*columns),
    ]
    return [
        RevokedCertificate(int(serial_number, 16), revoked_at or now, reason or "unspecified")
        for serial_number, revoked_at, reason in rows
    ]


def _signing_certificate(issuer_key: IssuerKey) -> IssuerCertificate:
    return issuer_key.certificates.get(
        is_current=True, kind__in=(IssuerCertificateKind.SELF_SIGNED, IssuerCertificateKind.SUBORDINATE)
    )


def current_crl(issuer_key: IssuerKey) -> Crl:
    """The newest published list of a key generation. Raises ``Crl.DoesNotExist``."""
    return Crl.objects.filter(issuer_key=issuer_key).order_by("-number")[:1].get()


def publish_due_crls(now: datetime) -> int:
    """Publish the lists that are missing, overdue or older than a day; returns how many.

    The last list of a revoked issuer stays. A key that cannot sign is logged, and the others get their lists
    all the same.
    """
    due = (
        IssuerKey.objects.filter(keys.OURS, state__in=_ANSWERED_FOR)
        .annotate(published_at=Max("crls__this_update"))
        .filter(
            Q(published_at=None)
            | Q(crl_due=True)
            | Q(published_at__lte=now - REPUBLISH_AFTER) & ~Q(issuer__state=IssuerState.REVOKED)
        )
        .filter(certificates__is_current=True)
        .distinct()
    )
    published = 0
    for issuer_key in due:
        try:
            publish_crl(issuer_key, now)
        except keys.CANNOT_SIGN:
            logger.exception("no CRL of %s: its private key cannot sign now", issuer_key)
        else:
            published += 1
    return published
