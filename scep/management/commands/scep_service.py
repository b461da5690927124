"""SCEP services: list them, make one, change its rules, show the secret of its webhook."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from audit import recording
from audit.recording import Actor
from pki import issuers
from pki.models import Issuer
from scep import services, webhooks
from scep.core import capabilities, webhook
from scep.models import ApprovalChoice, CaForm, Mode, Proposal, ScepService

ACTOR = Actor(name="command line")

_CHOICES = {
    "challenge": ("challenge_mode", Mode),
    "approval": ("approval", ApprovalChoice),
    "proposal": ("proposal", Proposal),
    "get-ca-cert": ("ca_form", CaForm),
    "purpose": ("purpose", None),
}
_SWITCHES = {
    "enabled": ("enabled", "answer at its address"),
    "ra-certificate": ("ra_certificate", "a certificate of its own for decryption and signing"),
    "sha1": ("accept_sha1", "accept messages that are signed with SHA-1"),
    "get": ("allow_get", "accept PKIOperation by GET"),
}
_NUMBERS = {
    "pending-days": ("pending_days", "days until a request that waits lapses", False),
    "validity-days": ("validity_days", "days of validity; 0: as the issuer says", True),
    "renewal-window-days": (
        "renewal_window_days",
        "renewal this many days before the end; 0: any time",
        True,
    ),
    "clock-minutes": ("clock_minutes", "how far a client's clock may be off; 0: not looked at", True),
}


class Command(BaseCommand):
    help = "SCEP services: the rules of each address /scep/NAME/."

    def add_arguments(self, parser: CommandParser) -> None:
        acts = parser.add_subparsers(dest="act", required=True, metavar="list|create|set|secret")
        listing = acts.add_parser("list", help="every service and its rules")
        creating = acts.add_parser("create", help="a new address for an issuer")
        creating.add_argument("slug", metavar="NAME", help="short name; its address is /scep/NAME/")
        creating.add_argument("--issuer", metavar="SLUG", help="default: the default issuer")
        setting = acts.add_parser("set", help="change the rules of a service")
        setting.add_argument("slug", metavar="NAME")
        for rules in (creating, setting):
            _add_rules(rules)
        secret = acts.add_parser("secret", help="the secret of its webhook; that it was shown is recorded")
        secret.add_argument("slug", metavar="NAME")
        secret.add_argument("--new", action="store_true", help="make a new one first")
        for every in (listing, creating, setting, secret):
            every.add_argument("--json", action="store_true", help="one JSON document on stdout")

    def handle(self, *args: Any, **options: Any) -> None:
        acts: dict[str, Callable[[dict[str, Any]], None]] = {
            "list": self._list,
            "create": self._create,
            "set": self._set,
            "secret": self._secret,
        }
        acts[options["act"]](options)

    def _list(self, options: dict[str, Any]) -> None:
        services.ensure()
        rows = [_described(service) for service in ScepService.objects.select_related("issuer")]
        if options["json"]:
            self.stdout.write(json.dumps(rows, ensure_ascii=False))
            return
        for row in rows:
            state = "on " if row["enabled"] else "off"
            self.stdout.write(
                f"{row['name']:20} {state} {row['challenge']:8} approval {row['approval']:18} "
                f"{row['address']}"
            )

    def _create(self, options: dict[str, Any]) -> None:
        if ScepService.objects.filter(slug=options["slug"]).exists():
            raise CommandError(f"there is a service {options['slug']} already")
        self._save(ScepService(slug=options["slug"], issuer=_issuer(options["issuer"])), options)

    def _set(self, options: dict[str, Any]) -> None:
        self._save(_service(options["slug"]), options)

    def _save(self, service: ScepService, options: dict[str, Any]) -> None:
        _apply(service, options)
        try:
            if service.webhook_url:
                webhook.decode_address(service.webhook_url)
            service.full_clean()
            services.save(service, actor=ACTOR)
        except webhook.AddressRefused as refused:
            raise CommandError(str(refused)) from None
        except ValidationError as refused:
            raise CommandError(" ".join(refused.messages)) from None
        except services.ServiceRefused as refused:
            raise CommandError(refused.reason) from None
        row = _described(service)
        self.stdout.write(
            json.dumps(row, ensure_ascii=False) if options["json"] else f"{service.slug}: {row['address']}"
        )

    def _secret(self, options: dict[str, Any]) -> None:
        service = _service(options["slug"])
        if service.challenge_mode != Mode.WEBHOOK:
            raise CommandError(f"the service {service.slug} asks no webhook")
        if options["new"]:
            webhooks.give_secret(service)
            service.save(update_fields=["webhook_secret_sealed"])
        act = "secret_renewed" if options["new"] else "secret_shown"
        recording.record(f"scep_service.{act}", actor=ACTOR, target=service)
        value = webhooks.secret(service)
        self.stdout.write(json.dumps({"secret": value}) if options["json"] else value)


def _add_rules(parser: Any) -> None:
    for option, (field, choices) in _CHOICES.items():
        values = (
            [str(value).lower() for value in choices.values] if choices else ["server_tls", "mdm_identity"]
        )
        parser.add_argument(f"--{option}", dest=field, choices=values)
    parser.add_argument("--webhook", dest="webhook_url", metavar="URL", help="whom to ask about challenges")
    parser.add_argument(
        "--capabilities",
        metavar="LIST",
        help=f"what clients may use, separated by commas: {','.join(capabilities.KEYWORDS)}",
    )
    for option, (field, said) in _SWITCHES.items():
        parser.add_argument(f"--{option}", dest=field, choices=["on", "off"], help=said)
    for option, (field, said, _nullable) in _NUMBERS.items():
        parser.add_argument(f"--{option}", dest=field, type=int, metavar="N", help=said)


def _apply(service: ScepService, options: dict[str, Any]) -> None:
    """Only what was said is changed."""
    for field, _choices in _CHOICES.values():
        if options.get(field) is not None:
            setattr(service, field, options[field].upper())
    for field, _said in _SWITCHES.values():
        if options.get(field) is not None:
            setattr(service, field, options[field] == "on")
    for field, _said, nullable in _NUMBERS.values():
        number = options.get(field)
        if number is not None:
            setattr(service, field, None if nullable and number == 0 else _positive(field, number))
    if options.get("webhook_url") is not None:
        service.webhook_url = options["webhook_url"]
    if options.get("capabilities") is not None:
        service.capabilities = [word for word in options["capabilities"].replace(",", " ").split() if word]


def _positive(field: str, number: int) -> int:
    most = services.LIMITS[field]
    if not 1 <= number <= most:
        raise CommandError(f"--{field.replace('_', '-')} is a number from 1 to {most}")
    return number


def _described(service: ScepService) -> dict[str, Any]:
    return {
        "name": service.slug,
        "address": services.address(service),
        "issuer": service.issuer.slug,
        "enabled": service.enabled,
        "challenge": service.challenge_mode,
        "webhook": service.webhook_url,
        "approval": service.approval,
        "pending_days": service.pending_days,
        "purpose": service.purpose,
        "validity_days": service.validity_days,
        "proposal": service.proposal,
        "renewal_window_days": service.renewal_window_days,
        "get_ca_cert": service.ca_form,
        "ra_certificate": service.ra_certificate,
        "capabilities": list(service.capabilities),
        "sha1": service.accept_sha1,
        "get": service.allow_get,
        "clock_minutes": service.clock_minutes,
    }


def _service(slug: str) -> ScepService:
    services.ensure()
    service = ScepService.objects.select_related("issuer").filter(slug=slug).first()
    if service is None:
        raise CommandError(f"there is no SCEP service {slug}")
    return service


def _issuer(slug: str | None) -> Issuer:
    try:
        return issuers.default_issuer() if slug is None else Issuer.objects.get(slug=slug)
    except Issuer.DoesNotExist:
        raise CommandError(f"there is no issuer {slug!r}") from None
    except issuers.IssuerMissing as missing:
        raise CommandError(str(missing)) from None
