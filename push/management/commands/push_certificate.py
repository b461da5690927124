"""The APNs push certificate: request, import, list."""

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
from push import certificates
from push.core.pushcert import MAX_SIZE
from push.models import PushCertificate, PushCertificateState

ACTOR = Actor(name="command line")


class Command(BaseCommand):
    help = "Makes a request for an APNs push certificate, imports the certificate, lists what there is."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)

        csr = actions.add_parser("csr", help="make a key and a request (PKCS #10) for Apple's portal")
        csr.add_argument("--cn", default="Bramley", help="the name in the request")
        csr.add_argument("--out", type=Path, help="write the request there instead of stdout")
        csr.add_argument("--json", action="store_true")

        import_ = actions.add_parser("import", help="take a certificate into use: PEM, DER, PKCS #12")
        import_.add_argument("file", type=Path)
        import_.add_argument("--key", type=Path, help="the private key, if it is neither here nor in FILE")
        import_.add_argument("--password-file", help="first line: password of FILE or of the key; - is stdin")
        import_.add_argument("--password", help="the same; other users of this machine can see it")
        import_.add_argument(
            "--confirm-topic-change",
            action="store_true",
            help="take a certificate of another topic: devices of the old topic cannot be woken with it",
        )
        import_.add_argument("--json", action="store_true")

        list_ = actions.add_parser("list", help="the certificates in use")
        list_.add_argument("--all", action="store_true", help="also replaced ones and open requests")
        list_.add_argument("--json", action="store_true")

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            getattr(self, f"_{options['action']}")(options)
        except certificates.PushCertificateRefused as refused:
            raise CommandError(refused.reason) from refused
        except OSError as error:
            raise CommandError(f"{error.filename or 'file'}: {error.strerror}") from error

    def _csr(self, options: dict[str, Any]) -> None:
        made = certificates.create_request(options["cn"], ACTOR)
        pem = certificates.request_pem(made).decode()
        if options["out"] is not None:
            options["out"].write_text(pem)
        if options["json"]:
            self._print_json({"common_name": made.common_name, "csr": pem})
        elif options["out"] is None:
            self.stdout.write(pem, ending="")

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
        return f"request  {row.common_name}"
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
