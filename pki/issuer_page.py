"""What the page of one issuer shows: its state, its keys, its chain, and when its certificates end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.urls import reverse
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from pki import expiries, issuer_life, issuers
from pki.core.certificates import CertificateFacts, describe
from pki.models import (
    Crl,
    Issuer,
    IssuerCertificate,
    IssuerKey,
    IssuerKeyState,
    IssuerKind,
    IssuerState,
)
from pki.outlook import Statement
from pki.records import grouped
from pki.revocation import REPUBLISH_AFTER

ENDS_SOON = timedelta(days=90)


@dataclass(frozen=True)
class Tile:
    """One number with where to look it up."""

    title: str | Promise
    count: int
    hint: str | Promise = ""
    url: str = ""
    tone: str = ""


@dataclass(frozen=True)
class KeyRow:
    """One generation of the key."""

    issuer_key: IssuerKey
    certificate: IssuerCertificate | None
    live: int
    crl: Crl | None
    next_crl: datetime | None
    close_url: str


@dataclass(frozen=True)
class Link:
    """One certificate of the chain, from the issuer up to the root."""

    facts: CertificateFacts
    fingerprint: str


@dataclass(frozen=True)
class Page:
    """All of it. ``actions``: pairs of address and words, the likeliest first."""

    notes: tuple[Statement, ...]
    actions: tuple[tuple[str, str], ...]
    tiles: tuple[Tile, ...]
    chart: SafeString | str
    history: SafeString | str
    keys: tuple[KeyRow, ...]
    chain: tuple[Link, ...]
    subordinates: tuple[Issuer, ...]
    bundle_url: str


def page_of(issuer: Issuer, now: datetime, *, may_change: bool) -> Page:
    """The page as it is now; actions only for who may change the issuer."""
    rows = tuple(_key_row(key, now, may_change=may_change) for key in issuers.keys_of(issuer))
    counted = expiries.figures(issuer, now)
    own = issuer.kind != IssuerKind.TRUST_ONLY
    has_certificate = any(row.certificate for row in rows)
    return Page(
        notes=tuple(_notes(issuer, rows, now)),
        actions=tuple(_actions(issuer, rows)) if may_change else (),
        tiles=tuple(_tiles(issuer, counted)),
        chart=expiries.draw(expiries.months(issuer, now)) if counted.live else "",
        history=expiries.draw_history(expiries.history(issuer, now)) if own and counted.issued else "",
        keys=rows,
        chain=tuple(_chain(issuer)),
        subordinates=tuple(issuer.subordinates.order_by("slug")),
        bundle_url=reverse("admin:pki_issuer_chain", args=[issuer.pk, "bundle"])
        if own and has_certificate
        else "",
    )


def _key_row(issuer_key: IssuerKey, now: datetime, *, may_change: bool) -> KeyRow:
    crl = Crl.objects.filter(issuer_key=issuer_key).defer("der").order_by("-number").first()
    revoked = issuer_key.issuer.state == IssuerState.REVOKED
    closable = may_change and issuer_key.state in (IssuerKeyState.PREVIOUS, IssuerKeyState.NEXT)
    return KeyRow(
        issuer_key=issuer_key,
        certificate=issuer_key.certificates.filter(is_current=True).first(),
        live=issuers.live_count(issuer_key, now),
        crl=crl,
        next_crl=crl.this_update + REPUBLISH_AFTER if crl and not revoked else None,
        close_url=reverse("admin:pki_issuer_close", args=[issuer_key.issuer_id, issuer_key.generation])
        if closable and issuer_key.issuer.kind != IssuerKind.TRUST_ONLY and not revoked
        else "",
    )


def _chain(issuer: Issuer) -> Iterator[Link]:
    try:
        found = issuers.chain(issuer)
    except issuers.IssuerMissing:
        return
    for der in found:
        facts = describe(der)
        yield Link(facts, grouped(facts.sha256))


def _tiles(issuer: Issuer, counted: expiries.Figures) -> Iterator[Tile]:
    certificates = f"{reverse('admin:pki_certificate_changelist')}?issuer_key__issuer__id__exact={issuer.pk}"
    yield Tile(_("Issued"), counted.issued, _("certificates in all"), certificates)
    yield Tile(_("In force"), counted.live, _("valid and not revoked"), f"{certificates}&expiry=valid")
    yield Tile(
        _("Expiring"),
        counted.expiring,
        _("end within 30 days"),
        f"{certificates}&expiry=30",
        "wait" if counted.expiring else "",
    )
    yield Tile(_("Revoked"), counted.revoked, _("on the lists"), f"{certificates}&status__exact=REVOKED")


# --- What to do next -------------------------------------------------------------------------------------


def _notes(issuer: Issuer, rows: tuple[KeyRow, ...], now: datetime) -> Iterator[Statement]:
    waiting = issuer_life.waiting_request(issuer)
    if issuer.state == IssuerState.DRAFT:
        yield Statement(
            "wait", _("It has no certificate yet. Make its request, and have the external CA sign it.")
        )
    elif waiting is not None:
        yield Statement(
            "wait",
            _("A request of %(day)s waits for the external CA. Import the signed certificate here.")
            % {"day": f"{timezone.localtime(waiting.requested_at):%Y-%m-%d}"},
        )
    if issuer.state == IssuerState.RETIRED:
        yield Statement(
            "info", _("Retired: it issues nothing new. What it issued is valid, and lists go on.")
        )
    if issuer.state == IssuerState.REVOKED:
        yield Statement("bad", _("Revoked: nothing that it issued is accepted."))
        return
    yield from _key_notes(rows, now)


def _key_notes(rows: tuple[KeyRow, ...], now: datetime) -> Iterator[Statement]:
    for row in rows:
        issuer_key, certificate = row.issuer_key, row.certificate
        if issuer_key.state == IssuerKeyState.NEXT:
            yield _next_note(issuer_key, certificate, now)
        elif issuer_key.state == IssuerKeyState.PREVIOUS and issuer_key.is_ours:
            yield _previous_note(row)
        if (
            issuer_key.state == IssuerKeyState.CURRENT
            and certificate
            and certificate.not_after < now + ENDS_SOON
        ):
            ended = certificate.not_after < now
            text = (
                _("The certificate in use ended on %(day)s.")
                if ended
                else _("The certificate in use ends on %(day)s.")
            )
            yield Statement(
                "bad" if ended else "wait",
                text % {"day": f"{timezone.localtime(certificate.not_after):%Y-%m-%d}"},
            )
        if issuer_key.is_ours and row.crl and row.crl.next_update < now:
            yield Statement(
                "bad",
                _("The list of key %(generation)d is overdue: are the workers running?")
                % {"generation": issuer_key.generation},
            )


def _next_note(issuer_key: IssuerKey, certificate: IssuerCertificate | None, now: datetime) -> Statement:
    number = {"generation": issuer_key.generation}
    if certificate is None:
        return Statement("wait", _("Key %(generation)d waits for its certificate.") % number)
    if issuer_key.activate_at is None:
        return Statement(
            "info", _("Key %(generation)d is ready, and waits to be activated by hand.") % number
        )
    when = f"{timezone.localtime(issuer_key.activate_at):%Y-%m-%d %H:%M}"
    if issuer_key.activate_at < now - timedelta(minutes=10):
        text = _("Key %(generation)d was to take over on %(when)s and has not: are the workers running?")
        return Statement("bad", text % {**number, "when": when})
    return Statement("info", _("Key %(generation)d takes over on %(when)s.") % {**number, "when": when})


def _previous_note(row: KeyRow) -> Statement:
    number = row.issuer_key.generation
    if not row.live:
        return Statement(
            "good",
            _("Nothing in force hangs on key %(generation)d any more: it can be closed.")
            % {"generation": number},
        )
    return Statement(
        "info",
        ngettext(
            "%(count)d certificate in force still hangs on key %(generation)d.",
            "%(count)d certificates in force still hang on key %(generation)d.",
            row.live,
        )
        % {"count": row.live, "generation": number},
    )


def _actions(issuer: Issuer, rows: tuple[KeyRow, ...]) -> Iterator[tuple[str, str]]:
    def to(name: str) -> str:
        return reverse(f"admin:pki_issuer_{name}", args=[issuer.pk])

    if issuer.state == IssuerState.REVOKED:
        return
    if issuer.kind == IssuerKind.TRUST_ONLY:
        yield to("revoke"), _("Stop trusting…")
        return
    waiting = issuer_life.waiting_request(issuer)
    if issuer.kind == IssuerKind.EXTERNAL and issuer.state != IssuerState.RETIRED:
        if waiting is None:
            yield to("request"), _("Make a request…")
        else:
            yield to("import"), _("Import the certificate…")
            yield to("csr"), _("Download the request")
    if issuer.state == IssuerState.ACTIVE:
        if any(row.issuer_key.state == IssuerKeyState.NEXT and row.certificate for row in rows):
            yield to("activate"), _("Activate the next key…")
        if any(row.issuer_key.state in (IssuerKeyState.NEXT, IssuerKeyState.PREVIOUS) for row in rows):
            campaign = reverse("admin:renewal_rekeycampaign_start")
            yield f"{campaign}?issuer={issuer.pk}", _("Bring devices to the newest key…")
        yield to("decide"), _("Renew or re-key…")
        yield to("retire"), _("Retire…")
    if issuer.state == IssuerState.RETIRED:
        yield to("resume"), _("Take into use again…")
    yield to("revoke"), _("Revoke…")
