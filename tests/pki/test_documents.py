"""What the pages about the CA name as their proof is there, and the commands that they show are taken."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from django.core.management import call_command, load_command_class

from pki import issuers
from pki.models import Issuer, IssuerState
from tests.pki.conftest import openssl

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("certificate-authority.md", "keys-and-secrets.md", "revocation.md")
_NAMED = re.compile(r"`(tests/[\w/]+\.py)`|`(test_\w+)`")
_COMMANDS = {
    "issuer": "pki",
    "certificate": "pki",
    "trust_issuer": "pki",
    "certificate_profile": "pki",
    "rotate_encryption_key": "mdm_project",
}


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_is_named_exists(page: str) -> None:
    """A name belongs to the file before it."""
    file, checked = "", 0
    for path, name in _NAMED.findall((ROOT / "docs" / page).read_text()):
        if path:
            file = (ROOT / path).read_text()
        else:
            assert f"def {name}(" in file, name
        checked += 1
    assert checked > 5


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_is_shown_is_taken(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    shown = re.findall(r"manage\.py (\w+)([^`#\n]*)", text)
    for name, arguments in shown:
        words = shlex.split(arguments)
        command = load_command_class(_COMMANDS[name], name)
        command.create_parser("manage.py", name).parse_args(words)
    assert shown or page == "revocation.md"


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)", (ROOT / "docs" / page).read_text()):
        assert (ROOT / "docs" / target).exists(), target


@pytest.mark.django_db
def test_below_your_organisations_root_step_by_step(tmp_path: Path) -> None:
    """The commands of the page, one after the other, with a root that openssl keeps."""
    text = (ROOT / "docs" / "certificate-authority.md").read_text()
    create, csr = (re.findall(rf"`manage\.py (issuer {name}[^`]+)`", text)[-1] for name in ("create", "csr"))
    taken = re.findall(r"`manage\.py (issuer import[^`]+)`", text)[-1]
    signing = re.findall(r"`openssl (x509 -req[^`]+)`", text)[0]

    def here(command: str) -> list[str]:
        return [
            str(tmp_path / word) if re.search(r"\.(csr|crt|key)$", word) else word
            for word in shlex.split(command)
        ]

    root = ("-keyout", tmp_path / "root.key", "-out", tmp_path / "root.crt")
    openssl(
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=Organisation", "-days", "3650", *root
    )
    for command in (create, csr):
        call_command(*here(command))
    openssl(*here(signing))
    call_command(*here(taken))
    issuer = Issuer.objects.get(slug="acme")
    assert issuer.state == IssuerState.ACTIVE
    assert len(issuers.chain(issuer)) == 2
    openssl("verify", "-CAfile", tmp_path / "root.crt", tmp_path / "acme.crt")
