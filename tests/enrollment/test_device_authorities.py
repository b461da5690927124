"""Device CAs beside Apple's: trusted by an administrator, in the admin or by command, and on record."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from audit.models import AuditEvent
from audit.recording import Actor
from enrollment import device_authorities
from enrollment.device_authorities import AuthorityRefused, anchors, trust
from enrollment.models import DeviceAuthority, DeviceSigner
from pki import issuers
from pki.core.certificates import encode_pem
from pki.core.device_identity import APPLE_CHAIN, APPLE_DEVICE_CA
from pki.models import Issuer
from simulator.device_ca import CERTIFICATE_FILE, kept_device_ca
from tests.enrollment.device_cas import LONG_AGO, authority, like_apple, rsa_key
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db
ANNA = Actor("anna")
LIST = "/admin/enrollment/deviceauthority/"
SIGNERS = "/admin/enrollment/devicesigner/"


def pem(der: bytes) -> bytes:
    return encode_pem(der).encode()


def trusted(**options: Any) -> DeviceAuthority:
    return trust(pem(authority().certificate), actor=ANNA, now=timezone.now(), **options)


def test_apples_is_always_there() -> None:
    assert anchors(timezone.now()) == [APPLE_DEVICE_CA]
    assert device_authorities.name_of(APPLE_DEVICE_CA.sha256) == "Apple iPhone Device CA"


def test_another_one_is_trusted_with_a_record() -> None:
    row = trusted()
    assert (row.name, row.enabled, row.trusted_until) == ("A device CA", True, None)
    apple, other = anchors(timezone.now())
    assert (apple.legacy, other.legacy) == (True, False)
    assert other.certificate == authority().certificate
    assert device_authorities.name_of(other.sha256) == "A device CA"
    event = AuditEvent.objects.get(action="device_ca.trusted")
    assert (event.actor, event.details["sha256"]) == ("anna", other.sha256)


def test_der_and_another_name_do_too() -> None:
    row = trust(authority().certificate, name="Lab", actor=ANNA, now=timezone.now())
    assert row.name == "Lab"


def test_trusting_it_again_is_trusting_it_once() -> None:
    row = trusted(until=timezone.now() + timedelta(hours=1))
    device_authorities.switch(row, enabled=False, actor=ANNA, now=timezone.now())
    assert anchors(timezone.now()) == [APPLE_DEVICE_CA]
    again = trusted(name="Lab")
    assert (again.pk, again.enabled, again.trusted_until, again.name) == (row.pk, True, None, "Lab")
    assert len(anchors(timezone.now())) == 2


def test_trust_may_have_an_end() -> None:
    end = timezone.now() + timedelta(hours=1)
    trusted(until=end)
    assert len(anchors(end - timedelta(seconds=1))) == 2
    assert anchors(end) == [APPLE_DEVICE_CA]


def test_switching_is_recorded_once() -> None:
    row = trusted()
    for _ in range(2):
        device_authorities.switch(row, enabled=False, actor=ANNA, now=timezone.now())
    assert AuditEvent.objects.filter(action="device_ca.not_trusted").count() == 1
    device_authorities.switch(row, enabled=True, actor=ANNA, now=timezone.now())
    assert AuditEvent.objects.filter(action="device_ca.trusted").count() == 2


def refused_files() -> dict[str, tuple[bytes, str]]:
    expired = authority("old", **LONG_AGO)
    short = authority("short", bits=1024)
    return {
        "no certificate": (b"nothing", "cut off|length|tag|certificate"),
        "empty": (b"", "empty|certificate"),
        "too large": (b"x" * 300_000, "too large"),
        "a device": (pem(authority().issue(rsa_key("device"))), "not a CA certificate"),
        "expired": (pem(expired.certificate), "not valid now"),
        "a short key": (pem(short.certificate), "bits"),
        "like Apple's": (pem(like_apple().certificate), "not valid now"),
        "Apple's": (pem(APPLE_DEVICE_CA.certificate), "built in"),
        "above Apple's": (pem(APPLE_CHAIN[1]), "not valid now"),
    }


@pytest.mark.parametrize("kind", sorted(refused_files()))
def test_what_is_no_device_ca_is_refused(kind: str) -> None:
    file, reason = refused_files()[kind]
    with no_change(), pytest.raises(AuthorityRefused, match=reason):
        trust(file, actor=ANNA, now=timezone.now())


def test_an_issuer_of_ours_is_no_device_ca(issuer: Issuer) -> None:
    """Whoever enrolled would then count as a device of any kind: the phases could be swapped."""
    with no_change(), pytest.raises(AuthorityRefused, match="issuer that this server issues with"):
        trust(pem(issuers.chain(issuer)[0]), actor=ANNA, now=timezone.now())


# By command


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("trust_device_ca", *arguments, stdout=out)
    return out.getvalue()


def test_by_command(tmp_path: Path) -> None:
    kept_device_ca(tmp_path)
    file = str(tmp_path / CERTIFICATE_FILE)
    told = json.loads(run(file, "--name", "Lab", "--minutes", "30", "--json"))
    row = DeviceAuthority.objects.get()
    assert (told["name"], told["sha256"]) == (row.name, row.sha256) == ("Lab", row.sha256)
    assert datetime.fromisoformat(told["until"]) == row.trusted_until
    assert "is trusted to identify devices, until it is switched off" in run(file)
    assert AuditEvent.objects.filter(action="device_ca.trusted", actor="command line").count() == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere.pem"], "/nowhere.pem: No such file"),
        ([__file__], "Not trusted: "),
        ([__file__, "--minutes", "-1"], "--minutes is not negative"),
    ],
)
def test_a_command_that_fails_says_why_in_a_line(arguments: list[str], message: str) -> None:
    with no_change(), pytest.raises(CommandError, match=message) as raised:
        run(*arguments)
    assert "\n" not in str(raised.value)


# In the admin


def upload(content: bytes, **fields: str) -> dict[str, Any]:
    return {"file": SimpleUploadedFile("ca.pem", content), "name": "", "until": "", **fields}


def test_by_upload(admin_client: Client) -> None:
    empty = admin_client.get(LIST).content.decode()
    assert "Apple iPhone Device CA, is built in" in empty
    assert "76:F2:7D:00" in empty
    assert "Trust a device CA…" in empty
    page = admin_client.get(f"{LIST}trust/").content.decode()
    assert "can pretend to be any device" in page
    form = upload(pem(authority().certificate), name="Lab", until="2036-01-02T03:04")
    answer = admin_client.post(f"{LIST}trust/", form)
    row = DeviceAuthority.objects.get()
    assert answer.headers["Location"] == f"{LIST}{row.pk}/change/"
    assert (row.name, f"{row.trusted_until:%Y-%m-%d %H:%M}") == ("Lab", "2036-01-02 03:04")
    shown = admin_client.get(f"{LIST}{row.pk}/change/").content.decode()
    assert "CN=A device CA" in shown
    assert AuditEvent.objects.get(action="device_ca.trusted").actor == "admin"


@pytest.mark.parametrize(
    "form",
    [
        upload(b"nothing"),
        {"name": "Lab", "until": ""},
        upload(pem(authority().certificate), until="tomorrow"),
    ],
)
def test_an_upload_that_is_refused_says_why(admin_client: Client, form: dict[str, Any]) -> None:
    with no_change():
        answer = admin_client.post(f"{LIST}trust/", form)
    assert answer.status_code == 200
    assert "errorlist" in answer.content.decode()


def test_on_and_off(admin_client: Client) -> None:
    row = trusted()
    chosen = {"action": "switch_off", "_selected_action": [row.pk]}
    text = admin_client.post(LIST, chosen, follow=True).content.decode()
    assert "1 device CA is trusted no longer." in text
    assert "switched off" in text
    assert anchors(timezone.now()) == [APPLE_DEVICE_CA]
    text = admin_client.post(LIST, {**chosen, "action": "switch_on"}, follow=True).content.decode()
    assert "1 device CA is trusted." in text
    assert len(anchors(timezone.now())) == 2


def test_the_list_says_how_each_stands(admin_client: Client) -> None:
    trusted(until=timezone.now() - timedelta(hours=1))
    assert "its time is over" in admin_client.get(LIST).content.decode()
    DeviceAuthority.objects.update(trusted_until=None, not_after=timezone.now() - timedelta(days=1))
    assert "its certificate is not valid now" in admin_client.get(LIST).content.decode()


def test_who_may_only_look_trusts_nobody(client: Client) -> None:
    row = trusted()
    user = User.objects.create_user("reader", password="x", is_staff=True)
    user.user_permissions.add(
        *Permission.objects.filter(content_type__app_label="enrollment", codename__startswith="view_")
    )
    client.force_login(user)
    assert client.get(LIST).status_code == 200
    assert "Trust a device CA…" not in client.get(LIST).content.decode()
    with no_change():
        assert client.get(f"{LIST}trust/").status_code == 403
        assert client.post(f"{LIST}trust/", upload(pem(authority("x").certificate))).status_code == 403
        client.post(LIST, {"action": "switch_off", "_selected_action": [row.pk]})
        assert client.post(f"{LIST}{row.pk}/delete/", {"post": "yes"}).status_code == 403


def test_nobody_deletes_a_device_ca(admin_client: Client) -> None:
    row = trusted()
    with no_change():
        assert admin_client.post(f"{LIST}{row.pk}/delete/", {"post": "yes"}).status_code == 403


# Device certificates


def signer() -> DeviceSigner:
    now = timezone.now()
    return DeviceSigner.objects.create(
        sha256="a" * 64,
        public_key_sha256="b" * 64,
        authority="Lab",
        serial_number="C01<b>",
        udid="U-1",
        first_seen_at=now,
        last_seen_at=now,
    )


def test_a_claim_can_be_looked_up_and_forgotten(admin_client: Client) -> None:
    row = signer()
    text = admin_client.get(f"{SIGNERS}?q=U-1").content.decode()
    assert "C01&lt;b&gt;" in text
    assert "C01<b>" not in text
    assert admin_client.get(f"{SIGNERS}{row.pk}/change/").status_code == 200
    answer = admin_client.post(f"{SIGNERS}{row.pk}/delete/", {"post": "yes"})
    assert answer.status_code == 302
    assert not DeviceSigner.objects.exists()
    event = AuditEvent.objects.get(action="device_certificate.forgotten")
    assert event.details["serial_number"] == "C01<b>"


def test_claims_are_not_written_by_hand(admin_client: Client) -> None:
    row = signer()
    with no_change():
        assert admin_client.get(f"{SIGNERS}add/").status_code == 403
        assert admin_client.post(f"{SIGNERS}{row.pk}/change/", {"serial_number": "X"}).status_code == 403
