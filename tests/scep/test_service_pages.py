"""The admin: services with their rules, and requests that are approved exactly as they are shown."""

from __future__ import annotations

import hashlib
import re
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from audit.models import AuditEvent
from audit.recording import SERVER
from pki import issuers
from pki.models import Certificate, Issuer
from scep import approvals, services, webhooks
from scep.core import capabilities
from scep.models import ApprovalChoice, Mode, ScepService, Transaction, TransactionStatus
from tests.scep.asking import ask, issued, pending
from tests.scep.conftest import Mint
from tests.scep.support import NOW, Door, cert_poll, csr, nothing_issued, pkcs_req, rsa_key, signer
from tests.scep.test_minting import staff
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db

ROUTER = (("O", "Example"), ("CN", "router 1"))
SERVICES, WAITING = "/admin/scep/scepservice/", "/admin/scep/pendingrequest/"


@pytest.fixture
def admin(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("ada", "ada@example.org", "x"))
    return client


def text_of(response: Any) -> str:
    assert response.status_code == 200, response
    return str(response.content.decode())


# --- services --------------------------------------------------------------------------------------------


def form_of(service: ScepService, **changes: object) -> dict[str, Any]:
    """What a browser sends when nothing but ``changes`` was touched."""
    values: dict[str, Any] = {
        "enabled": "on",
        "challenge_mode": service.challenge_mode,
        "approval": service.approval,
        "webhook_url": service.webhook_url,
        "pending_days": service.pending_days,
        "purpose": service.purpose,
        "validity_days": "",
        "proposal": service.proposal,
        "renewal_window_days": "",
        "ca_form": service.ca_form,
        "capabilities": list(capabilities.KEYWORDS),
        "accept_sha1": "on",
        "allow_get": "on",
        "clock_minutes": "",
    }
    return {name: value for name, value in {**values, **changes}.items() if value is not None}


def test_every_issuer_has_a_service_in_the_list(admin: Client, issuer: Issuer) -> None:
    issuers.create_issuer("other", "Other CA", algorithm="RSA-2048", actor=SERVER, now=NOW)
    page = text_of(admin.get(SERVICES))
    assert "http://127.0.0.1:8000/scep/bramley/" in page
    assert "http://127.0.0.1:8000/scep/other/" in page


def test_a_service_says_what_clients_find_there(
    admin: Client, service: ScepService, ca_certificate: bytes
) -> None:
    page = text_of(admin.get(f"{SERVICES}{service.pk}/change/"))
    assert hashlib.sha256(ca_certificate).hexdigest() in page
    assert "AES, DES3, POSTPKIOperation, Renewal, SHA-256, SHA-384, SHA-512, SCEPStandard" in page


def test_a_service_is_made_and_changed(admin: Client, issuer: Issuer, ca_certificate: bytes) -> None:
    made = form_of(ScepService(), slug="routers", issuer=issuer.pk, challenge_mode="NONE", approval="ALWAYS")
    assert admin.post(f"{SERVICES}add/", made).status_code == 302
    service = ScepService.objects.get(slug="routers")
    assert (service.challenge_mode, service.approval) == (Mode.NONE, ApprovalChoice.ALWAYS)
    changed = form_of(service, accept_sha1=None, capabilities=["AES", "SHA-256"], slug="hacked")
    assert admin.post(f"{SERVICES}{service.pk}/change/", changed).status_code == 302
    service.refresh_from_db()
    assert (service.slug, service.accept_sha1, service.capabilities) == ("routers", False, ["AES", "SHA-256"])
    events = AuditEvent.objects.filter(action__startswith="scep_service").order_by("id")
    assert [(event.action, event.actor) for event in events] == [
        ("scep_service.created", "ada"),
        ("scep_service.changed", "ada"),
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"challenge_mode": "NONE"}, "has to wait for approval"),
        ({"challenge_mode": "NONE", "approval": "WITHOUT_CHALLENGE"}, "has to wait for approval"),
        ({"challenge_mode": "WEBHOOK"}, "address of the webhook is missing"),
        ({"webhook_url": "http://example.org/"}, "without https"),
        ({"webhook_url": "file:///etc/passwd"}, "has to start with https"),
        ({"capabilities": None}, "This field is required"),
        ({"capabilities": ["AES"]}, "at least one digest"),
        ({"capabilities": ["SHA-256"]}, "at least one of AES and DES3"),
        ({"capabilities": ["AES", "SHA-256", "DES"]}, "DES is not one of the available choices"),
        ({"capabilities": ["AES", "SHA-256"], "allow_get": None}, "allow GET, or POSTPKIOperation"),
        ({"pending_days": "0"}, "Between 1 and 90"),
        ({"validity_days": "4000"}, "Between 1 and 3650"),
    ],
)
def test_what_the_form_refuses(
    admin: Client, service: ScepService, changes: dict[str, object], said: str
) -> None:
    with no_change():
        page = text_of(admin.post(f"{SERVICES}{service.pk}/change/", form_of(service, **changes)))
    assert said in page.replace("&#x27;", "'")


