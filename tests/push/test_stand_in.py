"""The stand-in for APNs as a process of its own, as the tests that kill things use it."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
import uuid
from pathlib import Path

from push.client import ApnsClient
from push.core.notification import Notification
from tests.support.apns import violation_of

ROOT = Path(__file__).resolve().parents[2]
TOPIC = "com.apple.mgmt.External.kill"


def test_it_runs_records_and_takes_orders(tmp_path: Path) -> None:
    record = tmp_path / "pushes.jsonl"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.support.apns", "--directory", str(tmp_path / "apns")),
            *("--topic", TOPIC, "--record", str(record)),
        ],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        ready = json.loads(process.stdout.readline())
        token = secrets.token_bytes(32)
        notification = Notification(token, "MAGIC", TOPIC, uuid.uuid4(), 0)

        def send(certificate: str) -> str:
            pem = Path(certificate).read_bytes()

            async def whole() -> str:
                async with ApnsClient(pem, pem, ready["url"], ready["ca"]) as client:
                    return str((await client.send([notification]))[0].answer)

            return asyncio.run(whole())

        assert send(ready["push"]) == "200"
        assert "unknown ca" in send(ready["wrong"])
        for order, answer in (
            ('{"status": 410, "reason": "Unregistered", "timestamp": 1}', "410 Unregistered"),
            ('{"status": 503}', "503"),
            ('{"do": "reset"}', "stream reset: INTERNAL_ERROR"),
            ("{}", "200"),
        ):
            process.stdin.write(order + "\n")
            process.stdin.flush()
            assert "now" in process.stdout.readline()
            assert send(ready["push"]) == answer
        lines = [json.loads(line) for line in record.read_text().splitlines()]
        assert len(lines) == 5
        assert {line["token"] for line in lines} == {token.hex()}
        assert json.loads(lines[0]["body"]) == {"mdm": "MAGIC"}
    finally:
        process.stdin.close()
        assert process.wait(10) == 0


def test_its_rules() -> None:
    good = {
        ":method": "POST",
        ":path": "/3/device/00ff",
        "apns-topic": TOPIC,
        "apns-push-type": "mdm",
        "apns-priority": "10",
        "apns-expiration": "1",
        "apns-id": str(uuid.uuid4()),
    }
    body = b'{"mdm":"MAGIC"}'
    assert violation_of(good, body, TOPIC) == ""
    assert violation_of(good, body, TOPIC, {b"\x00\xff"}) == ""
    assert violation_of(good, body, TOPIC, {b"\x00"}) == "BadDeviceToken"
    assert violation_of(good, body, "com.apple.mgmt.other") == "BadCertificate"
    for change, reason in (
        ({":method": "GET"}, "MethodNotAllowed"),
        ({":path": "/3/device/"}, "BadPath"),
        ({":path": "/3/device/xyz"}, "BadPath"),
        ({"apns-push-type": "alert"}, "InvalidPushType"),
        ({"apns-priority": "7"}, "BadPriority"),
        ({"apns-expiration": "soon"}, "BadExpirationDate"),
        ({"apns-id": "1"}, "BadMessageId"),
    ):
        assert violation_of({**good, **change}, body, TOPIC) == reason
    for bad, reason in (
        (b'{"mdm":"MAGIC","aps":{}}', "BadPayload"),
        (b'{"mdm":7}', "BadPayload"),
        (b"[]", "BadPayload"),
        (b'{"mdm":"' + b"x" * 4096 + b'"}', "PayloadTooLarge"),
    ):
        assert violation_of(good, bad, TOPIC) == reason
