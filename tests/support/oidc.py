"""A small OpenID Connect provider on loopback: discovery, authorization code with PKCE, RS256, JWKS.

It is strict where a provider is: client and redirect address registered, code used once and by who began,
verifier right. Its tokens are put together by hand, so that the client's library is not measured by itself.
``twist`` and its siblings make it misbehave, one rule at a time.

    with OpenIdProvider() as provider:
        provider.people["anna"] = {"email": "anna@example.com", "groups": ["staff"]}
        back = provider.consent(address_that_the_browser_was_sent_to, "anna")
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import secrets
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

Claims = dict[str, Any]


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@lru_cache(maxsize=1)
def _key() -> rsa.RSAPrivateKey:
    """One for the whole run: making it takes longer than all else here."""
    return rsa.generate_private_key(65537, 2048)


def _number(value: int) -> str:
    return _b64(value.to_bytes((value.bit_length() + 7) // 8, "big"))


@dataclass
class _Begun:
    """One authorization code, until it is exchanged."""

    client_id: str
    redirect_uri: str
    challenge: str
    nonce: str
    person: str


@dataclass
class OpenIdProvider:
    """The provider. ``people``: claims by user name, beside ``sub``."""

    client_id: str = "bramley"
    client_secret: str = "hush-hush-hush"
    redirect_uris: set[str] = field(default_factory=set)
    people: dict[str, Claims] = field(default_factory=dict)
    twist: Callable[[Claims], Claims] = lambda claims: claims
    twist_metadata: Callable[[Claims], Claims] = lambda document: document
    sign: Callable[[OpenIdProvider, dict[str, str], bytes], bytes] | None = None
    header: dict[str, str] = field(default_factory=dict)
    says_issuer: str | None = None
    """What it puts into ``iss`` of the answer, instead of itself."""
    requests: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.key = _key()
        self.key_id = secrets.token_hex(4)
        self._codes: dict[str, _Begun] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._thread = threading.Thread(target=self._server.serve_forever, name="oidc", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def consent(self, address: str, person: str) -> str:
        """What a browser does at the sign-in page: answer it, and return where that leads."""
        with urllib.request.urlopen(address) as page:  # the page that a person would see
            assert page.status == 200
        query = urllib.parse.urlsplit(address).query
        body = urllib.parse.urlencode({"person": person}).encode()
        opener = urllib.request.build_opener(_NoRedirect)
        answer = opener.open(f"{self.issuer}/authorize?{query}", body)
        location: str = answer.headers["Location"]
        return location

    # What it serves

    def metadata(self) -> Claims:
        document = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/jwks",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
        }
        return self.twist_metadata(document)

    def jwks(self) -> Claims:
        numbers = self.key.public_key().public_numbers()
        key = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.key_id}
        return {"keys": [{**key, "n": _number(numbers.n), "e": _number(numbers.e)}]}

    def begin(self, query: dict[str, str]) -> str:
        """Why an authorization request is refused; empty where it is in order."""
        if query.get("client_id") != self.client_id:
            return "unknown client"
        if query.get("redirect_uri") not in self.redirect_uris:
            return f"redirect address {query.get('redirect_uri')} is not registered"
        if query.get("response_type") != "code" or "openid" not in query.get("scope", "").split():
            return "not the authorization code flow of OpenID Connect"
        if query.get("code_challenge_method") != "S256" or len(query.get("code_challenge", "")) != 43:
            return "no PKCE"
        return "" if query.get("state") and query.get("nonce") else "no state or nonce"

    def agree(self, query: dict[str, str], person: str) -> str:
        """The address that the browser is sent back to."""
        if person not in self.people:
            more = {"error": "access_denied"}
        else:
            code = secrets.token_urlsafe(16)
            self._codes[code] = _Begun(
                query["client_id"], query["redirect_uri"], query["code_challenge"], query["nonce"], person
            )
            more = {"code": code}
        more |= {"state": query["state"], "iss": self.says_issuer or self.issuer}
        return f"{query['redirect_uri']}?{urllib.parse.urlencode(more)}"

    def exchange(self, form: dict[str, str], authorization: str) -> Claims:
        """A token answer, or an ``error``. A code is gone with the first try."""
        expected = base64.b64encode(f"{self.client_id}:{self.client_secret}".encode()).decode()
        begun = self._codes.pop(form.get("code", ""), None)
        if authorization != f"Basic {expected}":
            return {"error": "invalid_client"}
        if form.get("grant_type") != "authorization_code" or begun is None:
            return {"error": "invalid_grant", "error_description": "no such code"}
        if form.get("redirect_uri") != begun.redirect_uri:
            return {"error": "invalid_grant", "error_description": "another redirect address"}
        if _b64(hashlib.sha256(form.get("code_verifier", "").encode()).digest()) != begun.challenge:
            return {"error": "invalid_grant", "error_description": "PKCE"}
        access_token = secrets.token_urlsafe(16)
        now = int(time.time())
        claims = self.twist(
            {
                "iss": self.issuer,
                "sub": f"sub-{begun.person}",
                "aud": begun.client_id,
                "iat": now,
                "exp": now + 300,
                "nonce": begun.nonce,
                "at_hash": _b64(hashlib.sha256(access_token.encode()).digest()[:16]),
                **self.people[begun.person],
            }
        )
        answer = {"access_token": access_token, "token_type": "Bearer", "expires_in": 300}
        return {**answer, "id_token": self.id_token(claims)} if claims else answer

    def id_token(self, claims: Claims) -> str:
        header = {"alg": "RS256", "typ": "JWT", "kid": self.key_id, **self.header}
        signed = f"{_b64(json.dumps(header).encode())}.{_b64(json.dumps(claims).encode())}".encode()
        sign = self.sign or rs256
        return f"{signed.decode()}.{_b64(sign(self, header, signed))}"


def rs256(provider: OpenIdProvider, _header: dict[str, str], signed: bytes) -> bytes:
    """The right signature."""
    return provider.key.sign(signed, padding.PKCS1v15(), hashes.SHA256())


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        return fp


def _handler_of(provider: OpenIdProvider) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            provider.requests.append(self.path)
            parts = urllib.parse.urlsplit(self.path)
            match parts.path:
                case "/.well-known/openid-configuration":
                    self._json(200, provider.metadata())
                case "/jwks":
                    self._json(200, provider.jwks())
                case "/authorize":
                    self._ask(dict(urllib.parse.parse_qsl(parts.query)))
                case _:
                    self._json(404, {})

        def do_POST(self) -> None:
            provider.requests.append(self.path)
            parts = urllib.parse.urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
            form = dict(urllib.parse.parse_qsl(body))
            if parts.path == "/token":
                answer = provider.exchange(form, self.headers.get("Authorization", ""))
                self._json(400 if "error" in answer else 200, answer)
                return
            query = dict(urllib.parse.parse_qsl(parts.query))
            if why := provider.begin(query):
                self._refuse(why)
                return
            self.send_response(302)
            self.send_header("Location", provider.agree(query, form.get("person", "")))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _ask(self, query: dict[str, str]) -> None:
            if why := provider.begin(query):
                self._refuse(why)
                return
            page = (
                "<!doctype html><title>Sign in</title><form method=post>"
                "<label>Name <input name=person></label><button>Sign in</button></form>"
            )
            self._send(200, "text/html; charset=utf-8", page.encode())

        def _refuse(self, why: str) -> None:
            provider.refused.append(why)
            self._send(400, "text/html; charset=utf-8", html.escape(why).encode())

        def _json(self, status: int, document: Any) -> None:
            self._send(status, "application/json", json.dumps(document).encode())

        def _send(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    return Handler
