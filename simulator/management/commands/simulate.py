"""Simulated devices that enrol and answer over HTTP: for trying out, demos, tests and load."""

from __future__ import annotations

import io
import ipaddress
import json
import secrets
from argparse import ArgumentParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from simulator.device_ca import (
    CERTIFICATE_FILE,
    DeviceCa,
    DeviceCaError,
    kept_device_ca,
    read_device_ca,
)
from simulator.fleet import Fleet, Plan, Report
from simulator.over_the_air import SECOND, Misbehaviour
from simulator.trust import Trust

TRUSTED_MINUTES = 60


class Command(BaseCommand):
    help = "Enrols simulated devices at a server, lets them connect and answer commands."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--url", default="", help="the server's address, or that of an enrolment page")
        parser.add_argument("--devices", type=int, default=0, metavar="N", help="how many")
        parser.add_argument("--flow", choices=["direct", "ota"], default="direct", help="way of enrolling")
        parser.add_argument(
            "--device-ca",
            type=Path,
            metavar="DIR",
            help="over the air: the CA that made the devices, as --make-device-ca wrote it. Without it the "
            "simulator's own, which a server on this machine is told to trust for an hour",
        )
        parser.add_argument(
            "--make-device-ca",
            type=Path,
            metavar="DIR",
            help=f"only write a device CA there; tell the server by trust_device_ca DIR/{CERTIFICATE_FILE}",
        )
        parser.add_argument(
            "--misbehave",
            choices=[kind.value for kind in Misbehaviour],
            default=Misbehaviour.NONE.value,
            help="over the air: go away after phase 2 and begin anew, send every message twice, or take the "
            "wrong identity for each phase first",
        )
        parser.add_argument(
            "--enroll", default="", metavar="SLUG", help="enrolment profile (default: default)"
        )
        parser.add_argument(
            "--code",
            default="",
            help="where the enrolment profile asks for a code: this one, for all devices",
        )
        parser.add_argument(
            "--codes", type=Path, metavar="FILE", help="the same, with codes in turn: one on each line"
        )
        parser.add_argument(
            "--login",
            default="",
            metavar="NAME",
            help="where it asks people to sign in: this account of the server, with the password of "
            "--password-file",
        )
        parser.add_argument(
            "--password-file", type=Path, metavar="FILE", help="its first line is the password for --login"
        )
        parser.add_argument("--rounds", type=int, default=1, metavar="K", help="connects of each device")
        parser.add_argument("--pause", type=float, default=1.0, metavar="S", help="seconds between rounds")
        parser.add_argument("--poll", type=float, default=0.0, metavar="S", help="then go on for S seconds")
        parser.add_argument(
            "--interval", type=float, default=2.0, metavar="S", help="between polls (default 2)"
        )
        parser.add_argument(
            "--not-now", type=float, default=0.0, metavar="P", help="chance of NotNow, 0 to 1"
        )
        parser.add_argument(
            "--errors", type=float, default=0.0, metavar="P", help="chance of an Error, 0 to 1"
        )
        parser.add_argument(
            "--signature",
            choices=["mixed", "plain", "attributes", "none"],
            default="mixed",
            help="Mdm-Signature without signed attributes (plain), with, or both kinds among the devices; "
            "or none, for mutual TLS",
        )
        parser.add_argument(
            "--mutual-tls",
            action="store_true",
            help="show the device's identity in TLS at the MDM addresses",
        )
        parser.add_argument(
            "--seed", default="", help="the same seed makes the same devices (default: new ones)"
        )
        parser.add_argument(
            "--keys", type=Path, metavar="DIR", help="keep private keys there and use them again"
        )
        parser.add_argument(
            "--state", type=Path, metavar="DIR", help="keep devices there; go on with them later"
        )
        parser.add_argument("--leave", action="store_true", help="check out at the end")
        parser.add_argument(
            "--at-once", type=int, default=16, metavar="N", help="devices at a time (default 16)"
        )
        parser.add_argument(
            "--retries", type=int, default=4, help="tries after no answer, 429 or 5xx (default 4)"
        )
        parser.add_argument(
            "--ca",
            type=Path,
            metavar="FILE",
            help="PEM roots to trust for https, in place of those of this system (and, for a server on this "
            "machine, of its own issuers)",
        )
        parser.add_argument("--insecure", action="store_true", help="do not verify the server's certificate")
        parser.add_argument(
            "--trust-profile",
            action="store_true",
            help="once the profile is installed, trust the roots in it and no other; "
            "--ca and --insecure hold before",
        )
        parser.add_argument(
            "--stay", action="store_true", help="use the address of --url for all, whatever the profile says"
        )
        parser.add_argument("--json", action="store_true", help="nothing on stdout but one JSON document")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["make_device_ca"]:
            self.make_device_ca(options["make_device_ca"])
            return
        plan = plan_of(options)
        say = (lambda _text: None) if options["json"] else self.stdout.write
        if plan.device_ca is not None and options["device_ca"] is None and is_this_machine(options["url"]):
            trust_here(own_device_ca(options["state"]))
        try:
            report = Fleet(plan, say=say).run()
        except KeyboardInterrupt:
            raise CommandError("Interrupted.") from None
        self.tell(report)
        if report.error_count:
            if any(f"{SECOND}: HTTP 400" in error for error in report.errors):
                file = (options["device_ca"] or own_device_ca(options["state"])) / CERTIFICATE_FILE
                self.stderr.write(f"Does the server know the devices' CA? There: trust_device_ca {file}")
            raise CommandError(f"{report.error_count} errors.")

    def make_device_ca(self, folder: Path) -> None:
        """Write a device CA, or say that there is one."""
        try:
            kept_device_ca(folder)
        except (DeviceCaError, OSError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(str(folder / CERTIFICATE_FILE))

    def tell(self, report: Report) -> None:
        """Errors on stderr, one a line; the counts as the last line of stdout."""
        for error in report.errors:
            self.stderr.write(error)
        for again in report.twice:
            self.stderr.write(f"came again after its answer: {again}")
        self.stdout.write(json.dumps(report.as_json()))


def plan_of(options: dict[str, Any]) -> Plan:
    """The plan that the options describe. Raises CommandError."""
    for name in ("devices", "at_once"):
        if options[name] < 1:
            raise CommandError(f"--{name.replace('_', '-')} is at least 1.")
    for name in ("rounds", "retries", "pause", "poll"):
        if options[name] < 0:
            raise CommandError(f"--{name} is not negative.")
    for name in ("not_now", "errors"):
        if not 0 <= options[name] <= 1:
            raise CommandError(f"--{name.replace('_', '-')} is between 0 and 1.")
    return Plan(
        profile_url=profile_url(options["url"], options["enroll"], options["flow"]),
        devices=options["devices"],
        device_ca=device_ca_of(options),
        misbehaviour=Misbehaviour(options["misbehave"]),
        rounds=options["rounds"],
        pause=options["pause"],
        poll=options["poll"],
        interval=max(0.05, options["interval"]),
        not_now=options["not_now"],
        errors=options["errors"],
        signatures=options["signature"],
        seed=options["seed"] or secrets.token_hex(8),
        keys=options["keys"],
        state=options["state"],
        leave=options["leave"],
        at_once=options["at_once"],
        retries=options["retries"],
        trust=trust_of(options),
        mutual_tls=options["mutual_tls"],
        stay_at=options["url"] if options["stay"] else "",
        codes=codes_of(options),
        login=login_of(options),
    )


def codes_of(options: dict[str, Any]) -> tuple[str, ...]:
    """The codes to type. Raises CommandError."""
    if options["code"] and options["codes"]:
        raise CommandError("--code or --codes, not both.")
    if not options["codes"]:
        return (options["code"],) if options["code"] else ()
    codes = tuple(line.strip() for line in read_lines(options["codes"]) if line.strip())
    if not codes:
        raise CommandError(f"{options['codes']} has no codes.")
    return codes


def login_of(options: dict[str, Any]) -> tuple[str, str] | None:
    """Name and password of the account that signs in. Raises CommandError."""
    if bool(options["login"]) != bool(options["password_file"]):
        raise CommandError("--login and --password-file go together.")
    if not options["login"]:
        return None
    if options["code"] or options["codes"]:
        raise CommandError("A code or --login, not both.")
    lines = read_lines(options["password_file"])
    if not lines or not lines[0]:
        raise CommandError(f"{options['password_file']} has no password in its first line.")
    return options["login"], lines[0]


def read_lines(file: Path) -> list[str]:
    """The lines of a text file. Raises CommandError."""
    try:
        return file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"Cannot read {file}: {error}") from error


