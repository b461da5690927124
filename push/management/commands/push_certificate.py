"""The APNs push certificate: request, have it signed, import, list; and the MDM vendor certificate."""

from __future__ import annotations

import getpass
import json
import os
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from audit.recording import Actor
from push import certificates, vendors
from push.core import vendor as vendor_files
from push.core.pushcert import MAX_SIZE
from push.models import PushCertificate, PushCertificateState, VendorCertificate

ACTOR = Actor(name="command line")
PORTAL = "https://identity.apple.com/pushcert"


class Command(BaseCommand):
    help = (
        "Makes a request for an APNs push certificate, signs it as an MDM vendor or takes what one signed, "
        "imports the certificate, lists what there is."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)

        for name in ("csr", "request"):
            csr = actions.add_parser(
                name, help="make a key and a request (PKCS #10) for an MDM vendor to sign"
            )
            csr.add_argument("--cn", default="Bramley", help="the name in the request")
            csr.add_argument("--renew", metavar="TOPIC", help="the answer shall have this topic, in use now")
            csr.add_argument("--out", type=Path, help="write the request there instead of stdout")
            csr.add_argument("--json", action="store_true")

        sign = actions.add_parser("sign", help="sign a request with an MDM vendor certificate that is here")
        _add_request_options(sign)
        sign.add_argument("--vendor", type=int, help="number of the vendor certificate (vendor list)")

        signed = actions.add_parser("import-request", help="check and keep the signed request of a vendor")
        signed.add_argument("file", type=Path)
        _add_request_options(signed)

        vendor = actions.add_parser("vendor", help="MDM vendor certificates: import, list, retire")
        vendor_actions = vendor.add_subparsers(dest="vendor_action", required=True)
        vendor_import = vendor_actions.add_parser("import", help="keep one with its key: PEM, DER, PKCS #12")
        _add_file_options(vendor_import)
        vendor_list = vendor_actions.add_parser("list", help="the vendor certificates that are here")
        vendor_list.add_argument("--json", action="store_true")
        vendor_retire = vendor_actions.add_parser("retire", help="sign nothing with it any more")
        vendor_retire.add_argument("number", type=int)
        vendor_retire.add_argument("--json", action="store_true")

        import_ = actions.add_parser("import", help="take a certificate into use: PEM, DER, PKCS #12")
        _add_file_options(import_)
        import_.add_argument(
            "--confirm-topic-change",
            action="store_true",
            help="take a certificate of another topic: devices of the old topic cannot be woken with it",
        )

        list_ = actions.add_parser("list", help="the certificates in use")
        list_.add_argument("--all", action="store_true", help="also replaced ones and open requests")
        list_.add_argument("--json", action="store_true")

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            getattr(self, f"_{options['action'].replace('-', '_')}")(options)
        except certificates.PushCertificateRefused as refused:
            raise CommandError(refused.reason) from refused
        except OSError as error:
            raise CommandError(f"{error.filename or 'file'}: {error.strerror}") from error

    def _csr(self, options: dict[str, Any]) -> None:
        renews = None
        if options["renew"] and (renews := certificates.active(options["renew"])) is None:
            raise CommandError(f"no push certificate of the topic {options['renew']} is in use")
        made = certificates.create_request(options["cn"], ACTOR, renews=renews)
        pem = certificates.request_pem(made).decode()
        if options["out"] is not None:
            options["out"].write_text(pem)
        if options["json"]:
            self._print_json({"request": made.pk, "common_name": made.common_name, "csr": pem})
        elif options["out"] is None:
            self.stdout.write(pem, ending="")

    _request = _csr

    def _sign(self, options: dict[str, Any]) -> None:
        now = timezone.now()
        usable = vendors.usable_vendors(now)
        signer = (
            VendorCertificate.objects.filter(pk=options["vendor"]).first()
            if options["vendor"] is not None
            else usable.first()
        )
        if signer is None:
            raise CommandError("there is no such vendor certificate: see push_certificate vendor list")
        request = _open_request(options["request"])
        self._write_signed(vendors.sign_request(request, signer, actor=ACTOR, now=now), options)

    def _import_request(self, options: dict[str, Any]) -> None:
        request = _open_request(options["request"]) if options["request"] is not None else None
        with options["file"].open("rb") as file:
            data = file.read(vendor_files.MAX_SIZE + 1)
        kept = vendors.import_signed_request(data, request, actor=ACTOR, now=timezone.now())
        self._write_signed(kept, options)

    def _write_signed(self, request: PushCertificate, options: dict[str, Any]) -> None:
        text = bytes(request.signed_request).decode()
        if options["out"] is not None:
            options["out"].write_text(text)
        if options["json"]:
            self._print_json({"request": request.pk, "signed_by": request.signed_by, "signed_request": text})
        elif options["out"] is None:
            self.stdout.write(text)
        else:
            self.stdout.write(f"signed by {request.signed_by}: upload {options['out']} at {PORTAL}")

    def _vendor(self, options: dict[str, Any]) -> None:
        getattr(self, f"_vendor_{options['vendor_action']}")(options)

    def _vendor_import(self, options: dict[str, Any]) -> None:
        data = _read(options["file"])
        key = _read(options["key"]) if options["key"] is not None else b""
        row = vendors.import_vendor(
            data, password=_password(options, data + key), private_key=key, actor=ACTOR, now=timezone.now()
        )
        self._show_vendors([row], options)

    def _vendor_list(self, options: dict[str, Any]) -> None:
        self._show_vendors(list(VendorCertificate.objects.all()), options, as_list=True)

    def _vendor_retire(self, options: dict[str, Any]) -> None:
        row = VendorCertificate.objects.filter(pk=options["number"]).first()
        if row is None:
            raise CommandError("there is no such vendor certificate: see push_certificate vendor list")
        vendors.retire_vendor(row, actor=ACTOR, now=timezone.now())
        row.refresh_from_db()
        self._show_vendors([row], options)

    def _show_vendors(
        self, rows: list[VendorCertificate], options: dict[str, Any], *, as_list: bool = False
    ) -> None:
        if options["json"]:
            documents = [_vendor_facts(row) for row in rows]
            self._print_json(documents if as_list else documents[0])
            return
        for row in rows:
            retired = "  out of use" if row.retired_at is not None else ""
            self.stdout.write(
                f"{row.pk}  {row}  until {row.not_after:%Y-%m-%d}  {row.serial_number}{retired}"
            )

    def _import(self, options: dict[str, Any]) -> None:
        data = _read(options["file"])
        key = _read(options["key"]) if options["key"] is not None else b""
        made = certificates.import_certificate(
            data,
            private_key=key,
            password=_password(options, data + key),
            confirm_topic_change=options["confirm_topic_change"],
            actor=ACTOR,
            now=timezone.now(),
        )
        if warning := certificates.provenance_of(made, timezone.now()).warning:
            self.stderr.write(str(warning))
        if options["json"]:
            self._print_json(_facts(made))
        else:
            self.stdout.write(_line(made))

    def _list(self, options: dict[str, Any]) -> None:
        rows = PushCertificate.objects.all()
        if not options["all"]:
            rows = rows.filter(state=PushCertificateState.ACTIVE)
        if options["json"]:
            self._print_json([_facts(row) for row in rows])
            return
        for row in rows:
            self.stdout.write(_line(row))

    def _print_json(self, document: Any) -> None:
        self.stdout.write(json.dumps(document))


