"""The direct enrolment profile, for scripted installs and for handing out by other ways."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.utils import timezone

from audit import recording
from audit.recording import Actor
from enrollment.access import BY_ADMINISTRATOR, AccessRefused
from enrollment.direct import NotOffered, Offered, offer
from enrollment.models import EnrollmentProfile
from enrollment.topic import obstacles


class Command(BaseCommand):
    help = "Makes one direct enrolment profile: for one device, with a challenge of its own."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("slug", help="short name of the enrolment profile, as in /enroll/<slug>/")
        parser.add_argument("--unsigned", action="store_true", help="the bare XML property list")
        parser.add_argument(
            "--out", type=Path, metavar="FILE", help="write it here (mode 0600), not to stdout"
        )
        parser.add_argument("--serial", default="", help="only the device with this serial number may use it")
        parser.add_argument(
            "--replace",
            action="store_true",
            help="the device of --serial may replace its present enrolment",
        )
        parser.add_argument("--json", action="store_true", help="one JSON document on stdout; needs --out")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["json"] and not options["out"]:
            raise CommandError("--json needs --out FILE: the profile itself is not JSON.")
        if options["replace"] and not options["serial"]:
            raise CommandError("--replace needs --serial: it approves one device beforehand.")
        profile = EnrollmentProfile.objects.filter(slug=options["slug"]).select_related("issuer").first()
        if profile is None:
            raise CommandError(f"There is no enrolment profile “{options['slug']}”.")
        offered = self.make(profile, options)
        if options["out"]:
            write_private(options["out"], offered.mobileconfig)
        else:
            sys.stdout.buffer.write(offered.mobileconfig)
        if options["json"]:
            self.stdout.write(
                json.dumps(
                    {
                        "file": str(options["out"]),
                        "session": str(offered.session.uuid),
                        "expires_at": offered.session.expires_at.isoformat(),
                    }
                )
            )
        for obstacle in obstacles(profile):
            self.stderr.write(obstacle)

    def make(self, profile: EnrollmentProfile, options: dict[str, Any]) -> Offered:
        """The offer and its audit record in one transaction."""
        try:
            with transaction.atomic():
                offered = offer(
                    profile,
                    admitted=BY_ADMINISTRATOR,
                    remote_addr="",
                    user_agent="enroll_profile",
                    now=timezone.now(),
                    expected_serial_number=options["serial"].strip(),
                    pre_approved=options["replace"],
                    signed=not options["unsigned"],
                )
                recording.record(
                    "enrollment_session.created",
                    actor=Actor("command line"),
                    target=offered.session,
                    details={
                        "expected_serial_number": offered.session.expected_serial_number,
                        "pre_approved": offered.session.pre_approved,
                    },
                )
        except (NotOffered, AccessRefused) as refusal:
            raise CommandError(f"Not possible: {refusal.reason}") from refusal
        return offered


def write_private(path: Path, content: bytes) -> None:
    """The profile holds a challenge: only its owner may read the file."""
    try:
        path.touch(mode=0o600)
        path.chmod(0o600)
        path.write_bytes(content)
    except OSError as error:
        raise CommandError(f"Cannot write {path}: {error.strerror}.") from error
