"""What a profile says of the server's TLS: exactly the roots that are needed, and pinned where wanted."""

from __future__ import annotations

import hashlib
import plistlib
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from audit.recording import SERVER
from enrollment import offering
from enrollment.direct import NotOffered, offer
from enrollment.models import EnrollmentProfile, EnrollmentSession
from pki import issuers, profile_signers, server_tls
from pki.core.certificates import encode_pem
from pki.core.cms import verify_signed_data
from pki.models import Issuer
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db


def content(profile: EnrollmentProfile) -> list[dict[str, Any]]:
    made = offer(profile, remote_addr="", user_agent="", now=timezone.now(), signed=False)
    payloads: list[dict[str, Any]] = plistlib.loads(made.mobileconfig)["PayloadContent"]
    return payloads


def roots(payloads: list[dict[str, Any]]) -> dict[bytes, str]:
    """The UUIDs of the trust anchors, by certificate."""
    return {
        part["PayloadContent"]: part["PayloadUUID"]
        for part in payloads
        if part["PayloadType"] == "com.apple.security.root"
    }


def mdm(payloads: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = [part for part in payloads if part["PayloadType"] == "com.apple.mdm"]
    return found


def new_root(slug: str) -> bytes:
    return issuers.chain(issuers.create_issuer(slug, slug, algorithm="EC-P256", actor=SERVER))[-1]


def test_without_a_private_root_there_is_only_the_issuers(profile: EnrollmentProfile) -> None:
    assert list(roots(content(profile))) == [issuers.chain(profile.issuer)[-1]]


def test_the_root_of_our_own_tls_goes_along_once(profile: EnrollmentProfile, settings: Any) -> None:
    settings.BRAMLEY_TLS = True
    assert list(roots(content(profile))) == [issuers.chain(profile.issuer)[-1]]
    other = new_root("other")
    profile.issuer = Issuer.objects.get(slug="other")
    profile.save()
    assert set(roots(content(profile))) == {other, server_tls.anchor()}


def test_a_root_that_was_added_goes_along_as_an_anchor(profile: EnrollmentProfile) -> None:
    root = new_root("proxy")
    server_tls.add_anchor(encode_pem(root).encode(), actor=SERVER, now=timezone.now())
    payloads = content(profile)
    assert set(roots(payloads)) == {issuers.chain(profile.issuer)[-1], root}
    kinds = [part["PayloadType"] for part in payloads]
    assert kinds[-2:] == ["com.apple.security.scep", "com.apple.mdm"]
    assert len({part["PayloadUUID"] for part in payloads}) == len(payloads)
    assert len({part["PayloadIdentifier"] for part in payloads}) == len(payloads)


def test_nothing_is_pinned_unless_wanted(profile: EnrollmentProfile, settings: Any) -> None:
    settings.BRAMLEY_TLS = True
    assert not [key for key in mdm(content(profile)) if "Pinning" in key]


def test_pinning_names_the_payloads_of_the_roots_for_tls(profile: EnrollmentProfile) -> None:
    root = new_root("proxy")
    server_tls.add_anchor(encode_pem(root).encode(), actor=SERVER, now=timezone.now())
    profile.pin_tls = True
    profile.save()
    payloads = content(profile)
    expected = [roots(payloads)[root]]
    assert mdm(payloads)["ServerURLPinningCertificateUUIDs"] == expected
    assert mdm(payloads)["CheckInURLPinningCertificateUUIDs"] == expected
    assert "PinningRevocationCheckRequired" not in mdm(payloads)


def test_proof_of_revocation_is_asked_for_where_wanted_and_pinned(
    profile: EnrollmentProfile, settings: Any
) -> None:
    settings.BRAMLEY_TLS = True
    profile.pin_unrevoked = True
    profile.save()
    assert "PinningRevocationCheckRequired" not in mdm(content(profile))
    profile.pin_tls = True
    profile.save()
    assert mdm(content(profile))["PinningRevocationCheckRequired"] is True


def test_pinning_without_a_root_offers_nothing(profile: EnrollmentProfile) -> None:
    profile.pin_tls = True
    profile.save()
    with no_change(), pytest.raises(NotOffered, match="root is not known"):
        content(profile)


def test_an_update_pins_as_the_profile_says_today(profile: EnrollmentProfile) -> None:
    content(profile)
    session = EnrollmentSession.objects.get()
    assert offering.management_told(session, topic="t", tls_roots=[b"root"]).pinned == ()
    session.profile.pin_tls = True
    assert offering.management_told(session, topic="t", tls_roots=[b"root"]).pinned == (b"root",)


def test_a_file_with_roots_that_is_not_there_is_said_and_nothing_offered(
    profile: EnrollmentProfile, settings: Any, tmp_path: Path
) -> None:
    root = new_root("file")
    file = tmp_path / "roots.pem"
    settings.BRAMLEY_TLS_CA_FILE = str(file)
    with no_change(), pytest.raises(NotOffered, match="BRAMLEY_TLS_CA_FILE cannot be read"):
        content(profile)
    file.write_text(encode_pem(root))
    assert root in roots(content(profile))
    file.write_text("no certificate")
    with no_change(), pytest.raises(NotOffered, match="BRAMLEY_TLS_CA_FILE cannot be read"):
        content(profile)


def test_who_signed_is_kept_with_the_attempt(client: Client, profile: EnrollmentProfile) -> None:
    now = timezone.now()
    first = offer(profile, remote_addr="", user_agent="", now=now)
    other = issuers.create_issuer("other", "Other", algorithm="EC-P256", actor=SERVER)
    profile_signers.use_issuer(other, actor=SERVER, now=now)
    second = offer(profile, remote_addr="", user_agent="", now=now)
    for made in (first, second):
        kept = EnrollmentSession.objects.get(pk=made.session.pk).told
        signer = verify_signed_data(made.mobileconfig).signer
        assert kept is not None
        assert kept["signer"] == hashlib.sha256(signer).hexdigest()
    assert first.session.told != second.session.told
    client.force_login(User.objects.create_superuser("ada"))
    page = client.get(f"/admin/enrollment/enrollmentsession/{second.session.pk}/change/").content.decode()
    assert "Profile signed by" in page
    assert "Other Profile Signing" in page
