"""What the pages about the CA name as their proof is there, and the commands that they show are taken."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from django.core.management import load_command_class

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
