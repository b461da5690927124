"""Certificate profiles: list, show, set, remove, preview."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction
from django.utils import timezone

from audit.recording import Actor
from pki import profile_records, profiles
from pki.core.certificates import encode_pem
from pki.core.profile import BUILT_IN, Rules
from pki.models import CertificateProfile, Issuer, Purpose
from pki.profile_forms import ProfileForm
from pki.profile_preview import PreviewRefused, sample

ACTOR = Actor(name="command line")
LISTS = ("key_usage", "extended_key_usage", "subject_attributes", "alternative_names")
YES, NO = "yes", "no"


class Command(BaseCommand):
    help = "Lists, shows, sets, removes and previews what certificates for a purpose hold."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|set|remove|preview")
        texts = {
            "list": "the profiles; where there is none built-in rules hold",
            "show": "the rules that hold for a purpose",
            "set": "change or make a profile; what is not named stays as it is",
            "remove": "back to what holds without it",
            "preview": "a sample of the certificate, as text and PEM; with changes that are not saved",
        }
        for name, text in texts.items():
            one = actions.add_parser(name, help=text)
            one.add_argument("--json", action="store_true", help="one JSON document on stdout")
            if name == "list":
                continue
            one.add_argument("purpose", choices=[purpose.value for purpose in Purpose])
            one.add_argument("--issuer", metavar="SLUG", help="only at this issuer; else at every one")
            if name in {"set", "preview"}:
                _add_rules(one)

    def handle(self, *args: Any, **options: Any) -> None:
        match options["action"]:
            case "list":
                self.list_rows(as_json=options["json"])
            case "show":
                self.tell(_rules(options), options)
            case "set":
                self.set(options)
            case "remove":
                self.remove(options)
            case "preview":
                self.preview(options)

    def list_rows(self, *, as_json: bool) -> None:
        """One line for each profile."""
        rows = [
            {"purpose": row.purpose, "issuer": row.issuer.slug if row.issuer else ""}
            | _facts(profiles.rules_of(row))
            for row in CertificateProfile.objects.select_related("issuer").order_by("purpose", "pk")
        ]
        if as_json:
            self.stdout.write(json.dumps(rows, ensure_ascii=False))
            return
        for row in rows:
            days = row["validity_days"] or "the issuer's"
            self.stdout.write(f"{row['purpose']}  {row['issuer'] or 'every issuer'}  {days} days")

    def tell(self, rules: Rules, options: dict[str, Any]) -> None:
        facts = _facts(rules)
        if options["json"]:
            self.stdout.write(json.dumps(facts, ensure_ascii=False))
            return
        for name, value in facts.items():
            shown = ", ".join(value) if isinstance(value, list) else value
            self.stdout.write(f"{name}: {'' if shown is None else shown}".rstrip())

    def set(self, options: dict[str, Any]) -> None:
        """The profile as it is from now on, with what is named changed."""
        with transaction.atomic():
            profile = _profile(options)
            form = _form(options, profile)
            profile_records.save(form.instance, form.changed_data, new=profile is None, actor=ACTOR)
        self.tell(profiles.rules_of(form.instance), options)

    def remove(self, options: dict[str, Any]) -> None:
        """What held before holds again."""
        profile = _profile(options)
        if profile is None:
            raise CommandError("there is no such profile")
        profile_records.remove(profile, actor=ACTOR)
        self.tell(_rules(options), options)

    def preview(self, options: dict[str, Any]) -> None:
        """A sample; nothing is stored."""
        profile = _profile(options)
        changed = any(options[name] is not None for name in _names())
        rules = profiles.rules_of(_form(options, profile).instance) if changed else _rules(options)
        try:
            shown = sample(rules, _issuer(options), now=timezone.now())
        except PreviewRefused as refused:
            raise CommandError(refused.reason) from None
        pem = encode_pem(shown.der)
        if options["json"]:
            self.stdout.write(json.dumps({"text": shown.text, "pem": pem}, ensure_ascii=False))
        else:
            self.stdout.write(shown.text + pem, ending="")


def _names() -> list[str]:
    return [name for name in ProfileForm.Meta.fields if name not in {"purpose", "issuer"}]


def _add_rules(parser: CommandParser) -> None:
    """An option for each rule, named as in the admin's form and in JSON."""
    for name in _names():
        option = f"--{name.replace('_', '-')}"
        if name in LISTS:
            parser.add_argument(option, metavar="A,B", help="separated by commas; empty for none")
        elif name in {"ec_allowed", "crl_address", "authority_address"}:
            parser.add_argument(option, choices=[YES, NO])
        else:
            parser.add_argument(option, metavar="VALUE", help="empty for none")


def _issuer(options: dict[str, Any]) -> Issuer | None:
    if not options["issuer"]:
        return None
    issuer = Issuer.objects.filter(slug=options["issuer"]).first()
    if issuer is None:
        raise CommandError(f"there is no issuer {options['issuer']!r}")
    return issuer


def _profile(options: dict[str, Any]) -> CertificateProfile | None:
    return CertificateProfile.objects.filter(purpose=options["purpose"], issuer=_issuer(options)).first()


def _rules(options: dict[str, Any]) -> Rules:
    """What holds now: at the issuer, or where an issuer has no rules of its own."""
    issuer, purpose = _issuer(options), Purpose(options["purpose"])
    if issuer is not None:
        return profiles.rules_for(purpose, issuer)
    profile = _profile(options)
    return BUILT_IN[purpose] if profile is None else profiles.rules_of(profile)


def _form(options: dict[str, Any], profile: CertificateProfile | None) -> ProfileForm:
    """The form of the admin, filled in from here: it refuses the same."""
    issuer, purpose = _issuer(options), Purpose(options["purpose"])
    start = profile or profiles.new_profile(purpose, issuer)
    data: dict[str, Any] = {"purpose": purpose.value, "issuer": issuer.pk if issuer else ""}
    for name in _names():
        given = options[name]
        value = getattr(start, name) if given is None else _value(name, given)
        data[name] = "" if value is None else value
    form = ProfileForm(data, instance=profile or CertificateProfile())
    if not form.is_valid():
        told = "; ".join(f"{name}: {' '.join(map(str, errors))}" for name, errors in form.errors.items())
        raise CommandError(" ".join(told.split()))
    return form


def _value(name: str, given: str) -> Any:
    if name in LISTS:
        return [part for part in given.split(",") if part]
    return given == YES if given in {YES, NO} else given


def _facts(rules: Rules) -> dict[str, Any]:
    fixed = {field: dict(rules.fixed).get(key, "") for key, field in profiles.FIXED_PARTS}
    return {
        "validity_days": rules.validity_days,
        "key_usage": sorted(rules.key_usage),
        "extended_key_usage": list(rules.extended_key_usage),
        "subject_attributes": sorted(rules.subject_attributes),
        **fixed,
        "alternative_names": sorted(rules.alternative_names),
        "min_rsa_bits": rules.min_rsa_bits,
        "ec_allowed": rules.ec_allowed,
        "crl_address": rules.crl_address,
        "authority_address": rules.authority_address,
    }
