"""Reports of devices: shapes that are taken and shapes that are refused."""

from __future__ import annotations

import contextlib
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.core import plist
from commands.core.report import Report, ReportError, Status, decode_report
from tests.commands import vectors
from tests.commands.properties import CALM

UUID_TEXT = "93a81e2a-8fbe-4e4b-b6e5-ee9148893f33"


def test_every_answer_of_a_real_device_is_decoded() -> None:
    vectors.folder()
    seen = set()
    for path in vectors.messages():
        message = plist.read(path.read_bytes(), max_size=1024 * 1024)
        if "MessageType" in message:
            continue
        report = decode_report(message)
        assert report.command_uuid_text, path
        seen.add(report.status)
    assert seen == {Status.ACKNOWLEDGED, Status.ERROR, Status.COMMAND_FORMAT_ERROR, Status.NOT_NOW}


def test_an_error_chain_of_a_real_device() -> None:
    path = vectors.folder() / "Errors" / "iOS-11.3.1-AvailableOSUpdatesFailure.xml"
    report = decode_report(plist.read(path.read_bytes(), max_size=10_000))
    assert [(error.code, error.domain) for error in report.error_chain] == [
        (2213, "DeviceManagement.error"),
        (3, "com.apple.softwareupdateservices.errors"),
    ]
    assert report.error_chain[0].as_dict()["message"] == "No update available."


def test_idle() -> None:
    report = decode_report({"Status": "Idle", "UDID": "A", "NotOnConsole": True})
    assert report.status is Status.IDLE
    assert report.command_uuid is None
    assert report.not_on_console
    assert "UDID" not in repr(report)


def answer(**changes: Any) -> dict[str, Any]:
    message = {"Status": "Acknowledged", "CommandUUID": UUID_TEXT, "UDID": "A", **changes}
    return {key: value for key, value in message.items() if value is not ...}


def test_an_answer() -> None:
    report = decode_report(answer(RequestType="DeviceLock"))
    assert report.command_uuid == UUID(UUID_TEXT)
    assert report.request_type == "DeviceLock"
    assert decode_report(answer(CommandUUID=UUID_TEXT.upper())).command_uuid == UUID(UUID_TEXT)


@pytest.mark.parametrize(
    "text", ["0001_DeviceInformation", "x" * 64, "{" + UUID_TEXT + "}", UUID_TEXT.replace("-", "")]
)
def test_an_identifier_that_is_none_of_ours_is_kept_as_text(text: str) -> None:
    report = decode_report(answer(CommandUUID=text))
    assert report.command_uuid is None
    assert report.command_uuid_text == text


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"Status": 1},
        {"Status": ["Idle"]},
        {"Status": "idle"},
        {"Status": "Done"},
        answer(CommandUUID=...),
        answer(CommandUUID=""),
        answer(CommandUUID=5),
        answer(CommandUUID=b"x"),
        answer(CommandUUID="x" * 65),
        answer(NotOnConsole="yes"),
        answer(RequestType=1),
        answer(RequestType="x" * 1025),
        answer(ErrorChain={}),
        answer(ErrorChain="no"),
        answer(ErrorChain=["no"]),
        answer(ErrorChain=[{"ErrorCode": "1"}]),
        answer(ErrorChain=[{"ErrorCode": True}]),
        answer(ErrorChain=[{"ErrorDomain": 1}]),
        answer(ErrorChain=[{"LocalizedDescription": b"x"}]),
        answer(ErrorChain=[{"USEnglishDescription": []}]),
    ],
)
def test_wrong_types_are_refused(message: dict[str, Any]) -> None:
    with pytest.raises(ReportError):
        decode_report(message)


def test_an_error_chain_is_bounded() -> None:
    link = {"ErrorCode": 1, "ErrorDomain": "d" * 5000, "LocalizedDescription": "m" * 5000}
    report = decode_report(answer(Status="Error", ErrorChain=[link] * 1000))
    assert len(report.error_chain) == 16
    assert len(report.error_chain[0].domain) == len(report.error_chain[0].message) == 1024
    assert decode_report(answer(Status="Error", ErrorChain=[{}])).error_chain[0].code is None


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=80) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
KEYS = ["Status", "CommandUUID", "ErrorChain", "NotOnConsole", "RequestType", "other"]
NEARLY = st.fixed_dictionaries(
    {"Status": st.sampled_from(list(Status)).map(str) | ANY},
    optional={
        "CommandUUID": st.uuids().map(str) | ANY,
        "ErrorChain": st.lists(
            st.dictionaries(st.sampled_from(["ErrorCode", "ErrorDomain", "LocalizedDescription"]), ANY)
        ),
        "NotOnConsole": ANY,
    },
)


@CALM
@given(st.dictionaries(st.sampled_from(KEYS), ANY) | NEARLY)
def test_any_message_is_decoded_or_refused(message: dict[str, Any]) -> None:
    with contextlib.suppress(ReportError):
        assert isinstance(decode_report(message), Report)
