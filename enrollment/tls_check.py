"""Will devices trust this server? The public addresses are opened as a device would, and judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from cryptography import x509
from django.conf import settings
from django.urls import reverse
from OpenSSL import crypto

from enrollment import tls_words
from enrollment.models import EnrollmentProfile
from enrollment.tls_probe import NotReached, Shown, look
from pki import issuers, server_tls
from pki.core.certificates import describe, load_certificates
from pki.core.scan import Malformed
from pki.core.server_trust import Anchor, Finding, Judgement, Known, Level, Roots, judge
from pki.models import IssuerCertificate
from pki.public_roots import public_roots

Away: TypeAlias = Callable[[], AbstractContextManager[None]]
_OLD_PROTOCOLS = frozenset({"SSLv3", "TLSv1", "TLSv1.1"})


@dataclass(frozen=True)
class Sentence:
    """A finding in words: what it is, and what to do about it."""

    code: str
    level: Level
    text: str


@dataclass(frozen=True)
class Check:
    """What came of one address. ``shown``: what the server shows, as facts, its own certificate first."""

    url: str
    protocol: str
    anchor: Anchor
    root: bytes | None
    shown: tuple[Any, ...]
    sentences: tuple[Sentence, ...]

    @property
    def believed(self) -> bool:
        """Whether devices talk to it."""
        return all(sentence.level is not Level.BAD for sentence in self.sentences)

    @property
    def root_sha256(self) -> str:
        """Fingerprint of the root that the chain ends in; empty where there is none."""
        return describe(self.root).sha256 if self.root else ""


def addresses() -> list[str]:
    """What devices are told: the public address, and that of the MDM endpoints where it is another one."""
    return list(
        dict.fromkeys([settings.BRAMLEY_PUBLIC_URL, settings.BRAMLEY_MDM_URL or settings.BRAMLEY_PUBLIC_URL])
    )


def check_all(*, now: datetime, away: Away = nullcontext) -> list[Check]:
    """Every address of ours. Opens connections: not inside a transaction."""
    return [check(url, now=now, away=away) for url in addresses()]


def check(url: str, *, now: datetime, away: Away = nullcontext) -> Check:
    """Open ``url`` and judge it. What cannot be opened is a finding too.

    ``away``: entered while the other side is waited for (:func:`enrollment.elsewhere.elsewhere`).
    """
    if urlsplit(url).scheme != "https":
        return _unseen(url, Finding("not_https", Level.BAD, {"url": url}))
    expected = _own_certificate() if url == settings.BRAMLEY_PUBLIC_URL else None
    page = _page_of_certificate() if expected else ""
    try:
        with away():
            shown = look(url, page=page)
    except NotReached as fault:
        return _unseen(
            url, Finding(f"not_reached_{fault.step}", Level.BAD, {"url": url, "reason": fault.reason})
        )
    known = Known(public_roots(), Roots(in_every_profile()), Roots(_ours()))
    judgement = judge(shown.chain, known, host=urlsplit(url).hostname or "", now=now)
    findings = [
        *judgement.findings,
        *_second_opinion(judgement, shown.chain, now),
        *_protocol(shown.protocol),
        *_same_server(shown, expected),
    ]
    return Check(
        url,
        shown.protocol,
        judgement.anchor,
        judgement.root,
        _facts(shown.chain),
        tuple(
            _sentence(finding)
            for finding in sorted(findings, key=lambda finding: list(Level).index(finding.level))
        ),
    )


def in_every_profile() -> list[bytes]:
    """What every enabled enrolment profile brings: the roots for TLS, and that of an issuer they share."""
    try:
        added = server_tls.anchors()
        enabled = EnrollmentProfile.objects.filter(enabled=True).select_related("issuer")
        issued_by = {profile.issuer for profile in enabled}
        shared = [issuers.chain(issuer)[-1] for issuer in issued_by] if len(issued_by) == 1 else []
    except issuers.IssuerMissing:
        return []
    return list(dict.fromkeys([*added, *shared]))


def _ours() -> list[bytes]:
    rows = IssuerCertificate.objects.filter(is_current=True).values_list("der", flat=True)
    return [bytes(der) for der in rows]


def _own_certificate() -> bytes | None:
    try:
        return issuers.chain(issuers.default_issuer())[0]
    except issuers.IssuerMissing:
        return None


def _page_of_certificate() -> str:
    path: str = urlsplit(settings.BRAMLEY_PUBLIC_URL).path.rstrip("/")
    return path + reverse("pki:certificate", args=[issuers.default_issuer().slug])


def _second_opinion(judgement: Judgement, shown: Sequence[bytes], now: datetime) -> list[Finding]:
    """What openssl says of the same path: it knows of path lengths and name constraints as well."""
    if not judgement.believed or judgement.root is None:
        return []
    store = crypto.X509Store()
    store.add_cert(_x509(judgement.root))
    store.set_time(now)
    context = crypto.X509StoreContext(store, _x509(shown[0]), [_x509(der) for der in shown[1:]])
    try:
        context.verify_certificate()
    except crypto.X509StoreContextError as error:
        return [Finding("path_refused", Level.BAD, {"reason": str(error)[:200]})]
    return []


def _x509(der: bytes) -> crypto.X509:
    return crypto.X509.from_cryptography(x509.load_der_x509_certificate(der))


def _protocol(protocol: str) -> list[Finding]:
    old = protocol in _OLD_PROTOCOLS
    return [Finding("old_protocol", Level.BAD, {"protocol": protocol})] if old else []


def _same_server(shown: Shown, expected: bytes | None) -> list[Finding]:
    """Whether it is this server that answers there: it hands out the certificate of our own CA."""
    if expected is None:
        return []
    if shown.page is None:
        return [Finding("no_answer", Level.WAIT)]
    try:
        (answered, *_more) = load_certificates(shown.page)
    except Malformed:
        answered = b""
    return [] if answered == expected else [Finding("another_server", Level.BAD)]


def _unseen(url: str, finding: Finding) -> Check:
    return Check(url, "", Anchor.NONE, None, (), (_sentence(finding),))


def _facts(chain: Sequence[bytes]) -> tuple[Any, ...]:
    try:
        return tuple(describe(der) for der in chain)
    except Malformed:
        return ()


def _sentence(finding: Finding) -> Sentence:
    return Sentence(finding.code, finding.level, tls_words.sentence(finding))
