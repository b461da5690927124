"""A re-key campaign from the command line: what the admin's pages do."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from audit.recording import Actor
from devices.models import Channel, Enrollment, EnrollmentState
from pki.models import Issuer
from renewal import campaigns
from renewal.campaigns import CampaignRefused
from renewal.figures import figures
from renewal.models import RekeyCampaign

ACTOR = Actor(name="command line")


class Command(BaseCommand):
    help = (
        "Leads a re-key campaign: the new root to devices, the new key, new certificates, the end of the old."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)

        def action(name: str, text: str) -> CommandParser:
            added: CommandParser = actions.add_parser(name, help=text)
            added.add_argument("issuer", help="short name of the issuer")
            added.add_argument("--json", action="store_true", help="one JSON document on stdout")
            return added

        action("preview", "what would happen, and to how many devices; changes nothing")
        start = action("start", "begin: devices get the new root")
        start.add_argument("--rate", type=int, default=60, metavar="N", help="devices a minute (60)")
        start.add_argument("--enough", type=int, default=95, metavar="PERCENT", help="with the new root (95)")
        start.add_argument("--activate", action="store_true", help="activate by itself when enough have it")
        action("status", "how far it is")
        action("pause", "ask no more devices")
        resume = action("resume", "go on")
        resume.add_argument("--rate", type=int, metavar="N", help="from now on so many devices a minute")
        retry = action("retry", "try again what failed")
        retry.add_argument("--serial", metavar="S", help="only this device, at once")
        for name, text in (
            ("activate", "the new key takes over"),
            ("close", "close the older keys: what hangs on them is refused"),
        ):
            action(name, text).add_argument("--force", action="store_true", help="although devices are left")
        action("abort", "give it up; keys stay as they are")

    def handle(self, *args: Any, **options: Any) -> None:
        issuer = Issuer.objects.filter(slug=options["issuer"]).first()
        if issuer is None:
            raise CommandError(f"There is no issuer {options['issuer']}.")
        try:
            document = getattr(self, f"_{options['action']}")(issuer, options)
        except CampaignRefused as refused:
            raise CommandError(f"Nothing was changed: {refused.reason}.") from refused
        if options["json"]:
            self.stdout.write(json.dumps(document))
            return
        for name, value in document.items():
            self.stdout.write(f"{name.replace('_', ' ')}: {'-' if value is None else value}")

    def _preview(self, issuer: Issuer, _options: dict[str, Any]) -> dict[str, Any]:
        found = campaigns.preview(issuer, timezone.now())
        return {
            "issuer": issuer.slug,
            "new_generation": found.new_key.generation,
            "old_generations": [issuer_key.generation for issuer_key in found.old],
            "new_key_in_use": found.is_active,
            "devices": found.figures.on_old,
            "silent": found.figures.silent,
            "expired": found.figures.expired,
            "leftover_certificates": found.figures.leftover,
        }

    def _start(self, issuer: Issuer, options: dict[str, Any]) -> dict[str, Any]:
        return facts(
            campaigns.start(
                issuer,
                actor=ACTOR,
                now=timezone.now(),
                threshold_percent=options["enough"],
                devices_per_minute=options["rate"],
                activate_automatically=options["activate"],
            )
        )

    def _status(self, issuer: Issuer, _options: dict[str, Any]) -> dict[str, Any]:
        campaign = RekeyCampaign.objects.filter(issuer=issuer).select_related("issuer", "new_key").first()
        if campaign is None:
            raise CommandError(f"There was no campaign of {issuer.slug} yet.")
        return facts(campaign)

    def _pause(self, issuer: Issuer, _options: dict[str, Any]) -> dict[str, Any]:
        return facts(campaigns.pause(running(issuer), actor=ACTOR, now=timezone.now()))

    def _resume(self, issuer: Issuer, options: dict[str, Any]) -> dict[str, Any]:
        return facts(
            campaigns.resume(
                running(issuer), actor=ACTOR, now=timezone.now(), devices_per_minute=options["rate"]
            )
        )

    def _retry(self, issuer: Issuer, options: dict[str, Any]) -> dict[str, Any]:
        campaign, now = running(issuer), timezone.now()
        if not options["serial"]:
            return facts(campaigns.retry(campaign, actor=ACTOR, now=now))
        enrollment = Enrollment.objects.filter(
            device__serial_number=options["serial"],
            channel=Channel.DEVICE,
            state=EnrollmentState.ENROLLED,
        ).first()
        if enrollment is None:
            raise CommandError(f"There is no enrolled device {options['serial']}.")
        campaigns.retry_device(campaign, enrollment, actor=ACTOR, now=now)
        return facts(campaign)

    def _activate(self, issuer: Issuer, options: dict[str, Any]) -> dict[str, Any]:
        return facts(
            campaigns.activate(running(issuer), actor=ACTOR, now=timezone.now(), force=options["force"])
        )

    def _close(self, issuer: Issuer, options: dict[str, Any]) -> dict[str, Any]:
        return facts(
            campaigns.close(running(issuer), actor=ACTOR, now=timezone.now(), force=options["force"])
        )

    def _abort(self, issuer: Issuer, _options: dict[str, Any]) -> dict[str, Any]:
        return facts(campaigns.abort(running(issuer), actor=ACTOR, now=timezone.now()))


def running(issuer: Issuer) -> RekeyCampaign:
    """The campaign that is under way. Raises CommandError."""
    campaign = campaigns.running(issuer)
    if campaign is None:
        raise CommandError(f"No campaign of {issuer.slug} is under way.")
    return campaign


def facts(campaign: RekeyCampaign) -> dict[str, Any]:
    """What scripts and people are told of a campaign."""
    found = figures(campaign, timezone.now())
    return {
        "issuer": campaign.issuer.slug,
        "new_generation": campaign.new_key.generation,
        "state": campaign.state,
        "paused": campaign.paused_at is not None,
        "devices_per_minute": campaign.devices_per_minute,
        "enough_percent": campaign.threshold_percent,
        "on_old_key": found.on_old,
        "on_new_key": found.on_new,
        "with_new_root": found.installed,
        "asked": found.asked + found.offered,
        "failed": found.failures,
        "given_up": found.given_up,
        "expired": found.expired,
        "leftover_certificates": found.leftover,
        "started_at": campaign.created_at.isoformat(),
        "activated_at": campaign.activated_at.isoformat() if campaign.activated_at else None,
        "closed_at": campaign.closed_at.isoformat() if campaign.closed_at else None,
    }
