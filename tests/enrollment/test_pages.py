"""The page that a person opens, and the download."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client

from audit.models import Refusal
from enrollment.models import EnrollmentProfile, EnrollmentSession
from enrollment.what_is_managed import sentences
from pki.models import IssuerState
from scep.models import Challenge
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db
INLINE = re.compile(r"<style|<script|\sstyle=|\son\w+=|javascript:", re.IGNORECASE)


@pytest.fixture(autouse=True)
def empty_cache() -> None:
    cache.clear()


def test_the_page_says_what_is_managed_in_plain_words(client: Client, profile: EnrollmentProfile) -> None:
    profile.description = "For <b>everybody</b>"
    profile.save()
    answer = client.get("/enroll/default/")
    text = answer.content.decode()
    assert answer.status_code == 200
    assert "Orchard Ltd" in text
    assert "For &lt;b&gt;everybody&lt;/b&gt;" in text
    assert 'href="/enroll/default/profile"' in text
    assert "Erase the device, with everything on it" in text
    assert 'name="viewport"' in text
    assert "no-store" in answer["Cache-Control"]
    assert not EnrollmentSession.objects.exists()


def test_no_page_needs_anything_inline(client: Client, profile: EnrollmentProfile) -> None:
    for path in ("/enroll/default/", "/enroll/nothing/"):
        answer = client.get(path)
        assert not INLINE.search(answer.content.decode())
        assert "default-src 'self'" in answer["Content-Security-Policy"]


def test_the_page_tells_the_administrator_what_is_missing(
    client: Client, profile: EnrollmentProfile, settings: Any
) -> None:
    text = client.get("/enroll/default/").content.decode()
    assert "No push certificate yet" in text
    assert "not https" in text
    settings.BRAMLEY_PUBLIC_URL = "https://mdm.example.com"
    assert "not https" not in client.get("/enroll/default/").content.decode()


def test_only_rights_that_are_asked_for_are_listed(client: Client, profile: EnrollmentProfile) -> None:
    profile.access_rights = 1 | 16
    profile.save()
    text = client.get("/enroll/default/").content.decode()
    assert "Erase the device" not in text
    assert "storage and system version" in text
    assert [str(said) for said in sentences(1 | 16).does] == [
        "Make the device trust certificates that the organisation issues"
    ]


def test_a_profile_without_the_direct_way_has_no_button(client: Client, profile: EnrollmentProfile) -> None:
    profile.allow_direct = False
    profile.save()
    answer = client.get("/enroll/default/")
    assert answer.status_code == 200
    assert "/enroll/default/profile" not in answer.content.decode()
    with no_change():
        assert client.get("/enroll/default/profile").status_code == 404


def test_a_download_is_an_attachment_that_nobody_keeps(client: Client, profile: EnrollmentProfile) -> None:
    answer = client.get("/enroll/default/profile", headers={"User-Agent": "Mobile Safari"})
    assert answer.status_code == 200
    assert answer["Content-Type"] == "application/x-apple-aspen-config"
    assert answer["Content-Disposition"] == 'attachment; filename="default.mobileconfig"'
    assert answer["Cache-Control"] == "no-store"
    assert answer.content[0] == 0x30
    session = EnrollmentSession.objects.get()
    assert (session.remote_addr, session.user_agent) == ("127.0.0.1", "Mobile Safari")


def test_the_same_address_again_is_another_session(client: Client, profile: EnrollmentProfile) -> None:
    one, other = (client.get("/enroll/default/profile").content for _ in range(2))
    assert one != other
    assert EnrollmentSession.objects.count() == Challenge.objects.count() == 2
    assert {*EnrollmentSession.objects.values_list("uuid", flat=True)} == {
        *Challenge.objects.values_list("binding", flat=True)
    }


def test_head_mints_nothing(client: Client, profile: EnrollmentProfile) -> None:
    with no_change():
        answer = client.head("/enroll/default/profile")
    assert answer.status_code == 200
    assert answer["Content-Type"] == "application/x-apple-aspen-config"
    assert answer.content == b""


@pytest.mark.parametrize("method", ["post", "put", "delete", "patch"])
def test_other_methods_are_refused(client: Client, profile: EnrollmentProfile, method: str) -> None:
    with no_change():
        assert getattr(client, method)("/enroll/default/profile").status_code == 405


@pytest.mark.parametrize("path", ["/enroll/{}/", "/enroll/{}/profile"])
@pytest.mark.parametrize("method", ["get", "head"])
def test_unknown_and_disabled_profiles_look_the_same(
    client: Client, profile: EnrollmentProfile, path: str, method: str
) -> None:
    profile.enabled = False
    profile.save()
    with no_change():
        disabled = getattr(client, method)(path.format("default"))
        unknown = getattr(client, method)(path.format("nothing"))
    assert disabled.status_code == unknown.status_code == 404
    assert disabled.content == unknown.content


def test_a_server_that_cannot_offer_says_so_to_both(client: Client, profile: EnrollmentProfile) -> None:
    profile.issuer.state = IssuerState.RETIRED
    profile.issuer.save()
    with no_change():
        answer = client.get("/enroll/default/profile")
    assert answer.status_code == 503
    assert "Tell your IT staff" in answer.content.decode()
    assert "bramley" not in answer.content.decode().casefold()
    refusal = Refusal.objects.get(surface="enroll")
    assert (refusal.reason, refusal.detail) == ("profile not offered", "the issuer bramley is not active")


def test_too_many_downloads_from_one_address(
    client: Client, profile: EnrollmentProfile, settings: Any
) -> None:
    settings.BRAMLEY_ENROLL_DOWNLOADS_PER_MINUTE = 3
    answers = [client.get("/enroll/default/profile").status_code for _ in range(8)]
    # The minute may end between two of them, and with it the count.
    assert answers[:3] == [200] * 3
    assert 429 in answers
    sessions = EnrollmentSession.objects.count()
    assert sessions == answers.count(200)
    assert Refusal.objects.filter(surface="enroll", reason="too many downloads").exists()
    other = client.get("/enroll/default/profile", REMOTE_ADDR="192.0.2.77")
    assert other.status_code == 200


def test_the_client_behind_a_trusted_proxy_is_counted_and_kept(
    client: Client, profile: EnrollmentProfile, settings: Any
) -> None:
    settings.BRAMLEY_ENROLL_DOWNLOADS_PER_MINUTE = 1
    for number in range(4):
        meta: dict[str, Any] = {"bramley.client_address": f"192.0.2.{number}"}
        assert client.get("/enroll/default/profile", **meta).status_code == 200
    assert EnrollmentSession.objects.filter(remote_addr="192.0.2.3").exists()


def test_a_refused_download_says_when_to_come_back(
    client: Client, profile: EnrollmentProfile, settings: Any
) -> None:
    settings.BRAMLEY_ENROLL_DOWNLOADS_PER_MINUTE = 0
    with no_change():
        answer = client.get("/enroll/default/profile")
    assert (answer.status_code, answer["Retry-After"]) == (429, "60")
