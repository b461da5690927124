"""SCEP services: their addresses, their rules, and that what is turned off is refused."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction
from django.db.migrations.executor import MigrationExecutor
from hypothesis import given
from hypothesis import strategies as st

from audit.models import AuditEvent
from audit.recording import SERVER, Actor
from pki import issuers
from pki.core import cms
from pki.models import Issuer
from scep import services
from scep.core import attributes, capabilities
from scep.core.attributes import FailInfo, MessageType
from scep.models import ApprovalChoice, Mode, ScepService, Transaction
from tests.scep.asking import ask, enrol, holder, issued, refused
from tests.scep.conftest import Mint
from tests.scep.support import NOW, Door, Sent, csr, nothing_issued, pkcs_req, rsa_key, signer

pytestmark = pytest.mark.django_db


# --- addresses -------------------------------------------------------------------------------------------


def test_an_issuer_has_a_service_of_its_name_without_anybody_making_it(
    door: Door, issuer: Issuer, ca_certificate: bytes
) -> None:
    assert not ScepService.objects.exists()
    assert Door("/scep/bramley/").get("operation=GetCACert").content == ca_certificate
    service = ScepService.objects.get()
    assert (service.slug, service.issuer, service.enabled) == ("bramley", issuer, True)
    assert (service.challenge_mode, service.approval) == (Mode.BOUND, ApprovalChoice.NEVER)
    assert door.get("operation=GetCACert").content == ca_certificate
    assert ScepService.objects.count() == 1


def test_several_services_stand_before_one_issuer(mint: Mint, issuer: Issuer, ca_certificate: bytes) -> None:
    ScepService.objects.create(slug="routers", issuer=issuer)
    enrol(Door("/scep/routers/"), ca_certificate, mint()[1])
    assert Transaction.objects.get().service.slug == "routers"


@pytest.mark.parametrize("path", ["/scep/bramley/", "/scep/", "/scep"])
def test_a_service_that_is_turned_off_is_not_found(
    path: str, mint: Mint, ca_certificate: bytes, service: ScepService
) -> None:
    sent = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=ca_certificate)
    service.enabled = False
    service.save()
    with nothing_issued():
        assert Door(path).post(sent.body).status_code == 404
        assert Door(path).get("operation=GetCACert").status_code == 404
        assert Door(path).get("operation=GetCACaps").status_code == 404


def test_every_issuer_gets_its_service(issuer: Issuer) -> None:
    other = issuers.create_issuer("other", "Other CA", algorithm="RSA-2048", actor=SERVER, now=NOW)
    Issuer.objects.create(slug="trusted", name="Trusted", kind="TRUST_ONLY", trusted_for=[])
    services.ensure()
    services.ensure()
    assert list(ScepService.objects.values_list("slug", "issuer")) == [
        ("bramley", issuer.pk),
        ("other", other.pk),
    ]


@pytest.mark.django_db(transaction=True)
def test_the_migration_keeps_addresses_and_history(issuer: Issuer) -> None:
    """A database of the version before: each issuer gets a service, each transaction its service."""
    Issuer.objects.create(slug="trusted", name="Trusted", kind="TRUST_ONLY", trusted_for=[])
    executor = MigrationExecutor(connection)
    executor.migrate([("scep", "0001_initial")])
    try:
        old = executor.loader.project_state([("scep", "0001_initial"), ("pki", "0001_initial")]).apps
        old.get_model("scep", "Transaction").objects.create(
            issuer_id=issuer.pk, transaction_id="old", status="FAILURE", created_at=NOW
        )
    finally:
        executor = MigrationExecutor(connection)
        executor.migrate(executor.loader.graph.leaf_nodes())
    row = Transaction.objects.get()
    assert (row.transaction_id, row.service.slug) == ("old", "bramley")
    assert ScepService.objects.get().capabilities == list(capabilities.KEYWORDS)


# --- rules that are no rules -----------------------------------------------------------------------------


@pytest.mark.parametrize("approval", [ApprovalChoice.NEVER, ApprovalChoice.WITHOUT_CHALLENGE])
def test_a_service_that_gives_to_everybody_cannot_be_kept(issuer: Issuer, approval: str) -> None:
    service = ScepService(slug="open", issuer=issuer, challenge_mode=Mode.NONE, approval=approval)
    with pytest.raises(ValidationError, match="has to wait for approval"):
        service.full_clean()
    with pytest.raises(IntegrityError), transaction.atomic():
        service.save()
    with pytest.raises(IntegrityError), transaction.atomic():
        ScepService.objects.filter(pk=services.of_issuer(issuer).pk).update(
            challenge_mode=Mode.NONE, approval=approval
        )
    assert not ScepService.objects.filter(challenge_mode=Mode.NONE).exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"challenge_mode": Mode.WEBHOOK}, "address of the webhook is missing"),
        ({"capabilities": ["AES"]}, "at least one digest"),
        ({"capabilities": ["SHA-256"]}, "at least one of AES and DES3"),
        ({"capabilities": ["AES", "SHA-256", "MD5"]}, "Unknown capability"),
        ({"capabilities": ["AES", "SHA-256"], "allow_get": False}, "allow GET, or POSTPKIOperation"),
    ],
)
def test_a_service_that_cannot_work_is_not_kept(
    issuer: Issuer, changes: dict[str, object], said: str
) -> None:
    service = ScepService(slug="x", issuer=issuer, **changes)
    with pytest.raises(ValidationError, match=said):
        service.full_clean()


def test_a_service_does_not_take_another_issuers_address(issuer: Issuer) -> None:
    issuers.create_issuer("other", "Other CA", algorithm="RSA-2048", actor=SERVER, now=NOW)
    with pytest.raises(services.ServiceRefused, match="name of another issuer"):
        services.save(ScepService(slug="other", issuer=issuer), actor=SERVER)
    trusted = Issuer.objects.create(slug="trusted", name="Trusted", kind="TRUST_ONLY", trusted_for=[])
    with pytest.raises(services.ServiceRefused, match="does not issue"):
        services.save(ScepService(slug="x", issuer=trusted), actor=SERVER)
    assert not ScepService.objects.exists()
    assert not AuditEvent.objects.filter(action__startswith="scep_service").exists()


def test_changes_are_recorded(issuer: Issuer) -> None:
    service = services.save(ScepService(slug="x", issuer=issuer), actor=Actor(name="anna"))
    service.accept_sha1 = False
    services.save(service, actor=Actor(name="anna"))
    actions = AuditEvent.objects.filter(action__startswith="scep_service").order_by("id")
    assert [(event.action, event.actor) for event in actions] == [
        ("scep_service.created", "anna"),
        ("scep_service.changed", "anna"),
    ]


# --- what is not advertised is refused ---------------------------------------------------------------------

Refused = Callable[[Door, Mint, bytes], None]


def without_cipher(cipher: str, reason: str) -> Refused:
    def attempt(door: Door, mint: Mint, ca_certificate: bytes) -> None:
        sent = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=ca_certificate, cipher=cipher)
        refused(ask(door, sent, ca_certificate), FailInfo.BAD_ALG, reason)

    return attempt


def without_digest(digest: str) -> Refused:
    def attempt(door: Door, mint: Mint, ca_certificate: bytes) -> None:
        sent = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=ca_certificate, digest=digest)
        refused(ask(door, sent, ca_certificate), FailInfo.BAD_ALG, f"signed with {digest}")

    return attempt


def without_post(door: Door, mint: Mint, ca_certificate: bytes) -> None:
    sent = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=ca_certificate)
    response = door.post(sent.body)
    assert (response.status_code, response.headers["Allow"]) == (405, "GET")


def without_next(door: Door, mint: Mint, ca_certificate: bytes) -> None:
    assert door.get("operation=GetNextCACert").status_code == 404


def without_renewal(door: Door, mint: Mint, ca_certificate: bytes) -> None:
    """See below: a certificate is needed first."""


ENFORCED: dict[str, list[Refused]] = {
    "AES": [without_cipher("aes128_cbc", "aes128_cbc"), without_cipher("aes256_cbc", "aes256_cbc")],
    "DES3": [without_cipher("des_ede3_cbc", "des_ede3_cbc")],
    "POSTPKIOperation": [without_post],
    "SHA-256": [without_digest("sha256")],
    "SHA-384": [without_digest("sha384")],
    "SHA-512": [without_digest("sha512")],
    "GetNextCACert": [without_next],
    "Renewal": [without_renewal],
}


def test_every_keyword_is_enforced() -> None:
    assert set(ENFORCED) == set(capabilities.KEYWORDS)


@pytest.mark.parametrize("keyword", list(ENFORCED))
def test_a_keyword_that_is_turned_off_is_neither_said_nor_done(
    mint: Mint, ca_certificate: bytes, next_ca_certificate: bytes, service: ScepService, keyword: str
) -> None:
    door = Door()
    assert f"{keyword}\n".encode() in door.get("operation=GetCACaps").content
    service.capabilities = [kept for kept in capabilities.KEYWORDS if kept != keyword]
    service.full_clean()
    service.save()
    assert f"{keyword}\n".encode() not in door.get("operation=GetCACaps").content
    with nothing_issued():
        for attempt in ENFORCED[keyword]:
            attempt(door, mint, ca_certificate)
    # And it is refused only because of that.
    service.capabilities = list(capabilities.KEYWORDS)
    service.save()
    enrol(door, ca_certificate, mint()[1])


@pytest.mark.parametrize("message_type", [MessageType.RENEWAL_REQ, MessageType.PKCS_REQ])
def test_without_renewal_no_certificate_renews_itself(
    door: Door, mint: Mint, ca_certificate: bytes, service: ScepService, message_type: MessageType
) -> None:
    certificate = enrol(door, ca_certificate, mint()[1])
    service.capabilities = [kept for kept in capabilities.KEYWORDS if kept != "Renewal"]
    service.save()
    with nothing_issued():
        sent = pkcs_req(
            csr(rsa_key(2)),
            ca_certificate=ca_certificate,
            identity=holder(certificate),
            message_type=message_type,
        )
        refused(ask(door, sent, ca_certificate), FailInfo.BAD_REQUEST, "renewal is turned off")
    # With a challenge it enrols like everybody.
    sent = pkcs_req(csr(rsa_key(2), mint()[1]), ca_certificate=ca_certificate, identity=holder(certificate))
    assert issued(ask(door, sent, ca_certificate)).renewed_from is None


def test_scep_standard_is_said_only_with_all_that_it_means(door: Door, service: ScepService) -> None:
    assert b"SCEPStandard\n" in door.get("operation=GetCACaps").content
    for keyword in ("AES", "POSTPKIOperation", "SHA-256"):
        service.capabilities = [kept for kept in capabilities.KEYWORDS if kept != keyword]
        service.save()
        assert b"SCEPStandard" not in door.get("operation=GetCACaps").content


def test_sha_1_is_taken_but_never_offered_and_can_be_turned_off(
    door: Door, mint: Mint, ca_certificate: bytes, service: ScepService
) -> None:
    sent = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=ca_certificate, digest="sha1")
    issued(ask(door, sent, ca_certificate))
    assert b"SHA-1\n" not in door.get("operation=GetCACaps").content
    service.accept_sha1 = False
    service.save()
    sent = pkcs_req(csr(rsa_key(2), mint()[1]), ca_certificate=ca_certificate, digest="sha1")
    with nothing_issued():
        refused(ask(door, sent, ca_certificate), FailInfo.BAD_ALG, "signed with sha1")


def test_get_can_be_turned_off(door: Door, mint: Mint, ca_certificate: bytes, service: ScepService) -> None:
    service.allow_get = False
    service.save()
    sent = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=ca_certificate)
    with nothing_issued():
        response = door.get_message(sent.body)
    assert (response.status_code, response.headers["Allow"]) == (405, "POST")
    assert door.get("operation=GetCACert").status_code == 200
    issued(ask(door, sent, ca_certificate))


@pytest.mark.parametrize("off", [timedelta(minutes=11), timedelta(minutes=-11), timedelta(days=-20000)])
def test_clocks_may_be_wrong_unless_the_service_minds(
    door: Door, mint: Mint, ca_certificate: bytes, service: ScepService, off: timedelta
) -> None:
    sent = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=ca_certificate, now=NOW + off)
    issued(ask(door, sent, ca_certificate))
    service.clock_minutes = 10
    service.save()
    late = pkcs_req(csr(rsa_key(2), mint()[1]), ca_certificate=ca_certificate, now=NOW + off)
    with nothing_issued():
        refused(ask(door, late, ca_certificate), FailInfo.BAD_TIME, "by the client's clock")
    near = pkcs_req(csr(rsa_key(3), mint()[1]), ca_certificate=ca_certificate, now=NOW + timedelta(minutes=9))
    issued(ask(door, near, ca_certificate))


def test_a_message_without_a_time_has_no_wrong_one(
    door: Door, mint: Mint, ca_certificate: bytes, service: ScepService
) -> None:
    service.clock_minutes = 10
    service.save()
    identity = signer()
    envelope = cms.encrypt(
        csr(rsa_key(1), mint()[1]), recipient=ca_certificate, random=lambda size: b"\7" * size
    )
    body = cms.sign(
        envelope,
        certificate=identity.certificate,
        private_key=identity.private_key,
        attributes=attributes.encode_header(MessageType.PKCS_REQ, "id", b"nonce"),
    )
    issued(ask(door, Sent(body, identity, "id", b"nonce"), ca_certificate))


# --- the list itself ---------------------------------------------------------------------------------------


def test_the_list_is_one_keyword_a_line() -> None:
    body = capabilities.encode_capabilities(capabilities.advertised(next_ca=True))
    assert body == (
        b"AES\nDES3\nGetNextCACert\nPOSTPKIOperation\nRenewal\nSHA-256\nSHA-384\nSHA-512\nSCEPStandard\n"
    )
    assert capabilities.encode_capabilities(()) == b""


@given(st.sets(st.sampled_from(capabilities.KEYWORDS)), st.booleans())
def test_what_is_advertised_is_what_is_allowed(allowed: set[str], next_ca: bool) -> None:
    said = capabilities.advertised(allowed, next_ca=next_ca)
    assert set(said) - {capabilities.STANDARD} <= allowed
    assert ("GetNextCACert" in said) is ("GetNextCACert" in allowed and next_ca)
    ciphers = capabilities.ciphers(allowed)
    assert ("aes128_cbc" in ciphers) is ("AES" in said)
    assert ("des_ede3_cbc" in ciphers) is ("DES3" in said)
    understood = capabilities.decode_capabilities(capabilities.encode_capabilities(said))
    assert understood.keywords == set(said)
    if allowed & {"AES", "DES3"}:
        assert understood.cipher in ciphers


@given(st.binary(max_size=300))
def test_any_time_attribute_is_read_or_ignored(value: bytes) -> None:
    found = {attributes.SIGNING_TIME: (value,)}
    attributes.decode_signing_time(found)
    assert attributes.decode_signing_time({}) is None
