"""The documentation page in a real browser, under the strict content policy."""

from __future__ import annotations

import pytest

from tests.api.test_access import DECLARED
from tests.console.screens import chromium, visitor

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(chromium() is None, reason="Chromium is not installed"),
]


def test_swagger_renders_every_operation(live_server: object) -> None:
    with visitor(str(live_server)) as guest:
        guest.open("/api/v1/docs/")
        guest.page.wait_for_selector(".opblock")
        guest.picture("api-docs")
        assert guest.page.locator(".opblock").count() == len(DECLARED)
        guest.page.locator(".opblock-summary-control", has_text="List devices").click()
        guest.page.wait_for_selector(".opblock-body")
        guest.picture("api-docs-open")
        assert guest.trouble == []
        assert guest.foreign == []