def test_the_address_of_another_issuer_is_not_taken(admin: Client, issuer: Issuer) -> None:
    issuers.create_issuer("other", "Other CA", algorithm="RSA-2048", actor=SERVER, now=NOW)
    made = form_of(ScepService(), slug="other", issuer=issuer.pk)
    with no_change():
        assert "name of another issuer" in text_of(admin.post(f"{SERVICES}add/", made))


def test_a_service_is_not_deleted(admin: Client, service: ScepService) -> None:
    assert admin.post(f"{SERVICES}{service.pk}/delete/", {"post": "yes"}).status_code == 403
    admin.post(SERVICES, {"action": "delete_selected", "_selected_action": [str(service.pk)], "post": "yes"})
    assert ScepService.objects.count() == 1


def test_who_may_only_look_changes_nothing(service: ScepService) -> None:
    client = staff("view_scepservice")
    assert client.get(f"{SERVICES}{service.pk}/change/").status_code == 200
    with no_change():
        response = client.post(f"{SERVICES}{service.pk}/change/", form_of(service, accept_sha1=None))
        assert response.status_code == 403
        assert client.get(f"{SERVICES}{service.pk}/secret/").status_code == 403


def test_the_secret_of_a_webhook_is_shown_on_request_and_that_is_recorded(
    admin: Client, service: ScepService
) -> None:
    at = f"{SERVICES}{service.pk}/secret/"
    assert admin.get(at).status_code == 404
    service.challenge_mode, service.webhook_url = Mode.WEBHOOK, "https://example.org/"
    services.save(service, actor=SERVER)
    secret = webhooks.secret(service)
    assert secret not in text_of(admin.get(f"{SERVICES}{service.pk}/change/"))
    assert secret not in text_of(admin.get(at))
    assert not AuditEvent.objects.filter(action__contains="secret").exists()
    assert secret in text_of(admin.post(at, {"show": "yes"}))
    renewed = text_of(admin.post(at, {"renew": "yes"}))
    assert secret not in renewed
    service.refresh_from_db()
    assert webhooks.secret(service) in renewed
    events = AuditEvent.objects.filter(action__contains="secret").order_by("id")
    assert [(event.action, event.actor) for event in events] == [
        ("scep_service.secret_shown", "ada"),
        ("scep_service.secret_renewed", "ada"),
    ]


# --- what waits ------------------------------------------------------------------------------------------


@pytest.fixture
def waiting_room(service: ScepService) -> ScepService:
    service.challenge_mode, service.approval = Mode.NONE, ApprovalChoice.ALWAYS
    return services.save(service, actor=SERVER)


@pytest.fixture
def sent(ca_certificate: bytes) -> Any:
    request = csr(rsa_key(1), subject=ROUTER, san=[("DNS", "router-1.example")])
    return pkcs_req(request, ca_certificate=ca_certificate, identity=signer(1, "router 1"))


@pytest.fixture
def row(door: Door, ca_certificate: bytes, waiting_room: ScepService, sent: Any) -> Transaction:
    return pending(ask(door, sent, ca_certificate))


