"""Signing in with OpenID Connect, against a provider that runs here; and what a wrong one is refused for."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from django.core.cache import cache
from django.test import Client

from audit.models import AuditEvent
from enrollment import openid
from enrollment.models import (
    Access,
    EnrollmentProfile,
    EnrollmentSession,
    IdentityProvider,
    PersonSource,
)
from enrollment.openid import SignInFailed
from tests.enrollment.gates import button, details, gated, reasons
from tests.support.oidc import Claims, OpenIdProvider
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db
START, PAGE = "/enroll/default/openid", "/enroll/default/"
RETURN = "http://127.0.0.1:8000/enroll/openid/return"


@pytest.fixture(autouse=True)
def setting(settings: Any) -> None:
    cache.clear()
    settings.BRAMLEY_PUBLIC_URL = "http://127.0.0.1:8000"
    settings.BRAMLEY_OPENID_LOOPBACK_HTTP = True


@dataclass
class Visit:
    """A browser, the enrolment page and the provider."""

    client: Client
    provider: OpenIdProvider
    profile: EnrollmentProfile
    record: IdentityProvider

    def set_out(self) -> str:
        """To the provider; where that is."""
        answer = self.client.get(START)
        assert answer.status_code == 302, answer.content
        return answer["Location"]

    def come_back(self, address: str) -> Any:
        """With what the provider gave along."""
        parts = urlsplit(address)
        assert f"{parts.scheme}://{parts.netloc}{parts.path}" == RETURN
        return self.client.get(f"{parts.path}?{parts.query}")

    def sign_in(self, person: str = "anna") -> Any:
        return self.come_back(self.provider.consent(self.set_out(), person))

    def refused(self, reason: str, come_back: Callable[[], Any] | None = None) -> str:
        """Signing in fails and changes nothing. Returns the details on record."""
        with no_change():
            answer = (come_back or self.sign_in)()
            assert answer.status_code == 403, answer.status_code
            assert button(self.client) == ""
        assert reasons()[0] == reason, details()
        assert "hush-hush" not in details() + answer.content.decode()
        return details()


@pytest.fixture
def provider() -> Iterator[OpenIdProvider]:
    with OpenIdProvider(redirect_uris={RETURN}) as running:
        running.people["anna"] = {"email": "anna@example.com", "name": "Anna", "groups": ["staff", "it"]}
        yield running


@pytest.fixture
def visit(client: Client, profile: EnrollmentProfile, provider: OpenIdProvider) -> Visit:
    record = IdentityProvider(name="Orchard", issuer=provider.issuer, client_id=provider.client_id)
    record.client_secret_sealed = openid.seal_secret(record, provider.client_secret)
    record.save()
    gated(profile, Access.LOGIN, identity_provider=record, allow_accounts=False)
    return Visit(client, provider, profile, record)


def test_a_person_signs_in_and_downloads(visit: Visit) -> None:
    assert "Sign in with Orchard" in visit.client.get(PAGE).content.decode()
    address = visit.set_out()
    query = parse_qs(urlsplit(address).query)
    assert address.startswith(f"{visit.provider.issuer}/authorize?")
    assert query["redirect_uri"] == [RETURN]
    assert query["code_challenge_method"] == ["S256"]
    assert len(query["state"][0]) >= 20
    assert len(query["nonce"][0]) >= 20
    answer = visit.come_back(visit.provider.consent(address, "anna"))
    assert (answer.status_code, answer["Location"]) == (303, PAGE)
    assert "Signed in as <strong>anna@example.com</strong>" in visit.client.get(PAGE).content.decode()
    assert visit.client.get(button(visit.client)).status_code == 200
    session = EnrollmentSession.objects.get()
    assert (session.person, session.person_source, session.person_id) == (
        "anna@example.com",
        PersonSource.OPENID,
        f"{visit.provider.issuer} sub-anna",
    )
    event = AuditEvent.objects.get(action="enrollment.signed_in")
    assert event.actor == "anna@example.com"
    assert visit.provider.refused == []
    assert visit.client.get("/admin/").status_code == 302, "no account comes of it"


def test_the_secret_is_sealed(visit: Visit) -> None:
    assert b"hush-hush" not in bytes(visit.record.client_secret_sealed)
    assert "hush-hush" not in repr(list(IdentityProvider.objects.values()))


def test_only_people_of_a_group(visit: Visit) -> None:
    gated(visit.profile, Access.LOGIN, people_groups="Teachers")
    visit.refused("person not in a group that may enrol")
    gated(visit.profile, Access.LOGIN, people_groups="Teachers\nIT")
    assert visit.sign_in().status_code == 303


def test_whoever_the_provider_refuses(visit: Visit) -> None:
    assert "access_denied" in visit.refused("provider refused", lambda: visit.sign_in("mallory"))


# --- State, code, PKCE -----------------------------------------------------------------------------------


def test_an_answer_that_nobody_asked_for(visit: Visit) -> None:
    """Another browser's answer, with a state of its own: signing in on somebody's behalf."""
    address = visit.provider.consent(visit.set_out(), "anna")
    stranger = Client()
    parts = urlsplit(address)
    with no_change():
        assert stranger.get(f"{parts.path}?{parts.query}").status_code == 404
    assert button(stranger) == ""
    for query in ("", "code=x", "code=x&state=", "state=x&state=y"):
        with no_change():
            assert visit.client.get(f"{parts.path}?{query}").status_code == 404


def test_an_answer_with_another_state(visit: Visit) -> None:
    address = visit.provider.consent(visit.set_out(), "anna")
    with no_change():
        assert visit.come_back(address.replace("state=", "state=x")).status_code == 404
    assert button(visit.client) == ""


def test_an_answer_counts_once(visit: Visit) -> None:
    address = visit.provider.consent(visit.set_out(), "anna")
    assert visit.come_back(address).status_code == 303
    visit.client.post("/enroll/default/leave")
    with no_change():
        assert visit.come_back(address).status_code == 404
    assert button(visit.client) == ""


def test_a_code_of_another_sign_in(visit: Visit) -> None:
    """Somebody slips their own code under this browser's state: PKCE and nonce are not of that code."""
    theirs = Visit(Client(), visit.provider, visit.profile, visit.record)
    stolen = parse_qs(urlsplit(visit.provider.consent(theirs.set_out(), "anna")).query)["code"][0]
    mine = visit.provider.consent(visit.set_out(), "anna")
    own = parse_qs(urlsplit(mine).query)["code"][0]
    said = visit.refused("ID token refused", lambda: visit.come_back(mine.replace(own, stolen)))
    assert "PKCE" in said