def device_ca_of(options: dict[str, Any]) -> DeviceCa | None:
    """The CA that made the devices, for the way over the air. Raises CommandError."""
    if options["flow"] != "ota":
        return None
    try:
        if options["device_ca"]:
            return read_device_ca(options["device_ca"])
        return kept_device_ca(own_device_ca(options["state"]))
    except (DeviceCaError, OSError) as error:
        raise CommandError(str(error)) from error


def own_device_ca(state: Path | None) -> Path:
    """Where the simulator keeps its own device CA: with the devices, else with what this machine keeps."""
    return state or Path(settings.BRAMLEY_HOME) / "simulator"


def is_this_machine(url: str) -> bool:
    """Whether the address is one of this very machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def trust_here(folder: Path) -> None:
    """Tell the server on this machine to trust the simulator's device CA, for as long as a run may take.

    By the command that an administrator has, and with its record. Where it is another server than that of
    these settings, it goes on knowing nothing of the CA.
    """
    minutes = str(TRUSTED_MINUTES)
    try:
        call_command(
            "trust_device_ca", str(folder / CERTIFICATE_FILE), "--minutes", minutes, stdout=io.StringIO()
        )
    except DatabaseError as error:
        raise CommandError(f"The database of this server does not answer: {error}") from error


def own_roots() -> str:
    """The roots of this server's own issuers (PEM), which nobody here has to be told to trust."""
    try:
        listed = json.loads(_output("issuer", "list", "--json"))
        return "".join(
            _output("issuer", "export", row["slug"], "--chain")
            for row in listed
            if row["kind"] != "TRUST_ONLY" and row["sha256"]
        )
    except (DatabaseError, CommandError):
        return ""