class Page:
    """The page of one request as a person uses it."""

    def __init__(self, client: Client, row: Transaction) -> None:
        self.client, self.url = client, f"{WAITING}{row.pk}/change/"
        self.text = text_of(client.get(self.url))

    def field(self, name: str) -> str:
        found = re.search(rf'name="{name}"[^>]*?(?:value="([^"]*)"|>\s*([^<]*)</textarea>)', self.text)
        assert found, name
        return (found.group(1) or found.group(2) or "").strip()

    def send(self, decision: str, **changes: str) -> Any:
        values = {name: self.field(name) for name in ("subject", "names", "shown")} | {"days": ""}
        response = self.client.post(self.url, {**values, decision: "yes", **changes})
        if response.status_code == 200:
            self.text = response.content.decode()
        return response

    @property
    def certificate(self) -> str:
        """The part that says what will be issued."""
        return self.text.split("The certificate that it will get")[1].split("</section>")[0]


def test_the_list_shows_what_waits(admin: Client, row: Transaction) -> None:
    page = text_of(admin.get(WAITING))
    assert "CN=router 1,O=Example" in page
    assert "DNS:router-1.example" in page
    assert f'{WAITING}?service__id__exact={row.service_id}">1</a>' in text_of(admin.get(SERVICES))


def test_an_empty_list_says_how_requests_come_there(admin: Client, issuer: Issuer) -> None:
    assert "Nothing waits" in text_of(admin.get(WAITING))


def test_what_is_shown_is_what_is_issued(
    admin: Client, row: Transaction, door: Door, ca_certificate: bytes, sent: Any
) -> None:
    page = Page(admin, row)
    assert "O=Example<br>CN=router 1" in page.certificate
    assert "DNS:router-1.example" in page.certificate
    assert "serverAuth" in page.certificate
    assert page.send("approve").status_code == 302
    certificate = Certificate.objects.get()
    assert certificate.subject == "CN=router 1,O=Example"
    assert certificate.subject_alternative_name == "DNS:router-1.example"
    poll = cert_poll(sent, ROUTER, ca_certificate=ca_certificate)
    assert issued(ask(door, poll, ca_certificate)) == certificate
    row.refresh_from_db()
    assert row.decided_by == "ada"
    assert AuditEvent.objects.get(action="scep_request.approved").actor == "ada"


def test_a_change_is_shown_before_it_is_issued(admin: Client, row: Transaction) -> None:
    page = Page(admin, row)
    with nothing_issued():
        response = page.send("approve", subject="CN=core", names="", days="10")
    assert response.status_code == 200
    assert "CN=core" in page.certificate
    assert "router" not in page.certificate.replace("RSA", "")
    # The button again, with what the page now shows.
    assert page.send("approve", days="10").status_code == 302
    certificate = Certificate.objects.get()
    assert (certificate.subject, certificate.subject_alternative_name) == ("CN=core", "")
    assert certificate.not_after == NOW + timedelta(days=10)


def test_a_look_at_changes_issues_nothing(admin: Client, row: Transaction) -> None:
    page = Page(admin, row)
    with no_change():
        page.send("preview", subject="CN=core")
        assert "CN=core" in page.certificate
        # Whoever writes the mark of another page by hand gets a look too.
        page.send("approve", subject="CN=other", shown=page.field("shown"))
    assert "CN=other" in page.certificate


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"subject": "router"}, "not written like"),
        ({"subject": "XX=router"}, "none of"),
        ({"subject": "CN=" + "x" * 65}, "longer than"),
        ({"names": "DNS:a b"}, "DNS"),
        ({"names": "router.example"}, "not written like"),
        ({"days": "0"}, "greater than or equal to 1"),
        ({"subject": "", "names": ""}, "name nobody"),
    ],
)
def test_what_cannot_be_issued(admin: Client, row: Transaction, changes: dict[str, str], said: str) -> None:
    page = Page(admin, row)
    with no_change():
        page.send("approve", **changes)
    assert said in page.text


