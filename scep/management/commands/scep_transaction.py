"""SCEP requests: what was asked and answered, and what waits: approve or reject it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from audit.recording import Actor
from pki.core.names import NameRefused
from scep import approvals
from scep.core import names_text
from scep.core.webhook import MAX_DAYS
from scep.models import Transaction, TransactionStatus
from scep.transactions import Proposal

ACTOR = Actor(name="command line")


class Command(BaseCommand):
    help = "SCEP requests and their outcomes; approve or reject those that wait."

    def add_arguments(self, parser: CommandParser) -> None:
        acts = parser.add_subparsers(dest="act", required=True, metavar="list|approve|reject")
        listing = acts.add_parser("list", help="the newest first")
        listing.add_argument(
            "--status", choices=[str(value).lower() for value in TransactionStatus.values], help="only these"
        )
        listing.add_argument("--service", metavar="NAME", help="only of this service")
        listing.add_argument("--limit", type=int, default=50, metavar="N", help="how many (default: 50)")
        approving = acts.add_parser(
            "approve", help="issue the certificate: what the request proposes, or what is said here"
        )
        approving.add_argument("id", type=int, help="as “list” shows it")
        approving.add_argument(
            "--subject", action="append", metavar="KEY=VALUE", help="a part of the subject; may be repeated"
        )
        approving.add_argument(
            "--san", action="append", metavar="KIND:VALUE", help="an alternative name; may be repeated"
        )
        approving.add_argument("--no-san", action="store_true", help="no alternative names")
        approving.add_argument("--days", type=int, metavar="N", help="days of validity")
        rejecting = acts.add_parser("reject", help="refuse it")
        rejecting.add_argument("id", type=int)
        rejecting.add_argument("--reason", default="", metavar="TEXT", help="for the record")
        for every in (listing, approving, rejecting):
            every.add_argument("--json", action="store_true", help="one JSON document on stdout")

    def handle(self, *args: Any, **options: Any) -> None:
        acts: dict[str, Callable[[dict[str, Any]], None]] = {
            "list": self._list,
            "approve": self._approve,
            "reject": self._reject,
        }
        acts[options["act"]](options)

    def _list(self, options: dict[str, Any]) -> None:
        rows = Transaction.objects.select_related("service", "certificate", "challenge")
        if options["status"]:
            rows = rows.filter(status=options["status"].upper())
        if options["service"]:
            rows = rows.filter(service__slug=options["service"])
        described = [_described(row) for row in rows[: max(options["limit"], 1)]]
        if options["json"]:
            self.stdout.write(json.dumps(described, ensure_ascii=False))
            return
        for row in described:
            self.stdout.write(
                f"{row['id']:6} {row['at']} {row['status']:8} {row['message_type']:10} {row['service']:12} "
                f"{row['subject']}  {row['reason']}".rstrip()
            )

    def _approve(self, options: dict[str, Any]) -> None:
        row = _row(options["id"])
        try:
            certificate = approvals.approve(row, _proposal(row, options), actor=ACTOR, now=timezone.now())
        except NameRefused as refused:
            raise CommandError(refused.reason) from None
        except approvals.DecisionRefused as refused:
            raise CommandError(refused.reason) from None
        said = {
            "id": row.pk,
            "serial_number": certificate.serial_number,
            "subject": certificate.subject,
            "subject_alternative_name": certificate.subject_alternative_name,
            "not_after": certificate.not_after.isoformat(timespec="seconds"),
        }
        self.stdout.write(
            json.dumps(said, ensure_ascii=False)
            if options["json"]
            else f"issued {certificate.serial_number}  {certificate.subject}"
        )

    def _reject(self, options: dict[str, Any]) -> None:
        row = _row(options["id"])
        try:
            approvals.reject(row, options["reason"], actor=ACTOR, now=timezone.now())
        except approvals.DecisionRefused as refused:
            raise CommandError(refused.reason) from None
        self.stdout.write(json.dumps({"id": row.pk, "status": "FAILURE"}) if options["json"] else "rejected")


def _proposal(row: Transaction, options: dict[str, Any]) -> Proposal:
    """What the request proposes, where nothing else was said."""
    subject, san, days = row.proposed_name, row.proposed_alternative_names, row.proposed_days
    if options["subject"]:
        subject = names_text.decode_subject("\n".join(options["subject"]))
    if options["no_san"]:
        san = ()
    if options["san"]:
        san = names_text.decode_names("\n".join(options["san"]))
    if options["days"] is not None:
        if not 1 <= options["days"] <= MAX_DAYS:
            raise CommandError(f"--days is a number from 1 to {MAX_DAYS}")
        days = options["days"]
    return Proposal(subject, san, days)


def _described(row: Transaction) -> dict[str, Any]:
    return {
        "id": row.pk,
        "at": row.created_at.isoformat(timespec="seconds"),
        "service": row.service.slug,
        "message_type": row.message_type,
        "status": row.status,
        "fail_info": row.fail_info,
        "reason": row.reason,
        "transaction_id": row.transaction_id,
        "subject": row.csr_subject,
        "names": row.csr_names,
        "extensions": row.csr_extensions,
        "key": row.csr_key,
        "csr_sha256": row.csr_sha256,
        "signer": row.signer_subject,
        "remote_addr": row.remote_addr,
        "certificate": row.certificate.serial_number if row.certificate else "",
        "challenge": str(row.challenge) if row.challenge else "",
        "proposed_subject": row.proposed_subject,
        "proposed_names": row.proposed_names,
        "expires_at": row.expires_at.isoformat(timespec="seconds") if row.expires_at else None,
        "decided_by": row.decided_by,
        "repeats": row.repeats,
    }


def _row(identifier: int) -> Transaction:
    row = Transaction.objects.select_related("service").filter(pk=identifier).first()
    if row is None:
        raise CommandError(f"there is no SCEP request {identifier}")
    return row
