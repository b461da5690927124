"""Issued certificates: list, show, revoke."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db.models import Q, QuerySet
from django.utils import timezone

from audit.recording import Actor
from pki.core.certificates import encode_pem
from pki.models import Certificate, CertificateStatus, Purpose, RevocationReason
from pki.records import normal_hexadecimal
from pki.revocation import RevocationRefused, revoke
from pki.searching import certificates_of, found_by


class Command(BaseCommand):
    help = "Lists, shows and revokes certificates."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|revoke")
        listing = actions.add_parser("list", help="certificates, the newest first")
        listing.add_argument("--purpose", choices=[purpose.value for purpose in Purpose])
        listing.add_argument("--status", choices=[status.value for status in CertificateStatus])
        listing.add_argument("--issuer", metavar="SLUG")
        listing.add_argument(
            "--expiring", type=int, metavar="DAYS", help="only those in force that end within so many days"
        )
        listing.add_argument("--expired", action="store_true", help="only those that ended")
        listing.add_argument("--generation", type=int, metavar="N", help="only those of this key generation")
        listing.add_argument(
            "--search", metavar="TEXT", help="as the search of the admin: number, fingerprint, name, device"
        )
        listing.add_argument("--device", metavar="DEVICE", help="serial number, UDID or name of a device")
        listing.add_argument("--limit", type=int, metavar="N", help="at most so many")
        listing.add_argument("--json", action="store_true", help="one JSON document on stdout")
        for name, text in (("show", "what is on record, and the PEM"), ("revoke", "refuse it from now on")):
            one = actions.add_parser(name, help=text)
            one.add_argument("serial", help="serial number or SHA-256 fingerprint, hexadecimal")
            one.add_argument("--issuer", metavar="SLUG", help="where two issuers used the same serial number")
            one.add_argument("--json", action="store_true", help="one JSON document on stdout")
            if name == "revoke":
                one.add_argument(
                    "--reason",
                    choices=[reason.value for reason in RevocationReason],
                    default=RevocationReason.UNSPECIFIED.value,
                )

    def handle(self, *args: Any, **options: Any) -> None:
        match options["action"]:
            case "list":
                self.list_rows(options)
            case "show":
                self.show(_find(options), as_json=options["json"])
            case "revoke":
                self.revoke(options)

    def list_rows(self, options: dict[str, Any]) -> None:
        """One line for each certificate, or all of them as JSON."""
        rows = _listed(options, timezone.now())
        listed = [_facts(row) for row in rows.iterator(chunk_size=2000)]
        if options["json"]:
            self.stdout.write(json.dumps(listed, ensure_ascii=False))
            return
        for facts in listed:
            self.stdout.write(
                f"{facts['serial_number']}  {facts['status']}  {facts['purpose']}  {facts['issuer']}  "
                f"until {facts['not_after']}  {facts['subject']}"
            )

    def show(self, certificate: Certificate, *, as_json: bool) -> None:
        """What is on record of one certificate, then its PEM."""
        facts = _facts(certificate) | {
            "sha256": certificate.sha256,
            "public_key_sha256": certificate.public_key_sha256,
            "subject_alternative_name": certificate.subject_alternative_name,
            "binding": str(certificate.binding or ""),
            "revoked_at": certificate.revoked_at.isoformat() if certificate.revoked_at else "",
            "revocation_reason": certificate.revocation_reason,
        }
        pem = encode_pem(bytes(certificate.der))
        if as_json:
            self.stdout.write(json.dumps(facts | {"pem": pem}, ensure_ascii=False))
            return
        for name, value in facts.items():
            if value:
                self.stdout.write(f"{name}: {value}")
        self.stdout.write(pem, ending="")

    def revoke(self, options: dict[str, Any]) -> None:
        """Revoke one certificate; the new CRL is out when this returns."""
        certificate = _find(options)
        try:
            revoke(
                certificate,
                reason=RevocationReason(options["reason"]),
                actor=Actor(name="command line"),
                now=timezone.now(),
            )
        except RevocationRefused as refused:
            raise CommandError(refused.reason) from None
        if options["json"]:
            self.stdout.write(json.dumps(_facts(certificate), ensure_ascii=False))
        else:
            self.stdout.write(f"{certificate.serial_number} is revoked")


def _listed(options: dict[str, Any], now: datetime) -> QuerySet[Certificate]:
    """The certificates that all the filters fit."""
    rows: QuerySet[Certificate] = Certificate.objects.select_related("issuer_key__issuer").defer("der")
    simple = {
        "purpose": options["purpose"],
        "status": options["status"],
        "issuer_key__issuer__slug": options["issuer"],
        "issuer_key__generation": options["generation"],
    }
    rows = rows.filter(**{field: value for field, value in simple.items() if value is not None})
    if options["expiring"] is not None:
        rows = rows.filter(
            status=CertificateStatus.ISSUED,
            not_after__gt=now,
            not_after__lte=now + timedelta(days=options["expiring"]),
        )
    if options["expired"]:
        rows = rows.filter(not_after__lt=now)
    if options["device"] is not None:
        rows = rows.filter(pk__in=certificates_of(options["device"]))
    if options["search"] is not None:
        rows = found_by(options["search"], rows)
    return rows[: options["limit"]]


def _find(options: dict[str, Any]) -> Certificate:
    wanted = normal_hexadecimal(options["serial"])
    if not wanted:
        raise CommandError(f"{options['serial']!r} is not hexadecimal")
    rows = Certificate.objects.select_related("issuer_key__issuer").filter(
        Q(serial_number=wanted) | Q(sha256=wanted.lower())
    )
    if options["issuer"]:
        rows = rows.filter(issuer_key__issuer__slug=options["issuer"])
    found = list(rows[:2])
    if not found:
        raise CommandError(f"there is no certificate {options['serial']}")
    if len(found) > 1:
        raise CommandError("several issuers used this serial number: add --issuer, or give the fingerprint")
    return found[0]


def _facts(certificate: Certificate) -> dict[str, Any]:
    return {
        "serial_number": certificate.serial_number,
        "subject": certificate.subject,
        "issuer": certificate.issuer_key.issuer.slug,
        "purpose": certificate.purpose,
        "not_before": certificate.not_before.isoformat(),
        "not_after": certificate.not_after.isoformat(),
        "status": certificate.status,
    }
