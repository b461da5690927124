"""Each download is a session and a challenge of its own, in a profile that openssl verifies."""

from __future__ import annotations

import hashlib
import plistlib
import subprocess
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from enrollment import offering
from enrollment.direct import NotOffered, Offered, offer
from enrollment.models import EnrollmentProfile, EnrollmentSession, SessionState
from enrollment.setup import ensure_default_profile
from pki import issuers, signing
from pki.models import Issuer, IssuerState, Purpose
from scep import challenges
from scep.core.decision import ChallengeStanding
from scep.models import Challenge
from tests.support.snapshot import no_change

NOW = datetime(2030, 1, 1, tzinfo=UTC)
pytestmark = pytest.mark.django_db


def offered(profile: EnrollmentProfile, **options: Any) -> Offered:
    return offer(profile, remote_addr="192.0.2.1", user_agent="Safari", now=NOW, **options)


def payload(content: dict[str, Any], kind: str) -> dict[str, Any]:
    (found,) = [part for part in content["PayloadContent"] if part["PayloadType"] == kind]
    part: dict[str, Any] = found
    return part


def test_a_download_is_one_session_with_one_challenge(profile: EnrollmentProfile) -> None:
    made = offered(profile, signed=False)
    content = plistlib.loads(made.mobileconfig)
    scep = payload(content, "com.apple.security.scep")["PayloadContent"]
    session = EnrollmentSession.objects.get()
    assert session == made.session
    assert session.state == SessionState.OFFERED
    assert (session.remote_addr, session.user_agent) == ("192.0.2.1", "Safari")
    assert session.expires_at == NOW + timedelta(minutes=60)
    challenge = Challenge.objects.get()
    assert challenge.binding == session.uuid
    assert challenge.purpose == Purpose.MDM_IDENTITY
    assert challenge.expires_at == session.expires_at
    found = challenges.find([scep["Challenge"]], profile.issuer, NOW)
    assert (found.standing, found.challenge) == (ChallengeStanding.LIVE, challenge)
    assert [[tuple(pair)] for pair in challenge.subject] == [
        [tuple(pair) for pair in rdn] for rdn in scep["Subject"]
    ]


def test_what_an_update_must_not_change_is_kept(profile: EnrollmentProfile) -> None:
    profile.access_rights = 1 | 16
    made = offered(profile, signed=False)
    mdm = payload(plistlib.loads(made.mobileconfig), "com.apple.mdm")
    session = EnrollmentSession.objects.get()
    assert session.told == {
        "access_rights": mdm["AccessRights"],
        "check_out_when_removed": mdm["CheckOutWhenRemoved"],
        "server": mdm["ServerURL"],
        "check_in": mdm["CheckInURL"],
    }
    session.profile.access_rights, session.profile.check_out_when_removed = 8191, False
    told = offering.management_told(session, topic="com.apple.mgmt.External.then")
    assert (told.topic, told.access_rights, told.check_out_when_removed) == (
        "com.apple.mgmt.External.then",
        17,
        True,
    )


def test_two_downloads_share_nothing_that_is_secret(profile: EnrollmentProfile) -> None:
    one, other = (plistlib.loads(offered(profile, signed=False).mobileconfig) for _ in range(2))
    values = {
        payload(content, "com.apple.security.scep")["PayloadContent"]["Challenge"] for content in (one, other)
    }
    assert len(values) == 2
    assert all(len(value) >= 26 for value in values)
    assert Challenge.objects.values("binding").distinct().count() == 2
    assert one["PayloadIdentifier"] == other["PayloadIdentifier"]


def test_addresses_and_certificates(profile: EnrollmentProfile, settings: Any) -> None:
    settings.BRAMLEY_PUBLIC_URL = "https://mdm.example.com"
    content = plistlib.loads(offered(profile, signed=False).mobileconfig)
    (root,) = issuers.chain(profile.issuer)
    assert payload(content, "com.apple.security.root")["PayloadContent"] == root
    scep = payload(content, "com.apple.security.scep")["PayloadContent"]
    assert scep["URL"] == "https://mdm.example.com/scep/bramley/"
    assert scep["CAFingerprint"] == hashlib.sha256(root).digest()
    mdm = payload(content, "com.apple.mdm")
    assert mdm["ServerURL"] == "https://mdm.example.com/mdm/connect"
    assert mdm["CheckInURL"] == "https://mdm.example.com/mdm/checkin"