def test_an_answer_that_another_provider_gives(visit: Visit) -> None:
    visit.provider.says_issuer = "https://evil.example"
    visit.refused("answer of another provider")


def test_an_answer_without_the_issuer_that_was_promised(visit: Visit) -> None:
    address = visit.provider.consent(visit.set_out(), "anna").partition("&iss=")[0]
    visit.refused("answer of another provider", lambda: visit.come_back(address))


def test_a_provider_that_was_changed_meanwhile(visit: Visit) -> None:
    address = visit.provider.consent(visit.set_out(), "anna")
    other = IdentityProvider.objects.create(name="Other", issuer="https://other.example", client_id="x")
    gated(visit.profile, Access.LOGIN, identity_provider=other)
    visit.refused("sign-in not begun here", lambda: visit.come_back(address))


def test_a_profile_that_was_closed_meanwhile(visit: Visit) -> None:
    address = visit.provider.consent(visit.set_out(), "anna")
    gated(visit.profile, Access.LOGIN, enabled=False)
    with no_change():
        assert visit.come_back(address).status_code == 404


def test_a_wrong_client_secret(visit: Visit) -> None:
    visit.record.client_secret_sealed = openid.seal_secret(visit.record, "another")
    visit.record.save()
    assert "invalid_client" in visit.refused("ID token refused")


