"""The profile that a device downloads, key by key, from the outside: as a property list."""

from __future__ import annotations

import hashlib
import plistlib
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrollment.core.payloads import (
    ALL_RIGHTS,
    Addresses,
    Identity,
    Management,
    RightsRefused,
    Texts,
    clean,
    encode,
    management_profile,
    trust_profile,
    verify_access_rights,
)
from enrollment.models import ALL_ACCESS_RIGHTS

PROFILE, SESSION = uuid.UUID(int=1), uuid.UUID(int=2)
ADDRESSES = Addresses(
    scep="https://mdm.example.com/scep/bramley/",
    server="https://mdm.example.com/mdm/connect",
    check_in="https://mdm.example.com/mdm/checkin",
)


def profile(
    *, chain: tuple[bytes, ...] = (b"ISSUER", b"ROOT"), session: uuid.UUID = SESSION, **changes: Any
) -> dict[str, Any]:
    made = management_profile(
        profile_uuid=PROFILE,
        session_uuid=session,
        texts=changes.get("texts", Texts("Acme devices", "Acme", "What we manage")),
        chain=chain,
        identity=changes.get(
            "identity", Identity("bramley", (("CN", "Bramley device 1"), ("O", "Acme")), "SECRET")
        ),
        addresses=ADDRESSES,
        management=changes.get("management", Management("com.apple.mgmt.External.1", 8191, True)),
        also_trusted=changes.get("also_trusted", ()),
        identity_part=changes.get("identity_part", "scep"),
    )
    value: dict[str, Any] = plistlib.loads(encode(made))
    return value


def payload(kind: str, **changes: Any) -> dict[str, Any]:
    (found,) = [part for part in profile(**changes)["PayloadContent"] if part["PayloadType"] == kind]
    part: dict[str, Any] = found
    return part


def test_the_top_level_is_a_configuration_of_the_system() -> None:
    top = profile()
    assert top["PayloadType"] == "Configuration"
    assert top["PayloadVersion"] == 1
    assert top["PayloadScope"] == "System"
    assert top["PayloadDisplayName"] == "Acme devices"
    assert top["PayloadOrganization"] == "Acme"
    assert [part["PayloadType"] for part in top["PayloadContent"]] == [
        "com.apple.security.root",
        "com.apple.security.pkcs1",
        "com.apple.security.scep",
        "com.apple.mdm",
    ]


def test_every_payload_has_its_own_uuid_and_identifier() -> None:
    top = profile()
    parts = [top, *top["PayloadContent"]]
    for key in ("PayloadUUID", "PayloadIdentifier"):
        assert len({part[key] for part in parts}) == len(parts)
    for part in parts:
        assert str(uuid.UUID(part["PayloadUUID"])).upper() == part["PayloadUUID"]
        assert part["PayloadIdentifier"].startswith(top["PayloadIdentifier"])


def test_a_later_download_replaces_an_earlier_one_and_shares_no_uuid() -> None:
    one, other = profile(), profile(session=uuid.UUID(int=3))
    assert one["PayloadIdentifier"] == other["PayloadIdentifier"]
    assert not {part["PayloadUUID"] for part in [one, *one["PayloadContent"]]} & {
        part["PayloadUUID"] for part in [other, *other["PayloadContent"]]
    }


def test_a_renewal_differs_in_the_identity_only() -> None:
    before, after = profile(), profile(identity_part="scep 2", identity=Identity("bramley", (), "OTHER"))
    old, new = (
        {part["PayloadIdentifier"]: part for part in [top, *top["PayloadContent"]]} for top in (before, after)
    )
    assert set(old) == set(new)
    scep, mdm = before["PayloadContent"][2], before["PayloadContent"][3]
    renewed, pointing = new[scep["PayloadIdentifier"]], new[mdm["PayloadIdentifier"]]
    assert renewed["PayloadUUID"] != scep["PayloadUUID"]
    assert renewed["PayloadContent"]["Challenge"] == "OTHER"
    assert pointing == {**mdm, "IdentityCertificateUUID": renewed["PayloadUUID"]}
    assert after["PayloadUUID"] == before["PayloadUUID"]
    assert after["PayloadContent"][:2] == before["PayloadContent"][:2]


def test_other_generations_go_along_each_once() -> None:
    top = profile(also_trusted=((b"ISSUER 1", b"ROOT 1"), (b"ISSUER 2", b"ROOT 1"), (b"ISSUER", b"ROOT")))
    kinds = [
        (part["PayloadType"].rpartition(".")[2], part.get("PayloadContent")) for part in top["PayloadContent"]
    ]
    assert kinds[:2] == [("root", b"ROOT"), ("pkcs1", b"ISSUER")]
    assert kinds[2] == ("root", b"ROOT 1")
    assert sorted(kinds[3:5]) == [("pkcs1", b"ISSUER 1"), ("pkcs1", b"ISSUER 2")]
    parts = [top, *top["PayloadContent"]]
    assert (
        len({part["PayloadUUID"] for part in parts})
        == len({part["PayloadIdentifier"] for part in parts})
        == 8
    )


