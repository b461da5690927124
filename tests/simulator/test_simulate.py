"""``manage.py simulate`` against the running product."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError

from simulator.fleet import Fleet, Plan
from simulator.management.commands.simulate import profile_url
from tests.support.inside import inside
from tests.support.server import RunningServer

pytestmark = [pytest.mark.slow, pytest.mark.once]


def simulate(server: RunningServer, *arguments: str, code: int = 0) -> tuple[dict[str, Any], str]:
    """The JSON of the last line, and stderr."""
    done = server.manage("simulate", "--url", server.url, *arguments, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report, done.stderr


def identities(server: RunningServer) -> int:
    """How many device certificates the server has issued."""
    listed = json.loads(server.manage("certificate", "list", "--json").stdout)
    return sum(row["purpose"] == "MDM_IDENTITY" for row in listed)


def test_devices_enrol_connect_and_answer(running_server: RunningServer) -> None:
    before = identities(running_server)
    report, errors = simulate(running_server, "--devices", "8", "--rounds", "2", "--json")
    assert {name: report[name] for name in ("devices", "enrolled", "connects", "errors", "twice")} == {
        "devices": 8,
        "enrolled": 8,
        "connects": 16,
        "errors": 0,
        "twice": 0,
    }
    assert report["request_types"]["DeviceInformation"] == 8
    assert report["commands"] == sum(report["request_types"].values())
    assert report["seconds"] > 0
    assert errors == ""
    assert identities(running_server) == before + 8


def test_errors_and_not_now_on_demand_are_no_errors_of_the_run(running_server: RunningServer) -> None:
    report, errors = simulate(
        running_server, "--devices", "3", "--rounds", "2", "--errors", "0.5", "--not-now", "0.5", "--json"
    )
    assert (report["enrolled"], report["errors"], errors) == (3, 0, "")


def test_a_fleet_that_was_kept_goes_on(running_server: RunningServer, tmp_path: Path) -> None:
    options = ("--devices", "2", "--state", str(tmp_path / "fleet"), "--keys", str(tmp_path / "keys"))
    assert simulate(running_server, *options)[0]["commands"] > 0
    before = identities(running_server)
    report, _errors = simulate(running_server, *options, "--leave")
    assert (report["enrolled"], report["connects"], report["commands"]) == (2, 2, 0)
    assert identities(running_server) == before
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "fleet").iterdir()} == {0o600}
    report, _errors = simulate(running_server, *options)
    assert report["enrolled"] == 2
    assert identities(running_server) == before + 2


def test_what_fails_is_told_line_by_line(running_server: RunningServer) -> None:
    report, errors = simulate(running_server, "--devices", "2", "--enroll", "nothing", code=1)
    assert (report["devices"], report["enrolled"], report["errors"]) == (2, 0, 2)
    assert errors.count("download of the profile: HTTP 404") == 2


def test_people_show_a_code_or_sign_in(running_server: RunningServer, tmp_path: Path) -> None:
    codes, password = tmp_path / "codes", tmp_path / "password"
    password.write_text("orchard-gate-9")
    minted = inside(
        running_server,
        """
from audit.recording import SERVER
from django.contrib.auth.models import User
from django.utils import timezone
from enrollment.codes import mint
from enrollment.models import EnrollmentProfile
issuer = EnrollmentProfile.objects.get(slug="default").issuer
made = {slug: EnrollmentProfile.objects.create(slug=slug, name=slug, issuer=issuer, access=access)
        for slug, access in (("coded", "CODE"), ("people", "LOGIN"))}
User.objects.create_user("anna", password="orchard-gate-9")
minted = mint(made["coded"], count=2, label="", max_uses=1, actor=SERVER, now=timezone.now())
value = [code for _row, code in minted]
""",
    )
    codes.write_text("\n".join(minted))
    coded = ("--enroll", "coded", "--codes", str(codes), "--json")
    report, errors = simulate(running_server, *coded, "--devices", "2")
    assert (report["enrolled"], errors) == (2, "")
    report, errors = simulate(running_server, *coded, "--devices", "1", code=1)
    assert (report["enrolled"], "This code does not work" in errors) == (0, True)
    known = ("--login", "anna", "--password-file", str(password))
    report, errors = simulate(
        running_server, "--enroll", "people", "--flow", "ota", *known, "--devices", "2", "--json"
    )
    assert (report["enrolled"], errors) == (2, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--flow", "ota", "--device-ca", "/nowhere"], "/nowhere/device-ca.pem: No such file or directory"),
        (["--make-device-ca", "/proc/nothing"], "/proc/nothing"),
        (["--devices", "0"], "--devices is at least 1"),
        (["--not-now", "2"], "--not-now is between 0 and 1"),
        (["--pause", "-1"], "--pause is not negative"),
        (["--ca", "/nowhere.pem"], "Cannot read /nowhere.pem"),
        (["--codes", "/nowhere"], "Cannot read /nowhere"),
    ],
)
def test_what_cannot_be_asked_for(running_server: RunningServer, arguments: list[str], message: str) -> None:
    asked = ["simulate", "--url", running_server.url, "--devices", "1", *arguments]
    done = running_server.manage(*asked, check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_restarted_server_costs_time_and_nothing_else(running_server: RunningServer) -> None:
    plan = Plan(
        profile_url=f"{running_server.url}/enroll/default/profile",
        devices=4,
        poll=12.0,
        interval=0.5,
        retries=6,
        seed=running_server.url,
    )
    fleet = Fleet(plan)
    polling = threading.Thread(target=fleet.run)
    enrolled = threading.Event()
    fleet.say = lambda _text: enrolled.set()
    polling.start()
    assert enrolled.wait(60)
    running_server.end()
    running_server.start()
    polling.join(120)
    assert not polling.is_alive()
    assert (fleet.report.enrolled, fleet.report.errors, fleet.report.twice) == (4, [], [])


@pytest.mark.parametrize(
    ("url", "slug", "expected"),
    [
        ("http://h:8000", "", "http://h:8000/enroll/default/profile"),
        ("http://h:8000/", "tills", "http://h:8000/enroll/tills/profile"),
        ("https://h/mdm-server/", "", "https://h/mdm-server/enroll/default/profile"),
        ("https://h/enroll/tills/", "", "https://h/enroll/tills/profile"),
        ("https://h/enroll/tills/profile", "tills", "https://h/enroll/tills/profile"),
    ],
)
def test_addresses_of_servers_and_of_pages_are_taken(url: str, slug: str, expected: str) -> None:
    assert profile_url(url, slug) == expected


@pytest.mark.parametrize(("url", "slug"), [("h:8000", ""), ("ftp://h", ""), ("http://h/enroll/a/", "b")])
def test_other_addresses_are_refused(url: str, slug: str) -> None:
    with pytest.raises(CommandError):
        profile_url(url, slug)