def _add_file_options(parser: CommandParser) -> None:
    parser.add_argument("file", type=Path)
    parser.add_argument("--key", type=Path, help="the private key, if it is neither here nor in FILE")
    parser.add_argument("--password-file", help="first line: password of FILE or of the key; - is stdin")
    parser.add_argument("--password", help="the same; other users of this machine can see it")
    parser.add_argument("--json", action="store_true")


def _add_request_options(parser: CommandParser) -> None:
    parser.add_argument(
        "--request", type=int, help="number of the request (list --all); else the newest open"
    )
    parser.add_argument("--out", type=Path, help="write what Apple's portal takes there instead of stdout")
    parser.add_argument("--json", action="store_true")


def _open_request(number: int | None) -> PushCertificate:
    rows = PushCertificate.objects.filter(state=PushCertificateState.REQUESTED)
    row = (rows.filter(pk=number) if number is not None else rows.order_by("-id")).first()
    if row is None:
        raise CommandError("there is no such open request: see push_certificate list --all")
    return row


def _vendor_facts(row: VendorCertificate) -> dict[str, str | int | bool]:
    return {
        "vendor": row.pk,
        "common_name": row.common_name,
        "serial_number": row.serial_number,
        "not_after": row.not_after.isoformat(),
        "sha256": row.sha256,
        "retired": row.retired_at is not None,
    }


def _facts(row: PushCertificate) -> dict[str, str | None]:
    return {
        "topic": row.topic,
        "not_after": row.not_after.isoformat() if row.not_after else None,
        "serial_number": row.serial_number,
        "state": row.state,
        "held_reason": row.held_reason,
    }


def _line(row: PushCertificate) -> str:
    if row.not_after is None:
        renews = f"  renews {row.topic}" if row.topic else ""
        signed = f"  signed by {row.signed_by}" if row.signed_by else ""
        return f"request {row.pk}  {row.common_name}{renews}{signed}"
    held = f"  held: {row.held_reason}" if row.held_reason else ""
    return f"{row.topic}  until {row.not_after:%Y-%m-%d}  {row.serial_number}  {row.state.lower()}{held}"


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_SIZE + 1)


def _password(options: dict[str, Any], data: bytes) -> str:
    """From the option, the file, the environment, or the person at the terminal where one seems needed."""
    if options["password"] is not None:
        return str(options["password"])
    if options["password_file"] == "-":  # noqa: S105 - no password
        return sys.stdin.readline().rstrip("\r\n")
    if options["password_file"]:
        return Path(options["password_file"]).read_text().partition("\n")[0].rstrip("\r")
    if from_environment := os.environ.get("BRAMLEY_PUSH_PASSWORD"):
        return from_environment
    if _seems_encrypted(data) and sys.stdin.isatty():
        return getpass.getpass("Password of the file (empty if it has none): ")
    return ""


def _seems_encrypted(data: bytes) -> bool:
    return b"ENCRYPTED" in data or not data.lstrip().startswith(b"-----BEGIN")