def test_a_secret_of_another_row_does_not_open(visit: Visit) -> None:
    other = IdentityProvider(name="Other", issuer="https://other.example", client_id="x")
    visit.record.client_secret_sealed = openid.seal_secret(other, visit.provider.client_secret)
    visit.record.save()
    visit.refused("client secret cannot be opened", lambda: visit.client.get(START))


# --- The ID token ----------------------------------------------------------------------------------------

NOW = int(time.time())
WRONG_CLAIMS: dict[str, Callable[[Claims], Claims]] = {
    "nonce": lambda claims: {**claims, "nonce": "another"},
    "no nonce": lambda claims: {name: value for name, value in claims.items() if name != "nonce"},
    "audience": lambda claims: {**claims, "aud": "another-client"},
    "audience with us as the party": lambda claims: {**claims, "aud": "another", "azp": claims["aud"]},
    "party": lambda claims: {**claims, "azp": "another-client"},
    "no audience": lambda claims: {name: value for name, value in claims.items() if name != "aud"},
    "issuer": lambda claims: {**claims, "iss": "https://evil.example"},
    "no issuer": lambda claims: {name: value for name, value in claims.items() if name != "iss"},
    "expired": lambda claims: {**claims, "exp": NOW - 3600, "iat": NOW - 7200},
    "no end": lambda claims: {name: value for name, value in claims.items() if name != "exp"},
    "not yet": lambda claims: {**claims, "nbf": NOW + 3600},
    "from the future": lambda claims: {**claims, "iat": NOW + 36_000, "exp": NOW + 72_000},
    "of another access token": lambda claims: {**claims, "at_hash": "AAAAAAAAAAAAAAAAAAAAAA"},
    "no subject": lambda claims: {name: value for name, value in claims.items() if name != "sub"},
    "empty subject": lambda claims: {**claims, "sub": ""},
    "no token": lambda _claims: {},
}


@pytest.mark.parametrize("what", sorted(WRONG_CLAIMS))
def test_an_id_token_that_says_something_wrong(visit: Visit, what: str) -> None:
    visit.provider.twist = WRONG_CLAIMS[what]
    visit.refused("ID token refused")


def _another_key(_provider: OpenIdProvider, _header: dict[str, str], signed: bytes) -> bytes:
    return rsa.generate_private_key(65537, 2048).sign(signed, padding.PKCS1v15(), hashes.SHA256())


def _nothing(_provider: OpenIdProvider, _header: dict[str, str], _signed: bytes) -> bytes:
    return b""


def _with_the_secret(provider: OpenIdProvider, _header: dict[str, str], signed: bytes) -> bytes:
    code = hmac.HMAC(provider.client_secret.encode(), hashes.SHA256())
    code.update(signed)
    return code.finalize()


def _with_the_public_key(provider: OpenIdProvider, _header: dict[str, str], signed: bytes) -> bytes:
    code = hmac.HMAC(json.dumps(provider.jwks()["keys"][0]).encode(), hashes.SHA256())
    code.update(signed)
    return code.finalize()


@pytest.mark.parametrize(
    ("header", "sign"),
    [
        ({}, _another_key),
        ({}, _nothing),
        ({"alg": "none"}, _nothing),
        ({"alg": "None"}, _nothing),
        ({"alg": "HS256"}, _with_the_secret),
        ({"alg": "HS256"}, _with_the_public_key),
        ({"alg": "RS512"}, None),
        ({"kid": "another"}, None),
    ],
)
def test_an_id_token_that_is_not_signed_by_the_provider(
    visit: Visit, header: dict[str, str], sign: Any
) -> None:
    visit.provider.header, visit.provider.sign = header, sign
    visit.refused("ID token refused")


def test_an_id_token_that_brings_its_own_key(visit: Visit) -> None:
    own = OpenIdProvider()
    own.key = rsa.generate_private_key(65537, 2048)
    visit.provider.header = {"jwk": own.jwks()["keys"][0], "jku": f"{own.issuer}/jwks"}
    visit.provider.sign = lambda _provider, _header, signed: own.key.sign(
        signed, padding.PKCS1v15(), hashes.SHA256()
    )
    visit.refused("ID token refused")


