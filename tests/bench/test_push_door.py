"""The stand-in for APNs that is measured with takes pushes over HTTP/2, from who has a client certificate."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from bench.generators import go_program
from bench.push_door import GoDoor
from push.client import ApnsClient
from push.core.notification import Answer, Notification

pytestmark = [pytest.mark.once, pytest.mark.skipif(go_program() is None, reason="Go is not installed")]

TOPIC = "com.apple.mgmt.External.bench"


def push(door: GoDoor, certificate: bytes, key: bytes, count: int) -> list[Answer]:
    pushes = [
        Notification(bytes([number] * 32), "magic", TOPIC, uuid.uuid4(), expires_at=0)
        for number in range(count)
    ]

    async def send() -> list[Answer]:
        async with ApnsClient(certificate, key, door.url, door.ca_file) as client:
            return [result.answer for result in await client.send(pushes)]

    return asyncio.run(send())


def test_pushes_are_accepted_and_counted_and_strangers_are_not() -> None:
    with GoDoor(go_program() or "") as door, GoDoor(go_program() or "") as other:
        assert door.count == 0
        answers = push(door, *door.authority.push_certificate(TOPIC), 20)
        assert [answer.status for answer in answers] == [200] * 20
        assert door.count == 20
        stranger = push(door, *other.authority.push_certificate(TOPIC), 1)
        assert stranger[0].failure is not None
        assert door.count == 20
