"""``manage.py enroll_profile``."""

from __future__ import annotations

import io
import json
import plistlib
import sys
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from audit.models import AuditEvent
from enrollment.models import Access, EnrollmentProfile, EnrollmentSession
from pki.core import cms
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db


def test_a_signed_profile_goes_to_stdout(
    profile: EnrollmentProfile, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    call_command("enroll_profile", "default", stderr=io.StringIO())
    sys.stdout.flush()
    content = cms.verify_signed_data(capfdbinary.readouterr().out).content
    assert plistlib.loads(content)["PayloadType"] == "Configuration"
    assert EnrollmentSession.objects.count() == 1


def test_an_unsigned_one_for_one_device_goes_to_a_private_file(
    profile: EnrollmentProfile, tmp_path: Path
) -> None:
    path = tmp_path / "a.mobileconfig"
    path.touch(mode=0o644)
    stdout = io.StringIO()
    call_command(
        "enroll_profile",
        "default",
        "--unsigned",
        "--json",
        *("--out", str(path), "--serial", " C01 ", "--replace"),
        stdout=stdout,
        stderr=io.StringIO(),
    )
    assert path.stat().st_mode & 0o777 == 0o600
    plistlib.loads(path.read_bytes())
    session = EnrollmentSession.objects.get()
    assert (session.expected_serial_number, session.pre_approved) == ("C01", True)
    answer = json.loads(stdout.getvalue())
    assert answer["session"] == str(session.uuid)
    event = AuditEvent.objects.get(action="enrollment_session.created")
    assert event.details == {"expected_serial_number": "C01", "pre_approved": True}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "There is no enrolment profile “nothing”"),
        (["default", "--replace"], "needs --serial"),
        (["default", "--json"], "needs --out"),
        (["off"], "Not possible: the enrolment profile is disabled"),
        (["default", "--out", "/nowhere/at/all"], "Cannot write"),
    ],
)
def test_what_is_wrong_is_one_line(profile: EnrollmentProfile, arguments: list[str], message: str) -> None:
    EnrollmentProfile.objects.create(slug="off", name="Off", issuer=profile.issuer, enabled=False)
    with pytest.raises(CommandError, match=message):
        call_command("enroll_profile", *arguments, stdout=io.StringIO(), stderr=io.StringIO())


def test_a_refusal_leaves_nothing(profile: EnrollmentProfile) -> None:
    profile.enabled = False
    profile.save()
    with no_change(), pytest.raises(CommandError):
        call_command("enroll_profile", "default", stdout=io.StringIO(), stderr=io.StringIO())
    assert not AuditEvent.objects.filter(action="enrollment_session.created").exists()


def test_an_administrator_passes_the_gate_but_not_the_limits(
    profile: EnrollmentProfile, tmp_path: Path
) -> None:
    profile.access, profile.max_enrollments = Access.CODE, 1
    profile.save()
    call_command("enroll_profile", "default", "--out", str(tmp_path / "one"))
    with no_change(), pytest.raises(CommandError, match="as many as may have enrolled"):
        call_command("enroll_profile", "default", "--out", str(tmp_path / "two"))