def _output(*command: str) -> str:
    written = io.StringIO()
    call_command(*command, stdout=written)
    return written.getvalue()


def profile_url(url: str, slug: str, flow: str = "direct") -> str:
    """The address where enrolling starts, from the server's and a slug or from any under /enroll/<slug>/."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise CommandError("--url is an http or https address.")
    base, marker, rest = parts.path.partition("/enroll/")
    named = rest.strip("/").split("/")[0] if marker else ""
    page = "ota" if flow == "ota" else "profile"
    if named and slug and named != slug:
        raise CommandError("--url and --enroll name different enrolment profiles.")
    return f"{parts.scheme}://{parts.netloc}{base.rstrip('/')}/enroll/{named or slug or 'default'}/{page}"


def trust_of(options: dict[str, Any]) -> Trust:
    """How https is verified. Raises CommandError."""
    unsaid = not options["ca"] and not options["insecure"]
    here = unsaid and options["url"].startswith("https://") and is_this_machine(options["url"])
    trust = Trust(
        ca=options["ca"],
        insecure=options["insecure"],
        profile_only=options["trust_profile"],
        more=own_roots() if here else "",
    )
    try:
        trust.context()
    except OSError as error:
        raise CommandError(f"Cannot read {options['ca']}: {error}") from error
    return trust
