"""The life of issuers: everything that their admin pages do, for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from audit.recording import Actor
from pki import issuers, outlook, retirement, rollover, subordinate
from pki.core.certificates import encode_pem
from pki.issuers import DEFAULT_ALGORITHM, IssuerMissing, IssuerRefused
from pki.keys import ALGORITHMS
from pki.models import (
    Issuer,
    IssuerCertificate,
    IssuerKey,
    IssuerKeyState,
    IssuerKind,
    RevocationReason,
)
from pki.subordinate import ImportRefused

ACTOR = Actor(name="command line")
KINDS = {"root": IssuerKind.ROOT, "subordinate": IssuerKind.SUBORDINATE, "external": IssuerKind.EXTERNAL}


class Command(BaseCommand):
    help = (
        "Lists, makes, renews, re-keys, retires and revokes issuers; requests and imports their certificates."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(
            dest="action",
            required=True,
            metavar="list|create|outlook|renew|rekey|activate|close|retire|resume|revoke|csr|import|export",
        )

        def add(name: str, text: str, *, slug: bool = True) -> CommandParser:
            one: CommandParser = actions.add_parser(name, help=text)
            if slug:
                one.add_argument("slug", help="short name of the issuer")
            one.add_argument("--json", action="store_true", help="one JSON document on stdout")
            return one

        add("list", "all issuers", slug=False)
        creating = add("create", "a new issuer of our own")
        creating.add_argument("--kind", choices=list(KINDS), default="root")
        creating.add_argument("--parent", metavar="SLUG", help="the issuer above a subordinate")
        creating.add_argument("--name", default="", help="common name (default: the short name)")
        creating.add_argument("--organization", default="")
        creating.add_argument("--algorithm", choices=sorted(ALGORITHMS), default=DEFAULT_ALGORITHM)
        creating.add_argument("--years", type=int, default=10, help="validity of its certificate")
        _add_token(creating)
        add("outlook", "renew or re-key? what will and will not validate afterwards")
        renewing = add("renew", "a new certificate for the same key; below an external CA: a request for one")
        renewing.add_argument("--years", type=int, help="default: for as long as the one before")
        rekeying = add("rekey", "make the next key, with its certificate, links and CRL")
        rekeying.add_argument("--algorithm", choices=sorted(ALGORITHMS), help="default: as the key in use")
        rekeying.add_argument("--years", type=int, help="default: for as long as the certificate in use")
        rekeying.add_argument("--at", metavar="TIME", help="when it takes over, as 2027-01-31T06:00+00:00")
        rekeying.add_argument("--activate", action="store_true", help="let it take over at once")
        _add_token(rekeying)
        activating = add("activate", "let the next key take over, now or at a time")
        activating.add_argument("--at", metavar="TIME", help="not now but then")
        closing = add("close", "stop trusting an earlier key, or discard the next one")
        closing.add_argument("generation", type=int)
        closing.add_argument("--force", action="store_true", help="although certificates in force hang on it")
        add("retire", "issue nothing new; what was issued stays valid")
        add("resume", "take a retired issuer into use again")
        revoking = add("revoke", "revoke it and all that it issued; without --yes only say what that means")
        revoking.add_argument(
            "--reason",
            choices=[reason.value for reason in RevocationReason],
            default=RevocationReason.CESSATION.value,
        )
        revoking.add_argument("--yes", action="store_true", help="do it")
        requesting = add("csr", "the request for the external CA, PEM")
        requesting.add_argument("--out", type=Path, metavar="FILE", help="write it here, not to stdout")
        importing = add("import", "take in what the external CA sent: its certificate, then those above it")
        importing.add_argument("files", nargs="+", type=Path, metavar="FILE")
        importing.add_argument(
            "--anchor-is-last",
            action="store_true",
            help="the chain may end at a CA that is no root",
        )
        exporting = add("export", "the CA certificate, without its key")
        exporting.add_argument("--chain", action="store_true", help="with the certificates above it")
        exporting.add_argument(
            "--bundle", action="store_true", help="those of all generations and the links between them"
        )
        exporting.add_argument("--der", action="store_true", help="DER instead of PEM")
        exporting.add_argument("--out", type=Path, metavar="FILE", help="write it here, not to stdout")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["action"] == "list":
            self.show([_facts(issuer) for issuer in Issuer.objects.all()], as_json=options["json"])
            return
        acts: Mapping[str, Callable[[dict[str, Any]], None]] = {
            "create": self.create,
            "outlook": self.outlook,
            "renew": self.renew,
            "rekey": self.rekey,
            "activate": self.activate,
            "close": self.close,
            "retire": self.retire,
            "resume": self.resume,
            "revoke": self.revoke,
            "csr": self.csr,
            "import": self.take_in,
            "export": self.export,
        }
        try:
            acts[options["action"]](options)
        except (
            IssuerRefused,
            ImportRefused,
            rollover.RolloverRefused,
            retirement.RetirementRefused,
        ) as refused:
            raise CommandError(_line(refused.reason)) from None
        except IssuerMissing as missing:
            raise CommandError(_line(str(missing))) from None

    def show(self, rows: list[dict[str, Any]], *, as_json: bool) -> None:
        """One line for each issuer, or all of them as JSON."""
        if as_json:
            self.stdout.write(json.dumps(rows, ensure_ascii=False))
            return
        for row in rows:
            self.stdout.write(_described(row))

    def told(self, issuer: Issuer, options: dict[str, Any], **more: Any) -> None:
        """The issuer as ``list`` shows it, after something was done with it."""
        issuer.refresh_from_db()
        facts = _facts(issuer)
        if options["json"]:
            self.stdout.write(json.dumps(facts | more, ensure_ascii=False))
        else:
            self.stdout.write(_described(facts))

    # --- making ---

    def create(self, options: dict[str, Any]) -> None:
        """A new issuer, shown as ``list`` shows it."""
        kind = KINDS[options["kind"]]
        if bool(options["parent"]) != (kind == IssuerKind.SUBORDINATE):
            raise CommandError("--kind subordinate and --parent belong together")
        slug, name = options["slug"], options["name"] or options["slug"]
        common: dict[str, Any] = {
            "organization": options["organization"],
            "algorithm": options["algorithm"],
            "key_location": options["token"],
            "actor": ACTOR,
            "now": timezone.now(),
        }
        if kind == IssuerKind.SUBORDINATE:
            parent = _issuer(options["parent"])
            issuer = subordinate.create_subordinate(
                slug, name, parent=parent, years=options["years"], **common
            )
        elif kind == IssuerKind.EXTERNAL:
            issuer = subordinate.create_external(slug, name, **common)
        else:
            issuer = issuers.create_issuer(slug, name, years=options["years"], **common)
        self.told(issuer, options)

    # --- renew and re-key ---

    def outlook(self, options: dict[str, Any]) -> None:
        """What renewing and re-keying would do, from this issuer's own certificates."""
        found = outlook.outlook(_issuer(options["slug"]), timezone.now())
        told: dict[str, Any] = {
            "advice": str(found.advice.text),
            "in_force": found.current.live,
            "devices": found.current.devices,
            "outliving": found.outliving,
            "tried": found.trial.tried,
            "fitting": found.trial.fitting,
            "misfits": [
                {"serial_number": row.serial_number, "reason": reason} for row, reason in found.trial.misfits
            ],
            "renew": [str(statement.text) for statement in found.renewal],
            "rekey": [str(statement.text) for statement in found.rekey],
        }
        if options["json"]:
            self.stdout.write(json.dumps(told, ensure_ascii=False))
            return
        self.stdout.write(told["advice"])
        for title, name in (("Renew", "renew"), ("Re-key", "rekey")):
            self.stdout.write(f"{title}:")
            for text in told[name]:
                self.stdout.write(f"  {text}")
        for misfit in told["misfits"]:
            self.stdout.write(f"would not validate: {misfit['serial_number']}: {misfit['reason']}")

    def renew(self, options: dict[str, Any]) -> None:
        """A renewed certificate, or the request for one."""
        issuer = _issuer(options["slug"])
        if issuer.kind == IssuerKind.EXTERNAL:
            self.csr(options | {"out": None})
            return
        rollover.renew(issuer, years=options["years"], actor=ACTOR, now=timezone.now())
        self.told(issuer, options)

    def rekey(self, options: dict[str, Any]) -> None:
        """The next key; with ``--activate`` it is in use when this returns."""
        issuer, now = _issuer(options["slug"]), timezone.now()
        if options["at"] and options["activate"]:
            raise CommandError("--at and --activate exclude each other")
        made = rollover.rekey(
            issuer,
            algorithm=options["algorithm"],
            years=options["years"],
            activate_at=_moment(options["at"]),
            key_location=options["token"],
            actor=ACTOR,
            now=now,
        )
        if options["activate"]:
            made = rollover.activate(issuer, actor=ACTOR, now=now)
        self.told(issuer, options, made=_key_facts(made))

    def activate(self, options: dict[str, Any]) -> None:
        """The next key takes over, now or later."""
        issuer, now = _issuer(options["slug"]), timezone.now()
        if options["at"]:
            rollover.schedule(issuer, _moment(options["at"]), actor=ACTOR, now=now)
        else:
            rollover.activate(issuer, actor=ACTOR, now=now)
        self.told(issuer, options)

    def close(self, options: dict[str, Any]) -> None:
        """The end of one generation."""
        issuer = _issuer(options["slug"])
        issuer_key = issuer.keys.filter(generation=options["generation"]).first()
        if issuer_key is None:
            raise CommandError(f"{issuer.slug} has no key {options['generation']}")
        rollover.close(issuer_key, force=options["force"], actor=ACTOR, now=timezone.now())
        self.told(issuer, options)

    # --- the end ---

    def retire(self, options: dict[str, Any]) -> None:
        """No new certificates."""
        self.told(
            retirement.retire(_issuer(options["slug"]), actor=ACTOR, now=timezone.now()),
            options,
        )

    def resume(self, options: dict[str, Any]) -> None:
        """New certificates again."""
        self.told(
            retirement.resume(_issuer(options["slug"]), actor=ACTOR, now=timezone.now()),
            options,
        )

    def revoke(self, options: dict[str, Any]) -> None:
        """First what it would mean, and only with ``--yes`` the act."""
        issuer, now = _issuer(options["slug"]), timezone.now()
        if options["yes"]:
            concerned = retirement.revoke_issuer(
                issuer, reason=RevocationReason(options["reason"]), actor=ACTOR, now=now
            )
        else:
            concerned = retirement.consequences(issuer, now)
        told = {
            "certificates": concerned.certificates,
            "devices": concerned.devices,
            "subordinates": [row.slug for row in concerned.subordinates],
            "to_revoke_elsewhere": [row.serial_number for row in concerned.to_revoke_elsewhere],
            "revoked": options["yes"],
        }
        if options["json"]:
            self.stdout.write(json.dumps(told, ensure_ascii=False))
            return
        done = "was" if options["yes"] else "would be"
        self.stdout.write(
            f"{concerned.certificates} certificates in force: each {done} refused; "
            f"{concerned.devices} devices have to enrol again"
        )
        for row in concerned.subordinates:
            self.stdout.write(f"{row.slug} below it: ends with it")
        for certificate in concerned.to_revoke_elsewhere:
            self.stdout.write(f"ask the external CA to revoke {certificate.serial_number}")
        if not options["yes"]:
            self.stdout.write("nothing was done: add --yes")

    # --- below an external CA ---

    def csr(self, options: dict[str, Any]) -> None:
        """The request, made where there is none yet."""
        issuer = _issuer(options["slug"])
        pem = subordinate.request_pem(
            subordinate.request_certificate(issuer, actor=ACTOR, now=timezone.now())
        )
        if options["out"]:
            _write(options["out"], pem.encode())
        if options["json"]:
            self.told(issuer, options, csr=pem)
        elif not options["out"]:
            self.stdout.write(pem, ending="")

    def take_in(self, options: dict[str, Any]) -> None:
        """The answer of the external CA."""
        issuer = _issuer(options["slug"])
        try:
            files = [file.read_bytes() for file in options["files"]]
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}") from None
        done = subordinate.import_certificate(
            issuer,
            *files,
            anchor_is_last=options["anchor_is_last"],
            actor=ACTOR,
            now=timezone.now(),
        )
        if not options["json"]:
            for note in done.notes:
                self.stdout.write(f"note: {_line(note)}")
            if not done.new:
                self.stdout.write("imported before: nothing has changed")
        self.told(issuer, options, new=done.new, notes=list(done.notes))

    def export(self, options: dict[str, Any]) -> None:
        """The certificate, the chain or the bundle, to stdout or into a file."""
        wanted = [name for name in ("chain", "bundle", "der") if options[name]]
        if len(wanted) > 1:
            raise CommandError("DER holds one certificate, and a chain is no bundle: leave out one of them")
        issuer = _issuer(options["slug"])
        chosen = issuers.trust_bundle(issuer) if options["bundle"] else issuers.chain(issuer)
        if not wanted or options["der"]:
            chosen = chosen[:1]
        if not chosen:
            raise CommandError(f"the issuer {issuer.slug} has no certificate")
        pem = "".join(encode_pem(der) for der in chosen)
        content = chosen[0] if options["der"] else pem.encode()
        if options["out"]:
            _write(options["out"], content)
        elif not options["json"] and options["der"]:
            sys.stdout.buffer.write(content)
        elif not options["json"]:
            self.stdout.write(pem, ending="")
        if options["json"]:
            self.stdout.write(json.dumps({**_facts(issuer), "pem": pem}, ensure_ascii=False))