# --- The provider ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "https://evil.example"},
        {"id_token_signing_alg_values_supported": ["none"]},
        {"token_endpoint": None},
        {"authorization_endpoint": "javascript:alert(1)"},
    ],
)
def test_a_discovery_document_that_will_not_do(visit: Visit, change: Claims) -> None:
    visit.provider.twist_metadata = lambda document: {**document, **change}
    visit.refused("provider cannot be reached", lambda: visit.client.get(START))


@pytest.mark.parametrize(
    "address",
    [
        "http://169.254.169.254/latest",
        "https://169.254.169.254/latest",
        "https://10.0.0.1/keys",
        "https://[::1]/keys",
        "https://user:pass@login.example.com/keys",
        "http://127.0.0.2:1/keys",
        "ftp://127.0.0.1/keys",
        "file://localhost/etc/passwd",
    ],
)
def test_a_provider_cannot_send_us_into_the_network(visit: Visit, address: str) -> None:
    visit.provider.twist_metadata = lambda document: {**document, "jwks_uri": address}
    with no_change():
        assert visit.client.get(START).status_code == 403
    assert reasons()[0] in {
        "address is not https",
        "address inside the network",
        "address with a password",
    }


def test_plain_http_only_by_the_setting_and_only_here(visit: Visit, settings: Any) -> None:
    settings.BRAMLEY_OPENID_LOOPBACK_HTTP = False
    visit.refused("address is not https", lambda: visit.client.get(START))
    settings.BRAMLEY_OPENID_LOOPBACK_HTTP = True
    with pytest.raises(SignInFailed):
        openid.verify_address("http://login.example.com/", "http://login.example.com/")


@pytest.mark.parametrize("manner", ["nobody", "redirect", "error page", "huge", "not json", "a list", "slow"])
def test_a_provider_that_misbehaves(visit: Visit, manner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openid, "SECONDS", 0.5)
    elsewhere: list[str] = []
    server = HTTPServer(("127.0.0.1", 0), _misbehaving(manner, elsewhere))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    visit.record.issuer = f"http://127.0.0.1:{server.server_port}"
    visit.record.save()
    if manner == "nobody":
        server.shutdown()
        server.server_close()
    try:
        with no_change():
            assert visit.client.get(START).status_code == 403
        assert reasons()[0] in {"provider cannot be reached", "answer too large", "answer too slow"}
        assert "elsewhere" not in elsewhere
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _misbehaving(manner: str, seen: list[str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path.strip("/"))
            self.send_response({"redirect": 302, "error page": 500}.get(manner, 200))
            if manner == "redirect":
                self.send_header("Location", "/elsewhere")
            self.end_headers()
            try:
                self._write()
            except OSError:  # the client has had enough
                seen.append("left")

        def _write(self) -> None:
            if manner == "huge":
                for _ in range(64):
                    self.wfile.write(b'"' + b"x" * 16 * 1024)
            elif manner == "slow":
                for _ in range(40):
                    self.wfile.write(b" ")
                    time.sleep(0.05)
            else:
                self.wfile.write({"not json": b"<html>", "a list": b"[1, 2]"}.get(manner, b"{}"))

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    return Handler


def test_the_turn_is_given_away_while_the_provider_is_asked(visit: Visit) -> None:
    turns = threading.BoundedSemaphore(1)
    free: list[bool] = []

    def look(document: Claims) -> Claims:
        free.append(turns.acquire(blocking=False))
        if free[-1]:
            turns.release()
        return document

    visit.provider.twist_metadata = look
    with turns:
        meta: dict[str, Any] = {"bramley.turns": turns}
        assert visit.client.get(START, **meta).status_code == 302
    assert free == [True]


def test_no_more_than_a_few_sign_ins_are_kept(visit: Visit) -> None:
    for _ in range(openid.MAX_PENDING + 3):
        visit.set_out()
    assert len(visit.client.session["enrollment.openid"]) == openid.MAX_PENDING
    assert visit.sign_in().status_code == 303
