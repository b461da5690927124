"""What a person does before a device can enrol: open the page, type a code or sign in, take the address.

The page is read as a browser does it: whatever form it shows is filled in and sent, with its cookies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlencode, urljoin, urlsplit, urlunsplit

from simulator.exchange import Conversation, Request, Response, SimulationError, expect_ok

STEP = "the enrolment page"
BROWSER = "Mozilla/5.0 Safari/605.1.15"
MAX_STEPS = 5


@dataclass(frozen=True)
class Gate:
    """What the person knows: a code, or name and password of an account of the server."""

    code: str = field(default="", repr=False)
    name: str = ""
    password: str = field(default="", repr=False)

    def answers(self) -> dict[str, str]:
        """The fields of a form that this person can fill in."""
        known = {"code": self.code, "username": self.name, "password": self.password}
        return {name: value for name, value in known.items() if value}


def pass_gate(address: str, gate: Gate) -> Conversation[str]:
    """``address`` (of the download, or over the air) with the ticket that the page gives for it.

    Raises :class:`SimulationError` where the page asks for what this person does not know, or refuses it.
    """
    browser = _Browser()
    parts = urlsplit(address)
    page = urlunsplit((parts.scheme, parts.netloc, parts.path.rpartition("/")[0] + "/", "", ""))
    shown = yield from browser.open(Request("GET", page))
    if not shown.download:
        shown = yield from browser.open(browser.fill_in(page, shown, gate))
    if not shown.download:
        raise SimulationError(STEP, shown.trouble or "it offers no profile")
    query = urlsplit(urljoin(page, shown.download)).query
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))


class _Browser:
    """Cookies of one origin, and where it is sent on to."""

    def __init__(self) -> None:
        self.cookies: dict[str, str] = {}

    def open(self, request: Request) -> Conversation[_Page]:
        """The page at the end of all redirects."""
        for _step in range(MAX_STEPS):
            response = yield self._with_cookies(request)
            self._keep_cookies(response)
            if response.status not in (302, 303):
                return _read(response)
            where = urljoin(request.url, response.headers.get("location", ""))
            if _origin(where) != _origin(request.url):
                raise SimulationError(STEP, "it leads to another server, where a simulator cannot sign in")
            request = Request("GET", where)
        raise SimulationError(STEP, "it leads round in circles")

    def fill_in(self, page: str, shown: _Page, gate: Gate) -> Request:
        """The form of the page that asks for what this person knows, filled in."""
        answers = gate.answers()
        for form in shown.forms:
            asked = {name for name, kind in form.kinds.items() if kind != "hidden"}
            if asked and asked <= answers.keys():
                values = {**form.values, **{name: answers[name] for name in asked}}
                origin = {"Origin": _origin(page), "Referer": page}
                kind = {"Content-Type": "application/x-www-form-urlencoded"}
                body = urlencode(values).encode()
                return Request("POST", urljoin(page, form.action), body, {**kind, **origin})
        wanted = sorted(
            {name for form in shown.forms for name, kind in form.kinds.items() if kind != "hidden"}
        )
        raise SimulationError(STEP, f"it asks for {' and '.join(wanted) or 'nothing that can be typed'}")

    def _with_cookies(self, request: Request) -> Request:
        headers = {"User-Agent": BROWSER, **request.headers}
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        return Request(request.method, request.url, request.body, headers)

    def _keep_cookies(self, response: Response) -> None:
        for line in response.cookies:
            try:
                self.cookies |= {name: morsel.coded_value for name, morsel in SimpleCookie(line).items()}
            except CookieError as problem:
                raise SimulationError(STEP, f"a cookie is malformed: {problem}") from problem


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


@dataclass
class _Form:
    action: str
    kinds: dict[str, str] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)


class _Page(HTMLParser):
    """The forms of a page, its download, and what it complains of."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[_Form] = []
        self.download = ""
        self.trouble = ""
        self._inside: _Form | None = None
        self._complains = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._inside = _Form(values.get("action", ""))
            self.forms.append(self._inside)
        elif tag == "input" and self._inside is not None and values.get("name"):
            self._inside.kinds[values["name"]] = values.get("type", "text")
            self._inside.values[values["name"]] = values.get("value", "")
        elif tag == "a" and "download" in values:
            self.download = values.get("href", "")
        self._complains = "trouble" in values.get("class", "").split()

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._inside = None
        self._complains = False

    def handle_data(self, data: str) -> None:
        if self._complains:
            self.trouble += data.strip()


def _read(response: Response) -> _Page:
    page = _Page()
    page.feed(response.body.decode("utf-8", "replace"))
    if response.status != 403 or not page.trouble:  # a 403 says on the page what was wrong
        expect_ok(STEP, response)
    page.forms = [form for form in page.forms if _asks(form.kinds)]
    return page


def _asks(kinds: Mapping[str, str]) -> bool:
    return any(kind != "hidden" for kind in kinds.values())
