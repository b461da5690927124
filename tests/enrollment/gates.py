"""Gates for tests: profiles that need a code or a login, and what a browser does there."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from django.test import Client
from django.utils import timezone

from audit.models import Refusal
from audit.recording import Actor
from enrollment import codes
from enrollment.models import Access, EnrollmentCode, EnrollmentProfile

ADMINISTRATOR = Actor("ada")
BUTTON = re.compile(r'class="button" href="([^"]+)" download')


def gated(profile: EnrollmentProfile, access: Access, **more: Any) -> EnrollmentProfile:
    """The profile with this gate."""
    profile.access = access
    for name, value in more.items():
        setattr(profile, name, value)
    profile.save()
    return profile


def minted(profile: EnrollmentProfile, **options: Any) -> tuple[EnrollmentCode, str]:
    """One code, and what a person types."""
    options = {"max_uses": 1, "expires_at": timezone.now() + timedelta(days=1), **options}
    ((code, value),) = codes.mint(
        profile, count=1, label="a class", actor=ADMINISTRATOR, now=timezone.now(), **options
    )
    return code, value


def button(client: Client, slug: str = "default") -> str:
    """Where the download button of the page leads; empty where there is none."""
    found = BUTTON.search(client.get(f"/enroll/{slug}/").content.decode())
    return found.group(1).replace("&amp;", "&") if found else ""


def reasons(surface: str = "enroll") -> list[str]:
    """Why something was refused, the newest first."""
    return list(Refusal.objects.filter(surface=surface).order_by("-pk").values_list("reason", flat=True))


def details() -> str:
    """All details of refusals."""
    return " ".join(Refusal.objects.values_list("detail", flat=True))
