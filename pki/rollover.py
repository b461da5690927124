"""Renew and re-key: a new certificate for the same key, and a new key that takes over from the old one.

Generations of a key go NEXT → CURRENT → PREVIOUS → CLOSED, and each step is taken once, whoever takes it.
"""

from __future__ import annotations

import logging
from datetime import datetime

from cryptography import x509
from django.db import transaction

from audit.recording import SERVER, Actor, record
from pki import issuers, keys, revocation
from pki.core.algorithms import PrivateKey
from pki.core.authority import Term, certify_again, certify_new_key
from pki.core.scan import Malformed
from pki.models import (
    Issuer,
    IssuerCertificate,
    IssuerCertificateKind,
    IssuerKey,
    IssuerKeyState,
    IssuerKind,
    IssuerState,
    RevocationReason,
)

logger = logging.getLogger(__name__)

SELF_MADE = frozenset({IssuerKind.ROOT, IssuerKind.SUBORDINATE})


class RolloverRefused(Exception):
    """It is not done; ``reason`` says why, in words for an administrator."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


# --- The same key, a new certificate ---------------------------------------------------------------------


def renew(
    issuer: Issuer,
    *,
    actor: Actor,
    now: datetime,
    years: int | None = None,
    replaces: int | None = None,
) -> IssuerCertificate:
    """Make a new certificate for the key in use: same name, key identifier and key usage, byte by byte.

    Everything issued so far goes on validating. ``years``: None for as long as the one before. ``replaces``:
    primary key of the certificate that the administrator saw; refused where it is another by now. A root
    signs itself, a subordinate of ours is signed by its parent. Raises :class:`RolloverRefused`.
    """
    with transaction.atomic():
        issuer = _locked(issuer)
        _verify_may_change(issuer)
        issuer_key, before = _in_use(issuer)
        if replaces is not None and before.pk != replaces:
            raise RolloverRefused("the certificate was renewed in the meantime")
        signer = _signer_above(issuer)
        not_after = _end(years, before, signer, now)
        if not_after <= before.not_after:
            raise RolloverRefused(_ends_no_later(signer, before, not_after))
        term = _term_by(signer[0], now, not_after) if signer else _own_term(now, not_after)
        try:
            der = certify_again(
                bytes(before.der),
                term,
                private_key=keys.issuer_private_key(signer[0] if signer else issuer_key),
                issuer_certificate=bytes(signer[1].der) if signer else None,
            )
            IssuerCertificate.objects.filter(pk=before.pk).update(is_current=False)
            after = issuers.add_certificate(
                issuer_key,
                der,
                kind=IssuerCertificateKind(before.kind),
                signed_by=signer[0] if signer else None,
            )
            revocation.publish_crl(issuer_key, now)
        except (Malformed, *keys.CANNOT_SIGN) as error:
            raise RolloverRefused(str(error)) from error
        record(
            "issuer.renewed",
            actor=actor,
            target=issuer,
            details={
                "generation": issuer_key.generation,
                "before": {"serial_number": before.serial_number, "not_after": before.not_after.isoformat()},
                "after": {"serial_number": after.serial_number, "not_after": after.not_after.isoformat()},
            },
            at=now,
        )
    return after


def _ends_no_later(
    signer: tuple[IssuerKey, IssuerCertificate] | None, before: IssuerCertificate, not_after: datetime
) -> str:
    if signer and not_after >= signer[1].not_after:
        return (
            f"the certificate of {signer[0].issuer} above it ends on {signer[1].not_after:%Y-%m-%d}: "
            "renew that one first"
        )
    return f"the one in use ends later, on {before.not_after:%Y-%m-%d}: choose more years"


# --- A new key -------------------------------------------------------------------------------------------


def rekey(
    issuer: Issuer,
    *,
    actor: Actor,
    now: datetime,
    algorithm: str | None = None,
    years: int | None = None,
    activate_at: datetime | None = None,
    key_location: str = "",
) -> IssuerKey:
    """Make the next key generation: its certificate, links both ways, its CRL. Nothing changes hands yet.

    ``algorithm``: None for that of the key in use; ``years``: None for as long as its certificate.
    ``activate_at``: None to activate by hand. ``key_location``: a PKCS #11 URI, empty for a key kept here.
    The key of a subordinate of an external CA gets its certificate later
    (:mod:`pki.subordinate`). Raises :class:`RolloverRefused`.
    """
    issuer = Issuer.objects.get(pk=issuer.pk)
    _verify_may_change(issuer)
    current, before = _in_use(issuer)
    algorithm = algorithm or current.algorithm
    _verify_next(issuer, current, algorithm, years)
    try:
        private_key = issuers.make_private_key(key_location, algorithm)
    except issuers.IssuerRefused as refused:
        raise RolloverRefused(refused.reason) from refused
    with transaction.atomic():
        issuer = _locked(issuer)
        _verify_may_change(issuer)
        current, before = _in_use(issuer)
        _verify_next(issuer, current, algorithm, years)
        try:
            if issuer.kind in SELF_MADE:
                made = _certified_next(
                    issuer,
                    before,
                    private_key=private_key,
                    algorithm=algorithm,
                    years=years,
                    activate_at=activate_at,
                    now=now,
                )
                _link(current, before, made, private_key, now)
                revocation.publish_crl(made, now)
            else:
                made = issuers.add_key(
                    issuer,
                    private_key=private_key,
                    algorithm=algorithm,
                    state=IssuerKeyState.NEXT,
                    activate_at=activate_at,
                    now=now,
                )
        except (Malformed, *keys.CANNOT_SIGN) as error:
            raise RolloverRefused(str(error)) from error
        record(
            "issuer.rekeyed",
            actor=actor,
            target=issuer,
            details={
                "generation": made.generation,
                "algorithm": algorithm,
                "activate_at": activate_at.isoformat() if activate_at else "",
            },
            at=now,
        )
    return made


def _verify_next(issuer: Issuer, current: IssuerKey, algorithm: str, years: int | None) -> None:
    if issuers.next_key(issuer) is not None:
        raise RolloverRefused("there is a next key already: activate or discard it first")
    if algorithm not in keys.ALGORITHMS:
        raise RolloverRefused(f"unknown algorithm {algorithm}; known are {', '.join(keys.ALGORITHMS)}")
    if current.algorithm.startswith("RSA") and not algorithm.startswith("RSA"):
        raise RolloverRefused(
            "devices that enrol by SCEP need an RSA key: make a new issuer for another kind of key"
        )
    _verify_years(years)


def _verify_years(years: int | None) -> None:
    if years is not None and not 1 <= years <= issuers.MAX_YEARS:
        raise RolloverRefused(f"a CA certificate is valid for 1 to {issuers.MAX_YEARS} years")


def _certified_next(
    issuer: Issuer,
    before: IssuerCertificate,
    *,
    private_key: PrivateKey,
    algorithm: str,
    years: int | None,
    activate_at: datetime | None,
    now: datetime,
) -> IssuerKey:
    """The next generation with its certificate, signed by itself or by the parent."""
    signer = _signer_above(issuer)
    not_after = _end(years, before, signer, now)
    der = certify_new_key(
        bytes(before.der),
        keys.public_key_der(private_key),
        _term_by(signer[0], now, not_after) if signer else _own_term(now, not_after),
        private_key=keys.issuer_private_key(signer[0]) if signer else private_key,
        issuer_certificate=bytes(signer[1].der) if signer else None,
        decrypts=keys.decrypts(private_key),
    )
    made = issuers.add_key(
        issuer,
        certificate=der,
        private_key=private_key,
        algorithm=algorithm,
        state=IssuerKeyState.NEXT,
        activate_at=activate_at,
        now=now,
    )
    issuers.add_certificate(
        made, der, kind=IssuerCertificateKind(before.kind), signed_by=signer[0] if signer else None
    )
    return made


def _link(
    current: IssuerKey, before: IssuerCertificate, made: IssuerKey, private_key: PrivateKey, now: datetime
) -> None:
    """Certify the new key by the old one and the old by the new one (RFC 4210 section 4.4).

    Who knows only one of the two certificates accepts what the other key issued by way of its link.
    """
    after = issuers.current_certificate(made)
    not_after = min(before.not_after, after.not_after)
    new_with_old = certify_again(
        bytes(after.der),
        _term_by(current, now, not_after),
        private_key=keys.issuer_private_key(current),
        issuer_certificate=bytes(before.der),
    )
    issuers.add_certificate(
        made,
        new_with_old,
        kind=IssuerCertificateKind.NEW_WITH_OLD,
        is_current=False,
        signed_by=current,
    )
    old_with_new = certify_again(
        bytes(before.der),
        _term_by(made, now, not_after),
        private_key=private_key,
        issuer_certificate=bytes(after.der),
    )
    issuers.add_certificate(
        current,
        old_with_new,
        kind=IssuerCertificateKind.OLD_WITH_NEW,
        is_current=False,
        signed_by=made,
    )


# --- Handing over ----------------------------------------------------------------------------------------


def schedule(issuer: Issuer, activate_at: datetime | None, *, actor: Actor, now: datetime) -> IssuerKey:
    """Say when the next key takes over; None: by hand. Raises :class:`RolloverRefused`."""
    with transaction.atomic():
        issuer = _locked(issuer)
        _verify_may_change(issuer)
        made = issuers.next_key(issuer)
        if made is None:
            raise RolloverRefused("there is no next key")
        IssuerKey.objects.filter(pk=made.pk).update(activate_at=activate_at)
        made.activate_at = activate_at
        record(
            "issuer.activation_planned",
            actor=actor,
            target=issuer,
            details={
                "generation": made.generation,
                "activate_at": activate_at.isoformat() if activate_at else "",
            },
            at=now,
        )
    return made


def activate(issuer: Issuer, *, actor: Actor, now: datetime) -> IssuerKey:
    """The next key takes over now: it issues from here on, the one before stays trusted.

    Raises :class:`RolloverRefused`, also where somebody else was faster.
    """
    made = issuers.next_key(issuer)
    if made is None:
        raise RolloverRefused("there is no next key to activate")
    taken = _take_over(made.pk, issuer, actor=actor, now=now)
    if taken is None:
        raise RolloverRefused("the next key was activated in the meantime")
    return taken


def activate_due_keys(now: datetime) -> int:
    """Activate the keys whose time has come; returns how many this call activated.

    Any number of workers may call it at once: each key changes hands once. One that an external CA has not
    certified yet waits for its certificate.
    """
    due = IssuerKey.objects.select_related("issuer").filter(
        state=IssuerKeyState.NEXT,
        activate_at__lte=now,
        issuer__state=IssuerState.ACTIVE,
        certificates__is_current=True,
    )
    activated = 0
    for made in due.defer("private_key_sealed"):
        try:
            activated += _take_over(made.pk, made.issuer, actor=SERVER, now=now) is not None
        except RolloverRefused as refused:
            logger.warning("the next key of %s is due and not activated: %s", made.issuer, refused.reason)
    return activated


def _take_over(pk: int, issuer: Issuer, *, actor: Actor, now: datetime) -> IssuerKey | None:
    """NEXT → CURRENT and CURRENT → PREVIOUS, in one transaction. None where NEXT is no longer so."""
    with transaction.atomic():
        issuer = _locked(issuer)
        made = (
            IssuerKey.objects.select_for_update(of=("self",)).filter(pk=pk, state=IssuerKeyState.NEXT).first()
        )
        if made is None:
            return None
        _verify_may_change(issuer)
        try:
            certificate = issuers.current_certificate(made)
        except issuers.IssuerMissing:
            raise RolloverRefused("the next key has no certificate yet: import it first") from None
        if not certificate.not_before <= now < certificate.not_after:
            raise RolloverRefused("the certificate of the next key is not valid now")
        before = IssuerKey.objects.filter(issuer=issuer, state=IssuerKeyState.CURRENT)
        generation = before.values_list("generation", flat=True).first()
        before.update(state=IssuerKeyState.PREVIOUS, replaced_at=now)
        # Compare and set: where the lock is none (SQLite holds one for the whole database), this decides.
        if not IssuerKey.objects.filter(pk=pk, state=IssuerKeyState.NEXT).update(
            state=IssuerKeyState.CURRENT, activated_at=now
        ):
            raise RolloverRefused("the next key was activated in the meantime")
        record(
            "issuer.key_activated",
            actor=actor,
            target=issuer,
            details={"generation": made.generation, "before": generation},
            at=now,
        )
        made.refresh_from_db()
    return made


# --- The end of a generation -----------------------------------------------------------------------------


def close(issuer_key: IssuerKey, *, actor: Actor, now: datetime, force: bool = False) -> IssuerKey:
    """Stop trusting a generation that is no longer used; of one not used yet: discard it.

    Refused while certificates in force hang on it, unless forced: then those are refused from now on. What
    other keys of ours certified of this key (links, the parent's certificate) is revoked with it. Its CRL
    goes on. Raises :class:`RolloverRefused`.
    """
    with transaction.atomic():
        issuer = _locked(issuer_key.issuer)
        row = IssuerKey.objects.select_for_update(of=("self",)).select_related("issuer").get(pk=issuer_key.pk)
        if row.state == IssuerKeyState.CLOSED:
            raise RolloverRefused("this key generation is closed already")
        if row.state == IssuerKeyState.CURRENT:
            raise RolloverRefused("this key is in use: re-key first, or revoke the issuer")
        live = issuers.live_count(row, now)
        if live and not force:
            raise RolloverRefused(_in_force(live))
        IssuerKey.objects.filter(pk=row.pk).update(state=IssuerKeyState.CLOSED, closed_at=now)
        revoked = revoke_authorities(row, reason=RevocationReason.CESSATION, actor=actor, now=now)
        record(
            "issuer.key_closed",
            actor=actor,
            target=issuer,
            details={
                "generation": row.generation,
                "before": row.state,
                "in_force": live,
                "revoked_authorities": [certificate.serial_number for certificate in revoked],
            },
            at=now,
        )
        row.refresh_from_db()
    return row


def _in_force(live: int) -> str:
    if live == 1:
        return "one certificate in force hangs on this key"
    return f"{live} certificates in force hang on this key"


def revoke_authorities(
    issuer_key: IssuerKey, *, reason: RevocationReason, actor: Actor, now: datetime
) -> list[IssuerCertificate]:
    """Revoke what other keys of ours certified of this key, and publish their CRLs; returns the certificates.

    All of them: while one for the same key is left, a chain still leads through it. Inside the caller's
    transaction.
    """
    rows = list(
        IssuerCertificate.objects.select_related("signed_by__issuer").filter(
            issuer_key=issuer_key, signed_by__isnull=False, revoked_at=None, not_after__gt=now
        )
    )
    IssuerCertificate.objects.filter(pk__in=[row.pk for row in rows]).update(
        revoked_at=now, revocation_reason=reason
    )
    signers = {row.signed_by_id: row.signed_by for row in rows}
    for signer in signers.values():
        if signer is not None and signer.pk != issuer_key.pk:
            revocation.publish_or_leave_due(signer, now)
    return rows


# --- Pieces ----------------------------------------------------------------------------------------------


def _locked(issuer: Issuer) -> Issuer:
    """The issuer as it is now; who changes its keys waits here for whoever does."""
    return Issuer.objects.select_for_update(of=("self",)).get(pk=issuer.pk)


def _verify_may_change(issuer: Issuer) -> None:
    if issuer.kind == IssuerKind.TRUST_ONLY:
        raise RolloverRefused("it is only trusted: its keys are elsewhere")
    if issuer.state in (IssuerState.DRAFT, IssuerState.AWAITING):
        raise RolloverRefused("it has no certificate yet")
    if issuer.state != IssuerState.ACTIVE:
        raise RolloverRefused(f"the issuer is {issuer.get_state_display().partition(':')[0]}")


def _in_use(issuer: Issuer) -> tuple[IssuerKey, IssuerCertificate]:
    """The key in use and its certificate."""
    try:
        issuer_key = issuers.current_key(issuer)
        return issuer_key, issuers.current_certificate(issuer_key)
    except issuers.IssuerMissing as missing:
        raise RolloverRefused(str(missing)) from None


def _signer_above(issuer: Issuer) -> tuple[IssuerKey, IssuerCertificate] | None:
    """The parent's key and certificate by which a subordinate of ours is signed; None: it signs itself."""
    if issuer.kind == IssuerKind.ROOT:
        return None
    if issuer.kind == IssuerKind.EXTERNAL or issuer.parent is None:
        raise RolloverRefused("an external CA signs its certificates: make a request, and import the answer")
    if issuer.parent.state != IssuerState.ACTIVE:
        raise RolloverRefused(f"the issuer {issuer.parent} above it is not active")
    return _in_use(issuer.parent)


def _end(
    years: int | None,
    before: IssuerCertificate,
    signer: tuple[IssuerKey, IssuerCertificate] | None,
    now: datetime,
) -> datetime:
    """When a certificate made now ends; never later than the one above it."""
    _verify_years(years)
    if years is None:
        not_after = now + (before.not_after - before.not_before - issuers.BACKDATE)
    else:
        not_after = issuers.end_of_term(now, years)
    if signer is None:
        return not_after
    if not signer[1].not_before <= now < signer[1].not_after:
        raise RolloverRefused(f"the certificate of {signer[0].issuer} above it is not valid now")
    return min(not_after, signer[1].not_after)


def _own_term(now: datetime, not_after: datetime) -> Term:
    """Of a certificate that a root signs itself: where to ask about it would say nothing."""
    return Term(x509.random_serial_number(), now - issuers.BACKDATE, not_after)


def _term_by(signer: IssuerKey, now: datetime, not_after: datetime) -> Term:
    """Of a certificate that another key of ours signs; it names that key's addresses."""
    addresses = issuers.addresses(signer)
    return Term(
        serial_number=x509.random_serial_number(),
        not_before=max(now - issuers.BACKDATE, issuers.current_certificate(signer).not_before),
        not_after=not_after,
        crl_url=addresses.crl,
        issuer_url=addresses.issuer,
        ocsp_url=addresses.ocsp,
    )
