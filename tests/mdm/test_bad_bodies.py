"""What is wrong with a body that a good certificate signed: threats D1 to D10. 400, and nothing changes."""

from __future__ import annotations

import plistlib
from typing import Any

import pytest
from django.db import OperationalError

from commands.core import plist
from devices.models import Device as DeviceRow
from mdm.connect import MAX_CONNECT
from mdm.core.checkin import MAX_CHECKIN
from tests.mdm.support import CANARY, assert_rejected
from tests.support.device_door import DeviceClient
from tests.support.devices import CHECKIN, CONNECT, Device, command_uuid
from tests.support.snapshot import no_change

HEAD = b'<?xml version="1.0" encoding="UTF-8"?>\n'
DOCTYPE = b'<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">\n'
UDID = b"00008030-0000000000000041"
IDLE = b"<key>Status</key><string>Idle</string><key>UDID</key><string>" + UDID + b"</string>"


def document(inside: bytes, *, head: bytes = HEAD, doctype: bytes = DOCTYPE) -> bytes:
    return head + doctype + b'<plist version="1.0"><dict>' + inside + b"</dict></plist>"


def nested(depth: int) -> bytes:
    return b"<key>x</key>" + b"<array>" * depth + b"</array>" * depth


def with_scalar(tag: str, text: str) -> bytes:
    return document(IDLE + f"<key>x</key><{tag}>{text}</{tag}>".encode())


BOMBS: dict[str, bytes] = {
    "billion laughs": document(
        IDLE + b"<key>x</key><string>&b;</string>",
        doctype=b'<!DOCTYPE plist [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>',
    ),
    "external entity": document(
        IDLE + b"<key>x</key><string>&e;</string>",
        doctype=b'<!DOCTYPE plist [<!ENTITY e SYSTEM "file:///etc/passwd">]>',
    ),
    "entity over the network": document(
        IDLE + b"<key>x</key><string>&e;</string>",
        doctype=b'<!DOCTYPE plist [<!ENTITY e SYSTEM "http://127.0.0.1:9/">]>',
    ),
    "parameter entity": document(
        IDLE, doctype=b'<!DOCTYPE plist [<!ENTITY % p SYSTEM "http://127.0.0.1:9/"> %p;]>'
    ),
    "foreign document type": document(IDLE, doctype=b'<!DOCTYPE html SYSTEM "http://127.0.0.1:9/x.dtd">'),
    "two document types": document(IDLE, doctype=DOCTYPE + DOCTYPE),
    "depth": document(IDLE + nested(40)),
    "great depth": document(IDLE + nested(40_000)),
    "integer of 64 bits and one": with_scalar("integer", str(2**63)),
    "integer below": with_scalar("integer", str(-(2**63) - 1)),
    "integer without end": with_scalar("integer", "0x" + "f" * 500_000),
    "infinite real": with_scalar("real", "1e400"),
    "no number": with_scalar("real", "nan"),
    "date before time": with_scalar("date", "0000-01-01T00:00:00Z"),
    "date after time": with_scalar("date", "9999-12-31T23:59:59Z"),
    "no date": with_scalar("date", "yesterday"),
    "no Base64": with_scalar("data", "%%%%"),
    "unknown element": with_scalar("uid", "1"),
    "UDID twice": document(IDLE + b"<key>UDID</key><string>B</string>"),
    "control character": with_scalar("string", "&#7;"),
    "NUL": document(IDLE + b"<key>x</key><string>\x00</string>"),
    "lone surrogate": with_scalar("string", "&#xD800;"),
    "top is an array": HEAD + DOCTYPE + b'<plist version="1.0"><array/></plist>',
    "top is a text": HEAD + DOCTYPE + b'<plist version="1.0"><string>x</string></plist>',
    "two tops": HEAD + DOCTYPE + b'<plist version="1.0"><dict/><dict/></plist>',
    "key without value": document(IDLE + b"<key>x</key>"),
    "cut off": document(IDLE)[:-10],
    "trailing": document(IDLE) + b"<x/>",
    "not XML": b"junk",
    "nothing": b"",
    "JSON": b'{"Status": "Idle"}',
    "binary": plistlib.dumps({"Status": "Idle", "UDID": UDID.decode()}, fmt=plistlib.FMT_BINARY),
    "UTF-16": document(IDLE, head=b'<?xml version="1.0" encoding="UTF-16"?>').decode().encode("utf-16"),
    "declares UTF-16": document(IDLE, head=b'<?xml version="1.0" encoding="UTF-16"?>'),
    "declares UTF-7": document(IDLE, head=b'<?xml version="1.0" encoding="UTF-7"?>'),
    "declares zlib": document(IDLE, head=b'<?xml version="1.0" encoding="zlib"?>'),
    "declares idna": document(IDLE, head=b'<?xml version="1.0" encoding="idna"?>'),
    "bad UTF-8": document(IDLE + b"<key>x</key><string>\xff\xfe</string>"),
}