def test_a_request_is_rejected_with_a_reason(admin: Client, row: Transaction) -> None:
    page = Page(admin, row)
    with nothing_issued():
        assert page.send("reject", reason="unknown").status_code == 302
    row.refresh_from_db()
    assert (row.status, row.reason, row.decided_by) == (TransactionStatus.FAILURE, "rejected: unknown", "ada")
    assert "rejected: unknown" in text_of(admin.get(f"/admin/scep/transaction/{row.pk}/change/"))


def test_what_somebody_else_decided_is_decided(admin: Client, row: Transaction) -> None:
    page = Page(admin, row)
    approvals.reject(row, "", actor=SERVER, now=NOW)
    with nothing_issued():
        assert page.send("approve").status_code == 302
    assert admin.get(page.url).status_code == 302
    assert "does not wait any more" in text_of(admin.get(page.url, follow=True))
    assert admin.get(f"{WAITING}99999/change/").status_code == 404
    assert admin.get(f"{WAITING}x/change/").status_code == 404


def test_what_has_lapsed_is_not_decided(
    admin: Client, row: Transaction, at_noon: time_machine.Traveller
) -> None:
    page = Page(admin, row)
    at_noon.shift(timedelta(days=8))
    with nothing_issued():
        assert page.send("approve").status_code == 302
    assert "Nothing waits" in text_of(admin.get(WAITING))


def test_who_may_only_look_decides_nothing(row: Transaction) -> None:
    client = staff("view_pendingrequest")
    page = text_of(client.get(f"{WAITING}{row.pk}/change/"))
    assert 'name="approve"' not in page
    with no_change():
        for decision in ("approve", "reject", "preview"):
            response = client.post(f"{WAITING}{row.pk}/change/", {decision: "yes", "subject": "CN=x"})
            assert response.status_code == 403
    User.objects.all().delete()
    assert staff("view_transaction").get(f"{WAITING}{row.pk}/change/").status_code == 403


def test_without_a_token_of_the_form_nothing_is_decided(row: Transaction) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_superuser("ada", "ada@example.org", "x"))
    with no_change():
        response = client.post(f"{WAITING}{row.pk}/change/", {"reject": "yes"})
    assert response.status_code == 403


def test_names_that_strangers_write_are_text(
    admin: Client, door: Door, ca_certificate: bytes, waiting_room: ScepService
) -> None:
    script = "<script>alert(1)</script>"
    request = csr(rsa_key(1), subject=(("CN", script),))
    row = pending(ask(door, pkcs_req(request, ca_certificate=ca_certificate), ca_certificate))
    for url in (WAITING, f"{WAITING}{row.pk}/change/", f"/admin/scep/transaction/{row.pk}/change/"):
        assert script not in text_of(admin.get(url))


def test_a_waiting_request_is_reached_from_the_log(admin: Client, row: Transaction) -> None:
    assert f"{WAITING}{row.pk}/change/" in text_of(admin.get(f"/admin/scep/transaction/{row.pk}/change/"))


def test_challenges_are_counted_by_state(admin: Client, mint: Mint) -> None:
    assert "No challenges yet" in text_of(admin.get("/admin/scep/challenge/"))
    mint()
    mint(ttl=timedelta(minutes=-1))
    page = text_of(admin.get("/admin/scep/challenge/"))
    assert "unused" in page
    assert "expired" in page


@pytest.mark.parametrize("page", [SERVICES, WAITING])
def test_lists_cost_no_query_for_each_row(
    admin: Client, ca_certificate: bytes, waiting_room: ScepService, issuer: Issuer, page: str
) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert admin.get(page).status_code == 200
        return len(captured)

    def add(number: int) -> None:
        request = csr(rsa_key(number % 3), subject=(("CN", f"router {number}"),))
        pending(ask(Door(), pkcs_req(request, ca_certificate=ca_certificate), ca_certificate))
        ScepService.objects.create(slug=f"s{number}", issuer=issuer)

    add(0)
    with_one = queries()
    for number in range(1, 8):
        add(number)
    assert queries() == with_one
