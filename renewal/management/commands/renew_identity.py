"""Renew the identity of a device now, or let an expired one in for one renewal."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from audit.recording import Actor
from devices.models import Channel, Enrollment, EnrollmentState
from renewal import identities, permits
from renewal.identities import NotRenewable
from renewal.permits import PermitRefused

ACTOR = Actor(name="command line")


class Command(BaseCommand):
    help = "Has a device get a new certificate, without a new enrolment."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("serial", metavar="SERIAL", help="serial number of the device")
        parser.add_argument(
            "--let-in",
            type=int,
            metavar="HOURS",
            help="its certificate has expired: let it in for this one renewal, for so long",
        )
        parser.add_argument("--note", default="", help="why it is let in; kept in the record")
        parser.add_argument("--json", action="store_true", help="one JSON document on stdout")

    def handle(self, *args: Any, **options: Any) -> None:
        enrollment = Enrollment.objects.filter(
            device__serial_number=options["serial"],
            channel=Channel.DEVICE,
            state=EnrollmentState.ENROLLED,
        ).first()
        if enrollment is None:
            raise CommandError(f"There is no enrolled device {options['serial']}.")
        now, until = timezone.now(), None
        try:
            if options["let_in"] is None:
                renewal = identities.renew(enrollment, actor=ACTOR, now=now)
            else:
                permit = permits.grant(
                    enrollment,
                    actor=ACTOR,
                    now=now,
                    time=timedelta(hours=options["let_in"]),
                    note=options["note"],
                )
                renewal, until = permit.renewal, permit.until
        except (NotRenewable, PermitRefused) as refused:
            raise CommandError(f"Nothing was changed: {refused.reason}.") from refused
        document = {
            "serial_number": options["serial"],
            "renewal": str(renewal.uuid),
            "state": renewal.state,
            "let_in_until": until.isoformat() if until else None,
        }
        if options["json"]:
            self.stdout.write(json.dumps(document))
        else:
            let_in = f" It is let in until {until:%Y-%m-%d %H:%M} UTC." if until else ""
            self.stdout.write(f"{options['serial']} gets a new certificate when it connects.{let_in}")
