"""Renew or re-key? What will and will not validate afterwards, from an issuer's own certificates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Count, Max, Q
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from pki import issuers
from pki.core.certificates import (
    describe,
    load_certificate,
    names_issuer_by_number,
)
from pki.core.path import PathError, verify_issued_by
from pki.core.scan import Malformed
from pki.models import (
    Certificate,
    Issuer,
    IssuerCertificate,
    IssuerKey,
    IssuerKind,
    Purpose,
)

# Certificates that are really tried: the newest, the oldest, and those that end last.
TRIED_OF_EACH = 20
SHORT_RSA_BITS = 3072
SOON = timedelta(days=365)


@dataclass(frozen=True)
class Statement:
    """One sentence for an administrator. ``tone``: good, info, wait or bad."""

    tone: str
    text: str | Promise


@dataclass(frozen=True)
class Trial:
    """Certificates in force that were checked one by one against the CA certificate."""

    tried: int
    fitting: int
    misfits: tuple[tuple[Certificate, str], ...] = ()


@dataclass(frozen=True)
class Generation:
    """One key with what hangs on it."""

    issuer_key: IssuerKey
    certificate: IssuerCertificate | None
    live: int
    devices: int
    last_ends: datetime | None
    below: int


@dataclass(frozen=True)
class Outlook:
    """The state of an issuer on which the decision rests.

    ``certificate``: the one in use. ``chain_ends``: when the first certificate of the chain ends.
    ``outliving``: certificates in force that end later than the CA certificate that issued them.
    """

    issuer: Issuer
    certificate: IssuerCertificate
    current: Generation
    generations: tuple[Generation, ...]
    chain_ends: datetime
    outliving: int
    trial: Trial
    renewal: tuple[Statement, ...]
    rekey: tuple[Statement, ...]
    advice: Statement


def outlook(issuer: Issuer, now: datetime) -> Outlook:
    """What renewing and re-keying would do. Raises :class:`pki.issuers.IssuerMissing` without certificate."""
    issuer_key = issuers.current_key(issuer)
    certificate = issuers.current_certificate(issuer_key)
    generations = tuple(_generation(key, now) for key in issuers.keys_of(issuer))
    current = next(one for one in generations if one.issuer_key.pk == issuer_key.pk)
    outliving = issuers.live_certificates(issuer_key, now).filter(not_after__gt=certificate.not_after).count()
    trial = try_out(issuer_key, certificate, now)
    chain_ends = _chain_ends(certificate)
    return Outlook(
        issuer=issuer,
        certificate=certificate,
        current=current,
        generations=generations,
        chain_ends=chain_ends,
        outliving=outliving,
        trial=trial,
        renewal=tuple(_renewal(issuer, current, certificate, trial, outliving)),
        rekey=tuple(_rekey(issuer, current, certificate, now)),
        advice=_advice(issuer, issuer_key, certificate, chain_ends, now),
    )


def _generation(issuer_key: IssuerKey, now: datetime) -> Generation:
    counted = issuers.live_certificates(issuer_key, now).aggregate(
        live=Count("pk"),
        devices=Count("pk", filter=Q(purpose=Purpose.MDM_IDENTITY)),
        last_ends=Max("not_after"),
    )
    return Generation(
        issuer_key=issuer_key,
        certificate=issuer_key.certificates.filter(is_current=True).first(),
        live=counted["live"],
        devices=counted["devices"],
        last_ends=counted["last_ends"],
        below=issuers.live_subordinates(issuer_key, now).count(),
    )


def _chain_ends(certificate: IssuerCertificate) -> datetime:
    return min(describe(der).not_after for der in issuers.chain_of(certificate))


def try_out(issuer_key: IssuerKey, certificate: IssuerCertificate, now: datetime) -> Trial:
    """Check certificates in force against the CA certificate: name, key identifier and signature.

    A renewal keeps all three, so what fits now fits then; but one that names its issuer's certificate by its
    number would not survive it.
    """
    live = issuers.live_certificates(issuer_key, now)
    chosen: dict[int, Certificate] = {}
    for order in ("-pk", "pk", "-not_after"):
        chosen.update({row.pk: row for row in live.order_by(order)[:TRIED_OF_EACH]})
    authority = bytes(certificate.der)
    misfits = tuple((row, reason) for row in chosen.values() if (reason := _misfit(row, authority)))
    return Trial(len(chosen), len(chosen) - len(misfits), misfits)


def _misfit(row: Certificate, authority: bytes) -> str:
    try:
        verify_issued_by(bytes(row.der), authority)
        if names_issuer_by_number(load_certificate(bytes(row.der))):
            return _("it names the CA certificate by its serial number")
    except (PathError, Malformed) as error:
        return error.reason
    return ""


# --- In words --------------------------------------------------------------------------------------------


def _renewal(
    issuer: Issuer,
    current: Generation,
    certificate: IssuerCertificate,
    trial: Trial,
    outliving: int,
) -> Iterator[Statement]:
    ends = _day(certificate.not_after)
    if not current.live:
        yield Statement("info", _("No certificate in force depends on this key yet."))
    elif trial.misfits:
        yield Statement(
            "bad",
            _(
                "%(misfits)d of %(tried)d certificates that were tried would not validate with a renewed CA "
                "certificate."
            )
            % {"misfits": len(trial.misfits), "tried": trial.tried},
        )
    else:
        yield Statement(
            "good",
            ngettext(
                "The %(count)d certificate in force goes on validating: name, key and key identifier stay.",
                "All %(count)d certificates in force go on validating: name, key and key identifier stay.",
                current.live,
            )
            % {"count": current.live},
        )
        yield Statement(
            "good",
            ngettext(
                "Tried with %(count)d of them: it fits.",
                "Tried with %(count)d of them, the newest, the oldest and those that end last: all fit.",
                trial.tried,
            )
            % {"count": trial.tried},
        )
    if outliving:
        yield Statement(
            "good",
            ngettext(
                "%(count)d certificate ends after the CA certificate (%(ends)s) and would fail from then on. "
                "The renewal rescues it.",
                "%(count)d certificates end after the CA certificate (%(ends)s) and would fail from then on. "
                "The renewal rescues them.",
                outliving,
            )
            % {"count": outliving, "ends": ends},
        )
    yield Statement(
        "good", _("The list of revoked certificates stays valid, and no device has to enrol again.")
    )
    if issuer.kind == IssuerKind.ROOT:
        yield Statement(
            "wait",
            _(
                "Devices keep the root that they have installed; it ends on %(ends)s. Give them the renewed "
                "one by a "
                "profile before then."
            )
            % {"ends": ends},
        )
    elif issuer.kind == IssuerKind.EXTERNAL:
        yield Statement(
            "wait",
            _(
                "The external CA has to sign a new request and to keep name and key identifier; an answer "
                "that "
                "does not is refused here, and nothing changes."
            ),
        )
    yield Statement(
        "info",
        _("The key stays the same. If it may be known to others, or is too short, renewing does not help."),
    )


def _rekey(
    issuer: Issuer, current: Generation, certificate: IssuerCertificate, now: datetime
) -> Iterator[Statement]:
    if current.live:
        yield Statement(
            "good",
            ngettext(
                "The %(count)d certificate in force goes on validating with the earlier CA certificate, "
                "which stays "
                "trusted here.",
                "The %(count)d certificates in force go on validating with the earlier CA certificate, which "
                "stays trusted here.",
                current.live,
            )
            % {"count": current.live},
        )
        yield Statement(
            "bad",
            _(
                "They do not validate with the new CA certificate alone: who checks them needs both, or a "
                "link."
            ),
        )
    yield Statement(
        "good",
        _(
            "The earlier certificate and its list stay at their addresses; the new key has a list of its "
            "own. One "
            "list does not speak for the other key's certificates."
        ),
    )
    if issuer.kind == IssuerKind.ROOT:
        yield Statement(
            "wait",
            _(
                "Certificates of the new key validate only for those who know the new root, or the link that "
                "certifies it by the earlier key; the link ends with the earlier root, on %(ends)s."
            )
            % {"ends": _day(certificate.not_after)},
        )
        yield Statement(
            "wait",
            _(
                "Devices learn nothing of it by themselves. Bring the new root to them by a profile, then "
                "activate "
                "the key."
            ),
        )
    else:
        yield Statement(
            "good",
            _("The root above stays the same: who trusts it accepts both keys, given the chain."),
        )
    if current.devices:
        yield Statement(
            "info",
            ngettext(
                "%(count)d device holds an identity of this key; it moves to the new one when its identity "
                "is "
                "renewed.",
                "%(count)d devices hold identities of this key; they move to the new one as their "
                "identities are "
                "renewed.",
                current.devices,
            )
            % {"count": current.devices},
        )
    if current.last_ends is not None:
        yield Statement(
            "info",
            _(
                "Left to itself, the last of them ends on %(ends)s. Until then the earlier key cannot be "
                "closed."
            )
            % {"ends": _day(current.last_ends)},
        )
    if current.below:
        yield Statement(
            "wait",
            ngettext(
                "%(count)d CA below is certified by this key: renew it afterwards, so that the new key "
                "certifies "
                "it.",
                "%(count)d CAs below are certified by this key: renew them afterwards, so that the new key "
                "certifies them.",
                current.below,
            )
            % {"count": current.below},
        )


def _advice(
    issuer: Issuer,
    issuer_key: IssuerKey,
    certificate: IssuerCertificate,
    chain_ends: datetime,
    now: datetime,
) -> Statement:
    """What the certificates alone speak for. Whether the key is still secret only people know."""
    if chain_ends < now + SOON and chain_ends < certificate.not_after:
        return Statement(
            "wait",
            _("A certificate above this one ends on %(ends)s: that one has to be renewed first.")
            % {"ends": _day(chain_ends)},
        )
    if issuer_key.algorithm.startswith("RSA-") and int(issuer_key.algorithm[4:]) < SHORT_RSA_BITS:
        return Statement(
            "info",
            _("The key is %(key)s. For a CA of many years a longer one is usual: that speaks for a re-key.")
            % {"key": issuer_key.algorithm},
        )
    rest = certificate.not_after - now
    if rest < timedelta(days=issuer.leaf_validity_days):
        return Statement(
            "wait",
            _(
                "The CA certificate ends on %(ends)s. What it issues now ends with it, before its %(days)d "
                "days "
                "are over: that speaks for a renewal."
            )
            % {"ends": _day(certificate.not_after), "days": issuer.leaf_validity_days},
        )
    return Statement(
        "good",
        _("The CA certificate is valid until %(ends)s, long enough for what it issues: nothing is pressing.")
        % {"ends": _day(certificate.not_after)},
    )


def _day(moment: datetime) -> str:
    return f"{timezone.localtime(moment):%Y-%m-%d}"