def test_a_profile_of_trust_holds_certificates_and_nothing_else() -> None:
    made = trust_profile(
        identifier="org.bramley.ca.x",
        profile_uuid=PROFILE,
        texts=Texts("New root", "Acme", ""),
        chain=(b"ISSUER", b"ROOT"),
    )
    top = plistlib.loads(encode(made))
    assert top["PayloadIdentifier"] == "org.bramley.ca.x"
    assert [(part["PayloadType"], part["PayloadContent"]) for part in top["PayloadContent"]] == [
        ("com.apple.security.root", b"ROOT"),
        ("com.apple.security.pkcs1", b"ISSUER"),
    ]
    again = trust_profile(
        identifier="org.bramley.ca.x",
        profile_uuid=PROFILE,
        texts=Texts("New root", "Acme", ""),
        chain=(b"ISSUER", b"ROOT"),
    )
    assert again == made


def test_a_root_that_issues_is_the_only_certificate() -> None:
    assert payload("com.apple.security.root", chain=(b"ROOT",))["PayloadContent"] == b"ROOT"
    assert len(profile(chain=(b"ROOT",))["PayloadContent"]) == 3


def test_the_chain_is_told_apart() -> None:
    assert payload("com.apple.security.root")["PayloadContent"] == b"ROOT"
    assert payload("com.apple.security.pkcs1")["PayloadContent"] == b"ISSUER"


def test_scep_keys_are_inside_and_spelled_as_devices_want_them() -> None:
    assert payload("com.apple.security.scep")["PayloadContent"] == {
        "URL": "https://mdm.example.com/scep/bramley/",
        "Name": "bramley",
        "Subject": [[["CN", "Bramley device 1"]], [["O", "Acme"]]],
        "Challenge": "SECRET",
        "Keysize": 2048,
        "Key Type": "RSA",
        "Key Usage": 5,
        "CAFingerprint": hashlib.sha256(b"ISSUER").digest(),
        "Retries": 3,
        "RetryDelay": 10,
        "KeyIsExtractable": False,
        "AllowAllAppsAccess": False,
    }


def test_unusual_attributes_go_by_number() -> None:
    identity = Identity("x", (("serialNumber", "C01"), ("UID", "u")), "s")
    assert payload("com.apple.security.scep", identity=identity)["PayloadContent"]["Subject"] == [
        [["2.5.4.5", "C01"]],
        [["0.9.2342.19200300.100.1.1", "u"]],
    ]


def test_the_mdm_payload_uses_the_identity_of_the_scep_payload() -> None:
    mdm = payload("com.apple.mdm")
    assert mdm["IdentityCertificateUUID"] == payload("com.apple.security.scep")["PayloadUUID"]
    assert mdm["Topic"] == "com.apple.mgmt.External.1"
    assert mdm["ServerURL"] == "https://mdm.example.com/mdm/connect"
    assert mdm["CheckInURL"] == "https://mdm.example.com/mdm/checkin"
    assert mdm["SignMessage"] is True
    assert mdm["AccessRights"] == 8191
    assert mdm["CheckOutWhenRemoved"] is True
    assert mdm["ServerCapabilities"] == [
        "com.apple.mdm.per-user-connections",
        "com.apple.mdm.bootstraptoken",
    ]


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=200))
def test_what_an_administrator_writes_stays_text(name: str, organization: str, description: str) -> None:
    top = profile(texts=Texts(name, organization, description))
    assert top["PayloadDisplayName"] == clean(name)
    assert top.get("PayloadOrganization", "") == clean(organization)
    assert top.get("PayloadDescription", "") == clean(description)


def test_markup_in_a_name_is_not_markup() -> None:
    texts = Texts("</string><key>Topic</key><string>x", "{{7*7}} ${HOME}", "a\x00b\r\nc")
    top = profile(texts=texts)
    assert top["PayloadDisplayName"] == "</string><key>Topic</key><string>x"
    assert top["PayloadOrganization"] == "{{7*7}} ${HOME}"
    assert top["PayloadDescription"] == "ab\nc"


def test_all_rights_are_the_default_of_the_model() -> None:
    assert verify_access_rights(ALL_RIGHTS) == ALL_ACCESS_RIGHTS == 8191
    assert verify_access_rights(1 | 2 | 16) == 19


@pytest.mark.parametrize("rights", [0, -1, 8192, 2, 128, 2 | 128 | 64])
def test_rights_that_a_device_would_refuse(rights: int) -> None:
    with pytest.raises(RightsRefused):
        verify_access_rights(rights)
