"""The end of an issuer: retired (it issues nothing new) or revoked (nothing of it counts any more).

Retiring can be taken back and harms nobody: certificates stay valid, CRLs go on. Revoking is for good: every
certificate is refused at once, and whoever holds one has to enrol again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from django.db import transaction
from django.db.models import Q

from audit.recording import SERVER, Actor, record
from pki import issuers, revocation, rollover, trust
from pki.models import (
    Certificate,
    CertificateStatus,
    Issuer,
    IssuerCertificate,
    IssuerCertificateKind,
    IssuerKey,
    IssuerKeyState,
    IssuerKind,
    IssuerState,
    Purpose,
    RevocationReason,
)


class RetirementRefused(Exception):
    """It is not done; ``reason`` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Consequences:
    """What ends with an issuer or with one of its key generations.

    ``certificates``: those in force; ``devices``: how many of them are identities of devices, which have to
    enrol again. ``subordinates``: CAs below that end too. ``to_revoke_elsewhere``: certificates that only the
    external CA that signed them can revoke; all of them, since each leads to the same key.
    """

    certificates: int
    devices: int
    subordinates: tuple[Issuer, ...]
    to_revoke_elsewhere: tuple[IssuerCertificate, ...]


def consequences(issuer: Issuer, now: datetime, *, issuer_key: IssuerKey | None = None) -> Consequences:
    """What would be refused if the issuer, or only one key generation of it, were no longer trusted."""
    below = tuple(subordinates(issuer)) if issuer_key is None else ()
    concerned = Q(issuer_key=issuer_key) if issuer_key else Q(issuer_key__issuer__in=[issuer, *below])
    live = Certificate.objects.filter(concerned, status=CertificateStatus.ISSUED, not_after__gt=now).exclude(
        issuers.OF_THIS_SERVER
    )
    return Consequences(
        certificates=live.count(),
        devices=live.filter(purpose=Purpose.MDM_IDENTITY).count(),
        subordinates=below,
        to_revoke_elsewhere=tuple(_signed_elsewhere(issuer, issuer_key, now)),
    )


def subordinates(issuer: Issuer) -> Iterator[Issuer]:
    """The CAs of ours below an issuer, level by level, without those that are revoked already."""
    level = [issuer.pk]
    while level:
        found = list(
            Issuer.objects.filter(parent__in=level).exclude(state=IssuerState.REVOKED).order_by("slug")
        )
        yield from found
        level = [row.pk for row in found]


def _signed_elsewhere(
    issuer: Issuer, issuer_key: IssuerKey | None, now: datetime
) -> Iterator[IssuerCertificate]:
    rows = IssuerCertificate.objects.select_related("issuer_key").filter(
        issuer_key__issuer=issuer,
        kind=IssuerCertificateKind.SUBORDINATE,
        signed_by=None,
        not_after__gt=now,
    )
    if issuer.kind == IssuerKind.EXTERNAL:
        yield from rows.filter(issuer_key=issuer_key) if issuer_key else rows


# --- Retiring --------------------------------------------------------------------------------------------


def retire(issuer: Issuer, *, actor: Actor, now: datetime) -> Issuer:
    """Issue nothing new from now on. What was issued stays valid, and CRLs go on being published.

    Raises :class:`RetirementRefused`.
    """
    with transaction.atomic():
        issuer = _locked(issuer)
        if issuer.kind == IssuerKind.TRUST_ONLY:
            raise RetirementRefused("it issues nothing here: it is only trusted")
        if issuer.state != IssuerState.ACTIVE:
            raise RetirementRefused("only an active issuer can be retired")
        _set_state(issuer, IssuerState.RETIRED, retired_at=now)
        record("issuer.retired", actor=actor, target=issuer, at=now)
    return issuer


def resume(issuer: Issuer, *, actor: Actor, now: datetime) -> Issuer:
    """Let a retired issuer issue again. Raises :class:`RetirementRefused`."""
    with transaction.atomic():
        issuer = _locked(issuer)
        if issuer.state != IssuerState.RETIRED:
            raise RetirementRefused("only a retired issuer can be taken into use again")
        _set_state(issuer, IssuerState.ACTIVE, retired_at=None)
        record("issuer.resumed", actor=actor, target=issuer, at=now)
    return issuer


