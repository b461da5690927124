"""Minting challenges: by the command, in the admin, and what nobody sees again."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from io import StringIO

import pytest
import time_machine
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from audit.models import AuditEvent
from audit.recording import Actor
from pki.core.names import NameRefused
from pki.models import Issuer, IssuerState, Purpose
from scep import challenges
from scep.core.attributes import FailInfo
from scep.models import Challenge
from tests.scep.asking import ask, enrol, refused
from tests.scep.conftest import Mint
from tests.scep.support import NOW, Door, csr, pkcs_req, rsa_key

pytestmark = pytest.mark.django_db

VALUE = re.compile(r"\b[A-Z2-7]{32}\b")


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("scep_challenge", *arguments, stdout=out)
    return out.getvalue()


# --- the command -------------------------------------------------------------------------------------------


def test_the_command_mints_challenges_that_work(issuer: Issuer, door: Door, ca_certificate: bytes) -> None:
    rows = json.loads(run("--count", "3", "--cn", "printer", "--ttl", "5", "--json"))
    assert [sorted(row) for row in rows] == [["challenge", "expires_at", "subject"]] * 3
    assert {row["subject"] for row in rows} == {"CN=printer"}
    assert len({row["challenge"] for row in rows}) == 3
    assert all(datetime.fromisoformat(row["expires_at"]) == NOW + timedelta(minutes=5) for row in rows)
    certificate = enrol(door, ca_certificate, rows[1]["challenge"])
    assert (certificate.subject, certificate.purpose) == ("CN=printer", Purpose.MDM_IDENTITY)
    event = AuditEvent.objects.get(action="challenge.created")
    assert (event.actor, event.details["count"]) == ("command line", 3)


def test_the_command_names_each_by_number_or_at_random(issuer: Issuer) -> None:
    assert [row["subject"] for row in json.loads(run("--count", "2", "--cn", "p-{n}", "--json"))] == [
        "CN=p-1",
        "CN=p-2",
    ]
    names = {row["subject"] for row in json.loads(run("--count", "5", "--json"))}
    assert len(names) == 5
    assert all(re.fullmatch("CN=device-[0-9a-f]{12}", name) for name in names)


def test_the_command_prints_lines_for_people(issuer: Issuer) -> None:
    line = run("--cn", "printer").strip()
    assert VALUE.match(line)
    assert "CN=printer" in line
    assert "2026-11-24T13:00:00+00:00" in line


def test_the_command_takes_purpose_issuer_and_names(
    issuer: Issuer, door: Door, ca_certificate: bytes
) -> None:
    (row,) = json.loads(
        run("--cn", "web", "--purpose", "server_tls", "--san", "DNS:web.example", "--san", "IP:192.0.2.1",
            "--issuer", "bramley", "--json")
    )  # fmt: skip
    certificate = enrol(door, ca_certificate, row["challenge"])
    assert certificate.purpose == Purpose.SERVER_TLS
    assert certificate.subject_alternative_name == "DNS:web.example, IP:192.0.2.1"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--count", "0"],
        ["--count", "10001"],
        ["--ttl", "0"],
        ["--ttl", "1441"],
        ["--cn", "x" * 65],
        ["--cn", "a\nb"],
        ["--issuer", "nobody"],
        ["--san", "DNS:not a name"],
        ["--san", "dirName:x"],
    ],
)
def test_the_command_refuses_with_one_line(issuer: Issuer, arguments: list[str]) -> None:
    with pytest.raises(CommandError) as refusal:
        run(*arguments)
    assert "\n" not in str(refusal.value)
    assert not Challenge.objects.exists()
    assert not AuditEvent.objects.filter(action="challenge.created").exists()


def test_the_command_needs_an_issuer(db: None) -> None:
    with pytest.raises(CommandError):
        run()


def test_a_retired_issuer_gives_no_challenges(issuer: Issuer) -> None:
    issuer.state = IssuerState.RETIRED
    with pytest.raises(challenges.ChallengeError):
        challenges.create_challenges(
            [(("CN", "x"),)],
            issuer=issuer,
            purpose=Purpose.MDM_IDENTITY,
            ttl=timedelta(minutes=1),
            actor=Actor("x"),
            now=NOW,
        )


@pytest.mark.parametrize("subject", [(("CN", ""),), (("CN", "a\0"),), (("XX", "a"),), (("CN", " a"),)])
def test_a_name_that_would_not_stand_in_a_certificate_is_refused_at_once(
    mint: Mint, subject: tuple[tuple[str, str], ...]
) -> None:
    with pytest.raises(NameRefused):
        mint(subject=subject)
    assert not Challenge.objects.exists()


# --- the admin ---------------------------------------------------------------------------------------------


@pytest.fixture
def admin(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("ada", "ada@example.org", "x"))
    return client


def staff(*codenames: str) -> Client:
    user = User.objects.create_user("bob", "bob@example.org", "x", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client = Client()
    client.force_login(user)
    return client


FORM = {"count": "2", "common_name": "printer {n}", "minutes": "30", "purpose": "MDM_IDENTITY"}


def test_the_admin_mints_and_shows_the_values_once(
    admin: Client, issuer: Issuer, door: Door, ca_certificate: bytes
) -> None:
    page = admin.get("/admin/scep/challenge/add/")
    assert page.status_code == 200
    answer = admin.post("/admin/scep/challenge/add/", {**FORM, "issuer": str(issuer.pk)})
    assert answer.status_code == 200
    assert "no-store" in answer.headers["Cache-Control"]
    values = VALUE.findall(answer.content.decode())
    assert len(values) == 2
    assert "CN=printer 1" in answer.content.decode()
    assert enrol(door, ca_certificate, values[0]).subject == "CN=printer 1"
    event = AuditEvent.objects.get(action="challenge.created")
    assert event.actor == "ada"
    challenge = Challenge.objects.get(subject_text="CN=printer 2")
    assert challenge.created_by == "ada"
    for path in (
        "",
        f"{challenge.pk}/change/",
        "?state=unused",
        "?state=used",
        "?state=expired",
        "?q=printer",
    ):
        shown = admin.get(f"/admin/scep/challenge/{path}")
        assert shown.status_code == 200
        assert not any(value in shown.content.decode() for value in values)


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": "0"},
        {"count": "501"},
        {"minutes": "1441"},
        {"common_name": "a\u202eb"},
        {"purpose": "OCSP_SIGNING"},
        {"dns_name": "not a name"},
        {"issuer": "99"},
    ],
)
def test_what_the_form_refuses(admin: Client, issuer: Issuer, wrong: dict[str, str]) -> None:
    answer = admin.post("/admin/scep/challenge/add/", {**FORM, "issuer": str(issuer.pk), **wrong})
    assert answer.status_code == 200
    assert "errorlist" in answer.content.decode()
    assert not Challenge.objects.exists()


def test_who_may_only_look_may_not_mint(issuer: Issuer, mint: Mint) -> None:
    challenge, _value = mint()
    client = staff("view_challenge")
    assert client.get("/admin/scep/challenge/").status_code == 200
    assert client.get("/admin/scep/challenge/add/").status_code == 403
    assert client.post("/admin/scep/challenge/add/", {**FORM, "issuer": str(issuer.pk)}).status_code == 403
    withdraw(client, challenge)
    assert Challenge.objects.count() == 1
    challenge.refresh_from_db()
    assert challenge.expires_at == NOW + timedelta(hours=1)


def test_without_a_token_of_the_form_nothing_is_minted(issuer: Issuer) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_superuser("ada", "ada@example.org", "x"))
    answer = client.post("/admin/scep/challenge/add/", {**FORM, "issuer": str(issuer.pk)})
    assert answer.status_code == 403
    assert not Challenge.objects.exists()


def withdraw(client: Client, challenge: Challenge) -> None:
    client.post("/admin/scep/challenge/", {"action": "withdraw", "_selected_action": [str(challenge.pk)]})


def test_an_unused_challenge_can_be_withdrawn(admin: Client, mint: Mint) -> None:
    challenge, _value = mint()
    withdraw(admin, challenge)
    challenge.refresh_from_db()
    assert challenge.expires_at == NOW
    assert AuditEvent.objects.get(action="challenge.withdrawn").actor == "ada"


def test_a_challenge_is_neither_changed_nor_deleted(admin: Client, mint: Mint) -> None:
    challenge, _value = mint()
    admin.post(f"/admin/scep/challenge/{challenge.pk}/change/", {"subject_text": "x"})
    admin.post(f"/admin/scep/challenge/{challenge.pk}/delete/", {"post": "yes"})
    assert str(Challenge.objects.get(pk=challenge.pk)) == "CN=device 1"


def test_the_states_of_challenges(
    admin: Client, mint: Mint, door: Door, ca_certificate: bytes, at_noon: time_machine.Traveller
) -> None:
    mint(subject=(("CN", "old"),), ttl=timedelta(minutes=1))
    _used, value = mint(subject=(("CN", "spent"),))
    mint(subject=(("CN", "fresh"),))
    enrol(door, ca_certificate, value)
    at_noon.shift(timedelta(minutes=2))
    shown = {
        state: admin.get("/admin/scep/challenge/", {"state": state}).content.decode()
        for state in ("unused", "used", "expired")
    }
    assert {
        state: {name for name in ("old", "spent", "fresh") if f"CN={name}" in text}
        for state, text in shown.items()
    } == {"unused": {"fresh"}, "used": {"spent"}, "expired": {"old"}}


def test_transactions_show_the_reason_and_nothing_is_executed(
    admin: Client, door: Door, mint: Mint, ca_certificate: bytes
) -> None:
    script = "<script>alert(1)</script>"
    request = csr(rsa_key(1), "wrong", subject=(("CN", script),))
    sent = pkcs_req(request, ca_certificate=ca_certificate, transaction_id=script)
    row = refused(ask(door, sent, ca_certificate), FailInfo.BAD_REQUEST, "unknown challenge")
    enrol(door, ca_certificate, mint()[1])

    def page(query: str) -> str:
        return admin.get(f"/admin/scep/transaction/{query}").content.decode()

    finding = [
        "",
        "?status=FAILURE",
        "?fail_info=badRequest",
        "?message_type=PKCSReq",
        "?q=alert",
        "?q=127.0.0.1",
    ]
    for query in [*finding, f"{row.pk}/change/"]:
        text = page(query)
        assert "unknown challenge password" in text, query
        assert script not in text
    assert row.signer_sha256 in page(f"{row.pk}/change/")
    for query in ("?fail_info=badAlg", "?status=SUCCESS", "?q=nothing-like-it", "?message_type=RenewalReq"):
        assert "unknown challenge" not in page(query), query


def test_transactions_are_read_only(admin: Client, door: Door, ca_certificate: bytes) -> None:
    sent = pkcs_req(csr(rsa_key(1), "wrong"), ca_certificate=ca_certificate)
    row = refused(ask(door, sent, ca_certificate), FailInfo.BAD_REQUEST, "")
    assert admin.get("/admin/scep/transaction/add/").status_code == 403
    assert admin.post(f"/admin/scep/transaction/{row.pk}/delete/", {"post": "yes"}).status_code == 403
    assert admin.post(f"/admin/scep/transaction/{row.pk}/change/", {"reason": "x"}).status_code == 403
    row.refresh_from_db()
    assert row.reason == "unknown challenge password"


@pytest.mark.parametrize("page", ["challenge", "transaction"])
def test_lists_cost_no_query_for_each_row(
    admin: Client, mint: Mint, ca_certificate: bytes, page: str
) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert admin.get(f"/admin/scep/{page}/").status_code == 200
        return len(captured)

    enrol(Door(), ca_certificate, mint()[1])
    with_one = queries()
    for number in range(12):
        enrol(Door(), ca_certificate, mint(subject=(("CN", f"device {number}"),))[1])
    assert queries() == with_one
