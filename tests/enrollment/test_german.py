"""The enrolment pages and what devices show, in German; the console stays English."""

from __future__ import annotations

import ast
import gettext
import plistlib
import re
from pathlib import Path

import pytest
from django.conf import settings
from django.core.cache import cache
from django.test import Client
from django.utils import timezone, translation

from enrollment import direct, what_is_managed
from enrollment.models import Access, EnrollmentProfile
from enrollment.texts import TEXTS
from tests.enrollment.gates import gated
from tests.support.device_door import DeviceClient

pytestmark = pytest.mark.django_db
ROOT = Path(settings.BASE_DIR)
PO = ROOT / "locale/de/LC_MESSAGES/django.po"
GERMAN = {"Accept-Language": "de-AT,de;q=0.9,en;q=0.5"}
ENTRY = re.compile(r'^msgid "(.+)"\n(?:msgid_plural "(.+)"\n)?msgstr(?:\[0\])? "(.*)"$', re.MULTILINE)


@pytest.fixture(autouse=True)
def empty_cache() -> None:
    cache.clear()


@pytest.fixture
def catalogue() -> gettext.GNUTranslations:
    with PO.with_suffix(".mo").open("rb") as file:
        return gettext.GNUTranslations(file)


def test_what_is_compiled_is_what_is_written(catalogue: gettext.GNUTranslations) -> None:
    entries = [
        (one.replace('\\"', '"'), many, said.replace('\\"', '"'))
        for one, many, said in ENTRY.findall(PO.read_text())
    ]
    assert len(entries) > 60
    for one, many, said in entries:
        assert said
        assert (catalogue.ngettext(one, many, 1) if many else catalogue.gettext(one)) == said
        assert sorted(re.findall(r"%\(\w+\)s", one)) == sorted(re.findall(r"%\(\w+\)s", said))


def in_templates() -> set[str]:
    """What the templates of pages for people say, as gettext knows it."""
    found: set[str] = set()
    for template in [*(ROOT / "templates/enrollment").glob("*.html"), ROOT / "templates/unavailable.html"]:
        text = template.read_text()
        marked = re.findall(r"{% (?:translate|blocktranslate)\b", text)
        simple = re.findall(r"{% translate (['\"])(.*?)\1 %}", text)
        blocks = re.findall(
            r"{% blocktranslate[^%]*%}(.*?)(?:{% plural %}(.*?))?{% endblocktranslate %}", text, re.DOTALL
        )
        assert len(simple) + len(blocks) == len(marked), f"{template.name}: a text that this does not read"
        found |= {said for _quote, said in simple}
        found |= {re.sub(r"{{ (\w+) }}", r"%(\1)s", said) for both in blocks for said in both if said}
    return found


def behind_the_pages() -> set[Path]:
    """The modules that the views for people and devices import, directly or not; without the models."""
    found: set[Path] = set()
    waiting = [ROOT / f"enrollment/{name}.py" for name in ("urls", "device_urls")]
    while waiting:
        module = waiting.pop()
        if module in found or module.name == "models.py" or not module.exists():
            continue
        found.add(module)
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "enrollment":
                inside = (
                    [node.module] if "." in str(node.module) else [f"enrollment.{x.name}" for x in node.names]
                )
                waiting += [ROOT / f"{str(name).replace('.', '/')}.py" for name in inside]
    return found


def in_modules() -> set[str]:
    """What those modules say. The admin is in English."""
    names = {"_", "gettext", "gettext_lazy", "gettext_noop", "ngettext", "ngettext_lazy"}
    found: set[str] = set()
    for module in behind_the_pages():
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
                words = [one.value for one in node.args if isinstance(one, ast.Constant)]
                assert words or module.name == "texts.py", f"{module}:{node.lineno}: a text that is not read"
                found |= {word for word in words if isinstance(word, str)}
    return found


def test_every_text_of_the_pages_is_translated() -> None:
    with translation.override("en"):
        managed = {str(said) for _bits, said in what_is_managed.SEES + what_is_managed.DOES}
    wanted = in_templates() | in_modules() | set(TEXTS) | managed
    assert len(wanted) > 60
    entries = ENTRY.findall(PO.read_text())
    known = {text.replace('\\"', '"') for one, many, _said in entries for text in (one, many) if text}
    assert sorted(wanted - known) == []
    assert sorted(known - wanted) == [], "nobody says this any more"


@pytest.mark.parametrize("access", list(Access))
def test_the_page_speaks_german(client: Client, profile: EnrollmentProfile, access: Access) -> None:
    gated(profile, access)
    text = client.get("/enroll/default/", headers=GERMAN).content.decode()
    assert '<html lang="de">' in text
    assert "<h1>Geräteverwaltung</h1>" in text
    assert "Was Ihre Organisation sehen kann" in text
    assert {
        Access.OPEN: "Profil laden",
        Access.CODE: "Ihr Code",
        Access.LOGIN: "Wer sind Sie?",
    }[access] in text
    assert "Was Ihre Organisation" not in client.get("/enroll/default/").content.decode()


def test_other_languages_get_english(client: Client, profile: EnrollmentProfile) -> None:
    text = client.get("/enroll/default/", headers={"Accept-Language": "fr,it;q=0.8"}).content.decode()
    assert '<html lang="en">' in text
    assert "Download the profile" in text


def test_what_an_administrator_wrote_stays(client: Client, profile: EnrollmentProfile) -> None:
    profile.name, profile.description = "Tills", "Password"
    profile.save()
    text = client.get("/enroll/default/", headers=GERMAN).content.decode()
    assert "<h1>Tills</h1>" in text
    assert "<p>Password</p>" in text


def test_devices_show_the_profile_in_german(profile: EnrollmentProfile) -> None:
    with translation.override("de"):
        offered = direct.offer(profile, remote_addr="", user_agent="", now=timezone.now(), signed=False)
    content = plistlib.loads(offered.mobileconfig)
    assert content["PayloadDisplayName"] == "Geräteverwaltung"
    names = {part["PayloadType"]: part["PayloadDisplayName"] for part in content["PayloadContent"]}
    assert names["com.apple.security.scep"] == "Geräteidentität"
    assert names["com.apple.mdm"] == "Geräteverwaltung"


def test_over_the_air_the_device_says_its_language(profile: EnrollmentProfile) -> None:
    door = DeviceClient()
    assert "Geräteverwaltung".encode() in door.get("/enroll/default/ota", GERMAN).body
    assert "Geräteverwaltung".encode() not in door.get("/enroll/default/ota").body


def test_the_console_stays_english(client: Client, admin_client: Client) -> None:
    text = admin_client.get("/admin/enrollment/enrollmentprofile/add/", headers=GERMAN).content.decode()
    assert '<html lang="en"' in text
    assert "Sichern" not in text