# --- Revoking --------------------------------------------------------------------------------------------


def revoke_issuer(issuer: Issuer, *, reason: RevocationReason, actor: Actor, now: datetime) -> Consequences:
    """Revoke an issuer and all that it issued; returns what that concerned.

    Its CA certificates go on the CRL of its parent, all certificates in force on its own last CRLs, which are
    valid until its certificate ends. CAs of ours below it go with it. Of a CA that is only trusted nothing
    that it issued is accepted any more. Raises :class:`RetirementRefused`.
    """
    with transaction.atomic():
        issuer = _locked(issuer)
        if issuer.state == IssuerState.REVOKED:
            raise RetirementRefused("the issuer is revoked already")
        concerned = consequences(issuer, now)
        for row in (issuer, *concerned.subordinates):
            _end(_locked(row), reason=reason, actor=actor, now=now)
        for row in (issuer, *concerned.subordinates):
            _publish_last_lists(row, now)
    trust.forget_anchors()
    return concerned


def _end(issuer: Issuer, *, reason: RevocationReason, actor: Actor, now: datetime) -> None:
    _set_state(issuer, IssuerState.REVOKED, revoked_at=now)
    IssuerKey.objects.filter(issuer=issuer, state=IssuerKeyState.NEXT).update(
        state=IssuerKeyState.CLOSED, closed_at=now
    )
    revoked = _revoke_issued(issuer, reason, now)
    authorities = [
        certificate.serial_number
        for issuer_key in issuer.keys.select_related("issuer")
        for certificate in rollover.revoke_authorities(issuer_key, reason=reason, actor=actor, now=now)
    ]
    record(
        "issuer.revoked",
        actor=actor,
        target=issuer,
        reason=reason.value,
        details={"certificates": revoked, "authorities": authorities},
        at=now,
    )


def _revoke_issued(issuer: Issuer, reason: RevocationReason, now: datetime) -> int:
    """In one statement, however many there are. What a foreign CA issued is refused by its state alone."""
    return (
        Certificate.objects.filter(issuer_key__issuer=issuer, foreign=False, not_after__gt=now)
        .exclude(status=CertificateStatus.REVOKED)
        .update(status=CertificateStatus.REVOKED, revoked_at=now, revocation_reason=reason)
    )


def _publish_last_lists(issuer: Issuer, now: datetime) -> None:
    for issuer_key in issuer.keys.select_related("issuer"):
        if issuer_key.certificates.filter(is_current=True).exists():
            revocation.publish_or_leave_due(issuer_key, now)


def settle_revoked_issuers(now: datetime) -> int:
    """Revoke what was issued in the very moment in which its issuer was revoked; returns how many.

    It was never accepted here, since its issuer is not; this puts it on the last CRL as well.
    """
    late = Issuer.objects.filter(
        state=IssuerState.REVOKED,
        keys__issued__status=CertificateStatus.ISSUED,
        keys__issued__foreign=False,
        keys__issued__not_after__gt=now,
    )
    settled = 0
    for issuer in late.distinct():
        with transaction.atomic():
            locked = _locked(issuer)
            count = _revoke_issued(locked, RevocationReason.UNSPECIFIED, now)
            if count:
                _publish_last_lists(locked, now)
                record(
                    "issuer.revoked",
                    actor=SERVER,
                    target=locked,
                    reason="issued while the issuer was being revoked",
                    details={"certificates": count},
                    at=now,
                )
        settled += count
    return settled


def _locked(issuer: Issuer) -> Issuer:
    return Issuer.objects.select_for_update(of=("self",)).get(pk=issuer.pk)


def _set_state(issuer: Issuer, state: IssuerState, **times: datetime | None) -> None:
    issuer.state = state
    for name, value in times.items():
        setattr(issuer, name, value)
    issuer.save(update_fields=["state", *times])