@pytest.mark.parametrize("path", [CHECKIN, CONNECT])
@pytest.mark.parametrize("name", BOMBS)
def test_no_body_does_harm(enrolled_a: Device, name: str, path: str) -> None:
    assert_rejected(lambda: enrolled_a.send(path, BOMBS[name]), "bad property list")


def test_harmless_varieties_are_accepted(enrolled_a: Device) -> None:
    for body in (
        document(IDLE),
        document(IDLE, doctype=b""),
        b"\xef\xbb\xbf" + document(IDLE),
        document(IDLE + nested(31)),
        document(IDLE + b"<key>x</key><integer>9223372036854775807</integer>"),
    ):
        assert enrolled_a.connect(body).status == 200


CONFUSED: list[Any] = [7, True, 1.5, b"data", [], {}, "", "x" * 2000]


@pytest.mark.parametrize("value", CONFUSED, ids=str)
@pytest.mark.parametrize("key", ["UDID", "UserID", "EnrollmentID"])
def test_ids_of_another_type_are_refused(enrolled_a: Device, key: str, value: Any) -> None:
    assert_rejected(
        lambda: enrolled_a.check_in({**enrolled_a.token_update_message(), key: value}), "bad check-in message"
    )
    assert_rejected(
        lambda: enrolled_a.connect(enrolled_a.message(Status="Idle") | {key: value}), "bad report"
    )


@pytest.mark.parametrize("name", ["A" * 1_000_000, "A" * 1025])
def test_a_name_without_end_is_refused(a: Device, name: str) -> None:
    assert_rejected(lambda: a.check_in(a.authenticate_message(DeviceName=name)), "bad check-in message")


def test_a_name_is_kept_as_text(a: Device) -> None:
    name = "</string><script>alert(1)</script>{{7*7}}${HOME}\u202eEVIL\u200b"
    a.check_in(a.authenticate_message(DeviceName=name))
    assert DeviceRow.objects.get().name == name.replace("\u202e", "")


# D9: size


@pytest.mark.parametrize(("path", "limit"), [(CHECKIN, MAX_CHECKIN), (CONNECT, MAX_CONNECT)])
def test_what_is_too_large_is_refused_before_it_is_read(enrolled_a: Device, path: str, limit: int) -> None:
    client = DeviceClient()
    assert_rejected(
        lambda: client.request("PUT", path, b"x", {}, content_length=str(limit + 1)),
        "body too large",
        status=413,
    )
    assert_rejected(
        lambda: client.request("PUT", path, b"x", {}, content_length="9" * 40), "body too large", status=413
    )


def test_a_check_in_is_small_at_either_address(a: Device) -> None:
    body = plist.write(a.authenticate_message(Junk="x" * MAX_CHECKIN))
    assert_rejected(lambda: a.send(CHECKIN, body), "body too large", status=413)
    assert_rejected(lambda: a.send(CONNECT, body), "body too large", status=413)


@pytest.mark.parametrize("length", ["-1", "1e3", "٣", "x", " 5"])
def test_a_length_that_is_none_is_refused(enrolled_a: Device, length: str) -> None:
    assert_rejected(
        lambda: DeviceClient().request("PUT", CONNECT, b"x" * 10, {}, content_length=length),
        "bad Content-Length",
    )


def test_a_body_that_ends_early_is_refused(enrolled_a: Device) -> None:
    assert_rejected(
        lambda: DeviceClient().request("PUT", CONNECT, b"x" * 10, {}, content_length="20"), "body cut off"
    )


# D10: nothing of a body in logs


def test_a_refused_body_leaves_no_trace_of_itself(
    enrolled_a: Device, caplog: pytest.LogCaptureFixture
) -> None:
    malformed = document(
        b"<key>MessageType</key><string>SetBootstrapToken</string><key>UDID</key><string>"
        + UDID
        + b"</string><key>BootstrapToken</key><string>"
        + CANARY.encode()
        + b"</string>"
    )
    assert_rejected(lambda: enrolled_a.check_in(malformed), "bad check-in message")
    assert_rejected(lambda: enrolled_a.check_in(malformed[:-20]), "bad property list")
    assert CANARY not in caplog.text


@pytest.mark.parametrize("way", ["short", "long"])
def test_a_fault_is_a_503_or_500_never_a_401(
    enrolled_a: Device, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise OperationalError("database is gone")

    uuid = command_uuid(enrolled_a.idle())
    # In the middle of the long way: the report is recorded by then, and has to be taken back.
    monkeypatch.setattr(f"mdm.connect.{'queue.hand_out' if way == 'short' else 'outbox.connected'}", broken)
    with no_change():
        answer = enrolled_a.idle() if way == "short" else enrolled_a.answer(uuid, "NotNow")
    assert (answer.status, answer.body) == (503, b"")
    assert answer.headers["Retry-After"]