def _add_token(parser: CommandParser) -> None:
    parser.add_argument(
        "--token", metavar="URI", default="", help="keep the key in a PKCS #11 token: pkcs11:token=…;object=…"
    )


def _issuer(slug: str) -> Issuer:
    issuer = Issuer.objects.filter(slug=slug).first()
    if issuer is None:
        raise CommandError(f"there is no issuer {slug!r}")
    return issuer


def _moment(text: str | None) -> datetime | None:
    """A time with its zone; without one it is that of the server."""
    if not text:
        return None
    try:
        moment = parse_datetime(text)
    except ValueError:
        moment = None
    if moment is None:
        raise CommandError(f"{text!r} is no time; write it as 2027-01-31T06:00+00:00")
    return moment if timezone.is_aware(moment) else timezone.make_aware(moment)


def _write(file: Path, content: bytes) -> None:
    try:
        file.write_bytes(content)
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}") from None


def _line(text: str) -> str:
    """A failure is one line, whatever names stand in it."""
    return " ".join(text.split())


def _facts(issuer: Issuer) -> dict[str, Any]:
    issuer_key = issuer.keys.filter(state=IssuerKeyState.CURRENT).first()
    certificate = _certificate(issuer_key)
    return {
        "slug": issuer.slug,
        "name": issuer.name,
        "kind": issuer.kind,
        "state": issuer.state,
        "parent": issuer.parent.slug if issuer.parent else "",
        "trusted_for": issuer.trusted_for,
        "algorithm": issuer_key.algorithm if issuer_key else "",
        "generation": issuer_key.generation if issuer_key else None,
        "subject": certificate.subject if certificate else "",
        "serial_number": certificate.serial_number if certificate else "",
        "sha256": certificate.sha256 if certificate else "",
        "not_before": certificate.not_before.isoformat() if certificate else "",
        "not_after": certificate.not_after.isoformat() if certificate else "",
        "generations": [_key_facts(key) for key in issuers.keys_of(issuer)],
    }


def _key_facts(issuer_key: IssuerKey) -> dict[str, Any]:
    certificate = _certificate(issuer_key)
    return {
        "generation": issuer_key.generation,
        "state": issuer_key.state,
        "algorithm": issuer_key.algorithm,
        "not_after": certificate.not_after.isoformat() if certificate else "",
        "activate_at": issuer_key.activate_at.isoformat() if issuer_key.activate_at else "",
        "in_force": issuers.live_count(issuer_key),
    }


def _described(row: Mapping[str, Any]) -> str:
    return (
        f"{row['slug']}  {row['kind']}  {row['state']}  {row['subject'] or '-'}  "
        f"until {row['not_after'] or '-'}  SHA-256 {row['sha256'] or '-'}"
    )


def _certificate(issuer_key: IssuerKey | None) -> IssuerCertificate | None:
    try:
        return issuers.current_certificate(issuer_key) if issuer_key else None
    except IssuerMissing:
        return None