def test_without_a_push_certificate_the_topic_is_provisional_and_stays(profile: EnrollmentProfile) -> None:
    topics = {
        payload(plistlib.loads(offered(profile, signed=False).mobileconfig), "com.apple.mdm")["Topic"]
        for _ in range(2)
    }
    assert topics == {f"com.apple.mgmt.Bramley.{profile.payload_uuid}"}


def test_the_topic_of_the_profile_wins(profile: EnrollmentProfile) -> None:
    profile.topic = "com.apple.mgmt.External.own"
    content = plistlib.loads(offered(profile, signed=False).mobileconfig)
    assert payload(content, "com.apple.mdm")["Topic"] == "com.apple.mgmt.External.own"


def test_openssl_verifies_the_signed_profile(profile: EnrollmentProfile, tmp_path: Path) -> None:
    made = offered(profile)
    root = tmp_path / "root.pem"
    convert = ["openssl", "x509", "-inform", "DER", "-out", str(root)]
    subprocess.run(convert, input=issuers.chain(profile.issuer)[-1], check=True, capture_output=True)
    verify = ["openssl", "cms", "-verify", "-inform", "DER", "-CAfile", str(root), "-purpose", "any"]
    verify += ["-attime", str(int(NOW.timestamp()))]
    done = subprocess.run(verify, input=made.mobileconfig, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert plistlib.loads(done.stdout)["PayloadType"] == "Configuration"
    tampered = made.mobileconfig.replace(b"com.apple.mdm", b"com.apple.mdn")
    assert subprocess.run(verify, input=tampered, capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"enabled": False}, "disabled"), ({"allow_direct": False}, "does not allow the direct way")],
)
def test_a_disabled_profile_offers_nothing(
    profile: EnrollmentProfile, change: dict[str, bool], reason: str
) -> None:
    for name, value in change.items():
        setattr(profile, name, value)
    with no_change(), pytest.raises(NotOffered, match=reason):
        offered(profile)


def test_a_retired_issuer_offers_nothing(profile: EnrollmentProfile) -> None:
    profile.issuer.state = IssuerState.RETIRED
    with no_change(), pytest.raises(NotOffered, match="not active"):
        offered(profile)


def test_an_issuer_past_its_end_signs_nothing(profile: EnrollmentProfile) -> None:
    with no_change(), pytest.raises(NotOffered, match="cannot be signed"):
        offer(profile, remote_addr="", user_agent="", now=NOW + timedelta(days=365 * 30))


def test_nothing_is_left_of_a_download_that_failed(
    profile: EnrollmentProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: Any, **_options: Any) -> bytes:
        raise RuntimeError("the signer is gone")

    offering.signer(NOW)  # made at the first use, and kept whatever comes of that
    monkeypatch.setattr(signing, "sign_by", fail)
    with no_change(), pytest.raises(RuntimeError):
        offered(profile)


def test_a_challenge_ends_with_its_session(profile: EnrollmentProfile) -> None:
    made = offered(profile, signed=False)
    scep = payload(plistlib.loads(made.mobileconfig), "com.apple.security.scep")["PayloadContent"]
    found = challenges.find([scep["Challenge"]], profile.issuer, made.session.expires_at)
    assert found.standing is ChallengeStanding.EXPIRED


@pytest.mark.parametrize("organization", ["", "x" * 200, "bad\x07bell", "right\u202eleft"])
def test_an_organisation_that_no_certificate_can_hold_keeps_nobody_out(
    profile: EnrollmentProfile, organization: str
) -> None:
    profile.organization = organization
    made = offered(profile)
    assert dict(Challenge.objects.get(binding=made.session.uuid).subject)["CN"].startswith("Bramley device ")


def test_the_default_profile_is_made_once_and_left_alone(issuer: Issuer) -> None:
    first = ensure_default_profile(issuer)
    assert (first.slug, first.allow_direct, first.allow_ota, first.enabled) == ("default", True, True, True)
    first.name = "Ours"
    first.save()
    again = ensure_default_profile(issuer)
    assert (again.pk, again.name) == (first.pk, "Ours")
    assert isinstance(again.payload_uuid, uuid.UUID)
