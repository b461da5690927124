"""The management commands: one JSON document, or one clear line and exit code 1."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from pki import issuers, rollover
from pki.models import Issuer
from renewal import waves
from renewal.models import RekeyCampaign, RenewalPermit
from tests.renewal.phones import ADA, Phone
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db


def run(name: str, *arguments: str) -> Any:
    out = io.StringIO()
    call_command(name, *arguments, "--json", stdout=out)
    (line,) = out.getvalue().splitlines()
    return json.loads(line)


def tick() -> None:
    waves.advance_all(timezone.now())


def test_a_campaign_from_the_command_line(issuer: Issuer, phone: Phone) -> None:
    rollover.rekey(issuer, actor=ADA, now=timezone.now())
    before = run("rekey_campaign", "preview", "bramley")
    assert (before["devices"], before["new_generation"], before["old_generations"]) == (1, 2, [1])
    assert not before["new_key_in_use"]
    started = run("rekey_campaign", "start", "bramley", "--rate", "6000", "--enough", "100")
    assert (started["state"], started["on_old_key"], started["devices_per_minute"]) == (
        "DISTRIBUTING",
        1,
        6000,
    )
    assert run("rekey_campaign", "pause", "bramley")["paused"]
    assert not run("rekey_campaign", "resume", "bramley", "--rate", "7000")["paused"]
    tick()
    assert run("rekey_campaign", "status", "bramley")["asked"] == 1
    phone.connect()
    tick()
    assert run("rekey_campaign", "status", "bramley")["state"] == "READY"
    assert run("rekey_campaign", "activate", "bramley")["state"] == "REISSUING"
    assert issuers.current_key(issuer).generation == 2
    run("rekey_campaign", "retry", "bramley", "--serial", phone.device.hardware.serial_number)
    phone.connect()
    assert run("rekey_campaign", "retry", "bramley")["on_old_key"] == 0
    closed = run("rekey_campaign", "close", "bramley")
    assert (closed["state"], closed["on_new_key"]) == ("CLOSED", 1)
    out = io.StringIO()
    call_command("rekey_campaign", "status", "bramley", stdout=out)
    assert "on new key: 1" in out.getvalue()


def test_it_is_given_up_from_the_command_line(issuer: Issuer, phone: Phone) -> None:
    rollover.rekey(issuer, actor=ADA, now=timezone.now())
    run("rekey_campaign", "start", "bramley")
    assert run("rekey_campaign", "abort", "bramley")["state"] == "ABORTED"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("status", "nobody"), "There is no issuer nobody."),
        (("status", "bramley"), "There was no campaign of bramley yet."),
        (("pause", "bramley"), "No campaign of bramley is under way."),
        (("start", "bramley"), "Nothing was changed: there is no next key"),
    ],
)
def test_what_cannot_be_done_is_one_line(issuer: Issuer, arguments: tuple[str, str], said: str) -> None:
    with no_change(), pytest.raises(CommandError, match=said):
        call_command("rekey_campaign", *arguments)


def test_too_soon_is_one_line_too(issuer: Issuer, phone: Phone) -> None:
    rollover.rekey(issuer, actor=ADA, now=timezone.now())
    run("rekey_campaign", "start", "bramley")
    for act in ("activate", "close"):
        with no_change(), pytest.raises(CommandError, match="Nothing was changed"):
            call_command("rekey_campaign", act, "bramley")
    assert run("rekey_campaign", "activate", "bramley", "--force")["state"] == "REISSUING"
    with no_change(), pytest.raises(CommandError, match="There is no enrolled device X"):
        call_command("rekey_campaign", "retry", "bramley", "--serial", "X")
    assert run("rekey_campaign", "close", "bramley", "--force")["state"] == "CLOSED"
    assert RekeyCampaign.objects.count() == 1


def test_a_device_is_renewed_by_its_serial_number(phone: Phone) -> None:
    serial = phone.device.hardware.serial_number
    before = phone.certificate
    answer = run("renew_identity", serial)
    assert (answer["state"], answer["let_in_until"]) == ("PLANNED", None)
    with no_change(), pytest.raises(CommandError, match="being renewed already"):
        call_command("renew_identity", serial)
    phone.connect()
    assert phone.certificate != before


def test_an_expired_device_is_let_in_by_its_serial_number(phone: Phone) -> None:
    serial = phone.device.hardware.serial_number
    with no_change(), pytest.raises(CommandError, match="has not expired"):
        call_command("renew_identity", serial, "--let-in", "24")
    phone.end_certificate()
    out = io.StringIO()
    call_command("renew_identity", serial, "--let-in", "24", "--note", "drawer", stdout=out)
    assert "It is let in until" in out.getvalue()
    assert RenewalPermit.objects.get().note == "drawer"
    phone.connect()
    assert phone.certificate.not_after > timezone.now()


def test_an_unknown_serial_number_is_one_line(issuer: Issuer) -> None:
    with no_change(), pytest.raises(CommandError, match="There is no enrolled device X"):
        call_command("renew_identity", "X")
