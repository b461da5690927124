"""Push certificates: request, import, renewal, holding; by function, command and admin page."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from django.contrib.auth.models import Permission, User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from audit.models import AuditEvent, Outcome
from push import certificates, outbox
from push.certificates import PushCertificateRefused, TopicChange
from push.core.pushcert import public_key_of
from push.models import PushCertificate, PushCertificateState, PushRequest, PushState
from tests.push.conftest import ADMIN, TOPIC, MakeEnrollments
from tests.support.apns import Authority
from vault.sealed import unseal

pytestmark = pytest.mark.django_db

OTHER_TOPIC = "com.apple.mgmt.External.other"
VECTORS = Path(__file__).resolve().parents[2].parent / "shared" / "vectors" / "push"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def pair(authority: Authority) -> tuple[bytes, bytes]:
    return authority.push_certificate(TOPIC)


def do_import(data: bytes, now: datetime, **options: Any) -> PushCertificate:
    return certificates.import_certificate(data, actor=ADMIN, now=now, **options)


def as_pkcs12(pair: tuple[bytes, bytes], password: bytes) -> bytes:
    key = serialization.load_pem_private_key(pair[1], None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return pkcs12.serialize_key_and_certificates(
        b"push",
        key,
        x509.load_pem_x509_certificate(pair[0]),
        None,
        serialization.BestAvailableEncryption(password),
    )


def rows() -> list[Any]:
    return list(PushCertificate.objects.order_by("pk").values())


def verify_refused(data: bytes, now: datetime, match: str, **options: Any) -> PushCertificateRefused:
    """It is refused with the reason; nothing changes but the record of it."""
    before, pushes = rows(), list(PushRequest.objects.values())
    with pytest.raises(PushCertificateRefused, match=match) as caught:
        do_import(data, now, **options)
    assert rows() == before
    assert list(PushRequest.objects.values()) == pushes
    event = AuditEvent.objects.first()
    assert event is not None
    assert (event.action, event.outcome) == ("push_certificate.imported", Outcome.REFUSED)
    assert event.reason == caught.value.reason[:500]
    return caught.value


def test_a_request_is_made_signed_elsewhere_and_completed(authority: Authority, now: datetime) -> None:
    made = certificates.create_request("Example Ltd", ADMIN)
    assert (made.state, made.topic, made.common_name) == ("REQUESTED", "", "Example Ltd")
    pem = certificates.request_pem(made)
    request = x509.load_pem_x509_csr(pem)
    assert isinstance(request.public_key(), rsa.RSAPublicKey)
    imported = do_import(authority.sign_request(pem, TOPIC), now)
    assert imported.pk == made.pk
    assert (imported.state, imported.topic, imported.activated_at) == ("ACTIVE", TOPIC, now)
    assert imported.not_after is not None
    context = f"push.pushcertificate.private_key:{imported.uuid}"
    key = unseal(bytes(imported.private_key_sealed), context=context)
    public = request.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert public_key_of(key) == public
    assert list(AuditEvent.objects.values_list("action", flat=True)) == [
        "push_certificate.imported",
        "push_certificate.requested",
    ]


def test_the_key_is_in_the_database_only_sealed(pair: tuple[bytes, bytes], now: datetime) -> None:
    imported = do_import(pair[0] + pair[1], now)
    key = serialization.load_pem_private_key(pair[1], None)
    der = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for value in PushCertificate.objects.filter(pk=imported.pk).values_list()[0]:
        assert der[400:460] not in bytes(value if isinstance(value, bytes | memoryview) else b"")
    opened = certificates.credentials(imported)
    assert opened.key_pem == pair[1]
    assert "PRIVATE" not in repr(opened)


@pytest.mark.parametrize("form", ["pem", "pkcs12", "key apart", "encrypted key apart"])
def test_every_form_is_imported(form: str, pair: tuple[bytes, bytes], now: datetime) -> None:
    certificate, key = pair
    loaded = serialization.load_pem_private_key(key, None)
    encrypted = loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    arguments: dict[str, dict[str, Any]] = {
        "pem": {"data": certificate + key},
        "pkcs12": {"data": as_pkcs12(pair, b"secret"), "password": "secret"},
        "key apart": {"data": certificate, "private_key": key},
        "encrypted key apart": {"data": certificate, "private_key": encrypted, "password": "secret"},
    }
    imported = do_import(now=now, **arguments[form])
    assert imported.topic == TOPIC
    assert certificates.credentials(imported).key_pem == key
    assert certificates.active(TOPIC) == imported
    assert certificates.only_topic() == TOPIC


def test_nothing_is_active_at_first() -> None:
    assert certificates.active(TOPIC) is None
    assert certificates.only_topic() == ""


def test_what_is_no_push_certificate_is_refused(
    authority: Authority, pair: tuple[bytes, bytes], now: datetime
) -> None:
    def made(topic: str | None, **options: Any) -> bytes:
        return b"".join(authority.push_certificate(topic, **options))

    verify_refused(made(None), now, "no topic")
    verify_refused(made("com.example.app"), now, "not for device management")
    verify_refused(made(TOPIC, not_after=now - timedelta(seconds=1)), now, "expired")
    verify_refused(
        made(TOPIC, not_before=now + timedelta(days=1), not_after=now + timedelta(days=2)), now, "not valid"
    )
    verify_refused(made(TOPIC, bits=1024), now, "1024 bits")
    verify_refused(pair[0], now, "no private key")
    verify_refused(pair[0] + authority.push_certificate(TOPIC)[1], now, "does not belong")
    verify_refused(pair[0], now, "does not belong", private_key=authority.push_certificate(TOPIC)[1])
    verify_refused(as_pkcs12(pair, b"secret"), now, "password", password="wrong")
    verify_refused(b"hello", now, "neither")
    verify_refused(b"x" * 70_000, now, "larger")


def test_the_real_examples_are_refused_for_their_own_reasons(now: datetime) -> None:
    if not VECTORS.is_dir():
        pytest.skip("the shared vectors are not here")
    verify_refused((VECTORS / "mock_push_cert.pem").read_bytes(), now, "no private key")
    verify_refused((VECTORS / "mock_push_cert_no_uid.pem").read_bytes(), now, "no topic")
    verify_refused(
        (VECTORS / "mock_push_cert_wrong_uid_prefix.pem").read_bytes(), now, "not for device management"
    )


def test_names_of_requests_are_checked() -> None:
    for bad in ("", " ", "x" * 65, "a\nb"):
        with pytest.raises(PushCertificateRefused):
            certificates.create_request(bad, ADMIN)
    assert not PushCertificate.objects.exists()


def test_renewal_replaces_the_certificate_of_the_same_topic(
    authority: Authority, pair: tuple[bytes, bytes], now: datetime
) -> None:
    old = do_import(pair[0] + pair[1], now)
    new = do_import(b"".join(authority.push_certificate(TOPIC)), now)
    old.refresh_from_db()
    assert (old.state, new.state) == (PushCertificateState.REPLACED, PushCertificateState.ACTIVE)
    assert certificates.active(TOPIC) == new
    verify_refused(certificates.credentials(new).certificate_pem, now, "already in use")


def test_a_renewal_for_the_same_key_needs_no_key_file(
    authority: Authority, pair: tuple[bytes, bytes], now: datetime
) -> None:
    old = do_import(pair[0] + pair[1], now)
    public_key = x509.load_pem_x509_certificate(pair[0]).public_key()
    assert isinstance(public_key, rsa.RSAPublicKey)
    new = do_import(authority.push_certificate(TOPIC, public_key=public_key)[0], now)
    assert new.pk != old.pk
    assert certificates.credentials(new).key_pem == pair[1]


def test_another_topic_is_refused_until_it_is_confirmed(
    authority: Authority, pair: tuple[bytes, bytes], now: datetime, make_enrollments: MakeEnrollments
) -> None:
    old = do_import(pair[0] + pair[1], now)
    make_enrollments(3)
    other = b"".join(authority.push_certificate(OTHER_TOPIC))
    refused = verify_refused(other, now, "another topic")
    assert isinstance(refused, TopicChange)
    assert (refused.topic, refused.active_topics, refused.devices) == (OTHER_TOPIC, (TOPIC,), 3)
    assert "enrol again" in refused.reason

    new = do_import(other, now + timedelta(seconds=1), confirm_topic_change=True)
    old.refresh_from_db()
    assert old.state == new.state == PushCertificateState.ACTIVE, "the old one still wakes its devices"
    assert certificates.only_topic() == OTHER_TOPIC
    do_import(b"".join(authority.push_certificate(TOPIC)), now + timedelta(seconds=2))
    assert PushCertificate.objects.filter(state=PushCertificateState.ACTIVE).count() == 2


def test_an_import_releases_what_is_held(
    authority: Authority, pair: tuple[bytes, bytes], now: datetime, make_enrollments: MakeEnrollments
) -> None:
    held = do_import(pair[0] + pair[1], now)
    (mine,), (other,) = make_enrollments(), make_enrollments(topic=OTHER_TOPIC)
    outbox.request_push([mine.pk, other.pk], now=now)
    outbox.hold(OTHER_TOPIC, "no certificate")
    assert certificates.hold(held, "APNs refuses it", actor=ADMIN, now=now) == 1
    later = now + timedelta(days=1)
    do_import(b"".join(authority.push_certificate(TOPIC)), later)
    assert PushRequest.objects.get(pk=mine.pk).state == PushState.DUE
    assert PushRequest.objects.get(pk=mine.pk).due_at == later
    assert PushRequest.objects.get(pk=other.pk).state == PushState.HELD


def test_hold_release_retire(
    pair: tuple[bytes, bytes], now: datetime, make_enrollments: MakeEnrollments
) -> None:
    certificate = do_import(pair[0] + pair[1], now)
    (enrollment,) = make_enrollments()
    outbox.request_push([enrollment.pk], now=now)
    certificates.hold(certificate, "refused", actor=ADMIN, now=now)
    certificates.hold(certificate, "refused otherwise", actor=ADMIN, now=now)
    certificate.refresh_from_db()
    assert certificate.held_reason == "refused", "the first reason stays"
    assert AuditEvent.objects.filter(action="push_certificate.held").count() == 1
    assert certificates.release(certificate, actor=ADMIN, now=now) == 1
    certificate.refresh_from_db()
    assert (certificate.held_reason, certificate.held_at) == ("", None)
    certificates.retire(certificate, actor=ADMIN, now=now)
    certificate.refresh_from_db()
    assert certificate.state == PushCertificateState.REPLACED
    for act in (certificates.retire, certificates.release):
        with pytest.raises(PushCertificateRefused, match="not in use"):
            act(certificate, actor=ADMIN, now=now)
    with pytest.raises(PushCertificateRefused, match="not in use"):
        certificates.hold(certificate, "x", actor=ADMIN, now=now)


def test_what_expires_soon_is_told(authority: Authority, now: datetime) -> None:
    for number, days in enumerate((400, 59, 5)):
        pem, key = authority.push_certificate(f"{TOPIC}{number}", not_after=now + timedelta(days=days))
        do_import(pem + key, now, confirm_topic_change=True)
    assert [(row.topic, left.days) for row, left in certificates.expiring(now)] == [
        (f"{TOPIC}2", 5),
        (f"{TOPIC}1", 59),
    ]


# --- the command ---


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("push_certificate", *arguments, stdout=out)
    return out.getvalue()


def test_the_command_requests_imports_and_lists(authority: Authority, tmp_path: Path) -> None:
    assert json.loads(run("list", "--json")) == []
    request = run("csr", "--cn", "Example Ltd")
    assert request.startswith("-----BEGIN CERTIFICATE REQUEST-----")
    file = tmp_path / "push.pem"
    file.write_bytes(authority.sign_request(request.encode(), TOPIC))
    assert json.loads(run("list", "--json")) == [], "a request is no certificate"
    imported = json.loads(run("import", str(file), "--json"))
    (listed,) = json.loads(run("list", "--json"))
    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    assert listed == imported
    assert listed["topic"] == TOPIC
    assert listed["serial_number"] == f"{certificate.serial_number:X}"
    assert datetime.fromisoformat(listed["not_after"]) == certificate.not_valid_after_utc
    assert TOPIC in run("list")


def test_the_command_takes_a_password_from_a_file(pair: tuple[bytes, bytes], tmp_path: Path) -> None:
    file, password = tmp_path / "push.p12", tmp_path / "password"
    file.write_bytes(as_pkcs12(pair, b"secret"))
    password.write_text("secret\n")
    with pytest.raises(CommandError, match="password"):
        run("import", str(file))
    assert not PushCertificate.objects.exists()
    assert TOPIC in run("import", str(file), "--password-file", str(password))


def test_the_command_refuses_another_topic_until_told(
    authority: Authority, pair: tuple[bytes, bytes], tmp_path: Path
) -> None:
    first, second, key = tmp_path / "a.pem", tmp_path / "b.pem", tmp_path / "b.key"
    first.write_bytes(pair[0] + pair[1])
    other = authority.push_certificate(OTHER_TOPIC)
    second.write_bytes(other[0])
    key.write_bytes(other[1])
    run("import", str(first))
    with pytest.raises(CommandError, match="another topic"):
        run("import", str(second), "--key", str(key))
    run("import", str(second), "--key", str(key), "--confirm-topic-change")
    assert {row["topic"] for row in json.loads(run("list", "--json"))} == {TOPIC, OTHER_TOPIC}


def test_the_command_says_which_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="No such file"):
        run("import", str(tmp_path / "nothing.pem"))


def test_the_command_writes_the_request_to_a_file(tmp_path: Path) -> None:
    out = tmp_path / "request.csr"
    assert run("csr", "--out", str(out)) == ""
    assert x509.load_pem_x509_csr(out.read_bytes()).is_signature_valid


# --- the admin ---


@pytest.fixture
def admin_client(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root", password="x"))
    return client


@pytest.fixture
def viewer(db: None) -> Client:
    user = User.objects.create_user("viewer", is_staff=True)
    user.user_permissions.set(
        Permission.objects.filter(content_type__app_label="push", codename__startswith="view_")
    )
    client = Client()
    client.force_login(user)
    return client


def address(name: str, *arguments: Any) -> str:
    return reverse(f"admin:push_{name}", args=arguments)


def upload(data: bytes, name: str = "push.pem") -> SimpleUploadedFile:
    return SimpleUploadedFile(name, data)


def test_request_download_import_in_the_admin(admin_client: Client, authority: Authority) -> None:
    page = admin_client.post(address("pushcertificate_request"), {"common_name": "Example Ltd"}, follow=True)
    assert page.status_code == 200
    assert "Download it" in page.content.decode()
    made = PushCertificate.objects.get()
    download = admin_client.get(address("pushcertificate_csr", made.pk))
    assert download["Content-Disposition"].endswith('.csr"')
    signed = authority.sign_request(download.content, TOPIC)
    page = admin_client.post(address("pushcertificate_import"), {"file": upload(signed)}, follow=True)
    assert "in use until" in page.content.decode()
    made.refresh_from_db()
    assert made.state == PushCertificateState.ACTIVE
    event = AuditEvent.objects.get(action="push_certificate.imported")
    assert (event.actor, event.outcome) == ("root", Outcome.DONE)


def test_a_refused_import_says_why_and_keeps_no_password(
    admin_client: Client, pair: tuple[bytes, bytes]
) -> None:
    page = admin_client.post(
        address("pushcertificate_import"),
        {"file": upload(as_pkcs12(pair, b"secret")), "password": "not the password"},
    )
    assert page.status_code == 200
    assert "password is missing or wrong" in page.content.decode()
    assert "not the password" not in page.content.decode()
    assert not PushCertificate.objects.exists()
    page = admin_client.post(address("pushcertificate_import"), {})
    assert "required" in page.content.decode()


def test_a_change_of_topic_is_explained_and_confirmed(
    admin_client: Client, authority: Authority, pair: tuple[bytes, bytes], now: datetime
) -> None:
    do_import(pair[0] + pair[1], now)
    other = b"".join(authority.push_certificate(OTHER_TOPIC))
    page = admin_client.get(address("pushcertificate_import")).content.decode()
    assert 'type="hidden" name="confirm_topic_change"' in page
    page = admin_client.post(address("pushcertificate_import"), {"file": upload(other)}).content.decode()
    assert "enrol again" in page
    assert 'type="checkbox" name="confirm_topic_change"' in page
    assert PushCertificate.objects.count() == 1
    admin_client.post(
        address("pushcertificate_import"), {"file": upload(other), "confirm_topic_change": "on"}
    )
    assert PushCertificate.objects.filter(topic=OTHER_TOPIC, state="ACTIVE").count() == 1


def test_the_pages_show_a_held_certificate_and_try_it_again(
    admin_client: Client, pair: tuple[bytes, bytes], now: datetime, make_enrollments: MakeEnrollments
) -> None:
    certificate = do_import(pair[0] + pair[1], now)
    (enrollment,) = make_enrollments()
    outbox.request_push([enrollment.pk], now=now)
    certificates.hold(certificate, "APNs refuses the push certificate: unknown ca", actor=ADMIN, now=now)
    page = admin_client.get(address("pushcertificate_changelist")).content.decode()
    assert "pushes held" in page
    assert "unknown ca" in page
    page = admin_client.get(address("pushcertificate_change", certificate.pk)).content.decode()
    assert "unknown ca" in page
    assert "days left" in page
    again = address("pushcertificate_try_again", certificate.pk)
    assert again in page
    assert admin_client.get(again).status_code == 200
    assert PushRequest.objects.get().state == PushState.HELD, "looking changes nothing"
    page = admin_client.post(again, follow=True).content.decode()
    assert "1 push is due" in page
    assert PushRequest.objects.get().state == PushState.DUE
    retire = address("pushcertificate_retire", certificate.pk)
    assert "1 enrolled device listens" in admin_client.get(retire).content.decode()
    admin_client.post(retire)
    certificate.refresh_from_db()
    assert certificate.state == PushCertificateState.REPLACED
    assert "not in use" in admin_client.post(retire, follow=True).content.decode()


def test_pushes_are_listed_filtered_and_read_only(
    admin_client: Client, now: datetime, make_enrollments: MakeEnrollments
) -> None:
    due, idle = make_enrollments(2)
    outbox.request_push([due.pk, idle.pk], now=now)
    outbox.connected(idle.pk, more=False, now=now)
    page = admin_client.get(address("pushrequest_changelist"), {"state__exact": "DUE"}).content.decode()
    assert due.device.udid[-3:] in page
    assert "1 push" in page
    page = admin_client.get(address("pushrequest_changelist"), {"q": TOPIC}).content.decode()
    assert "2 pushes" in page
    change = address("pushrequest_change", due.pk)
    page = admin_client.get(change).content.decode()
    assert TOPIC in page
    assert due.push_magic not in page
    assert admin_client.post(change, {"state": "IDLE"}).status_code == 403
    assert PushRequest.objects.get(pk=due.pk).state == PushState.DUE


def test_who_may_only_look_changes_nothing(
    viewer: Client, authority: Authority, pair: tuple[bytes, bytes], now: datetime
) -> None:
    certificate = do_import(pair[0] + pair[1], now)
    certificates.hold(certificate, "refused", actor=ADMIN, now=now)
    before = rows()
    page = viewer.get(address("pushcertificate_changelist")).content.decode()
    assert address("pushcertificate_import") not in page
    assert viewer.get(address("pushcertificate_change", certificate.pk)).status_code == 200
    other = b"".join(authority.push_certificate(TOPIC))
    for page_address, data in (
        (address("pushcertificate_request"), {"common_name": "x"}),
        (address("pushcertificate_import"), {"file": upload(other)}),
        (address("pushcertificate_try_again", certificate.pk), {}),
        (address("pushcertificate_retire", certificate.pk), {}),
    ):
        assert viewer.post(page_address, data).status_code == 403
        assert viewer.get(page_address).status_code == 403
    assert rows() == before


@pytest.mark.parametrize("get", [lambda c: c.private_key_sealed, lambda c: c.der])
def test_no_page_shows_the_key(
    get: Callable[[PushCertificate], bytes],
    admin_client: Client,
    pair: tuple[bytes, bytes],
    now: datetime,
) -> None:
    certificate = do_import(pair[0] + pair[1], now)
    page = admin_client.get(address("pushcertificate_change", certificate.pk)).content
    assert b"PRIVATE KEY" not in page
    assert bytes(get(certificate)).hex().encode() not in page


def test_anonymous_people_are_sent_to_sign_in(db: None) -> None:
    page = Client().post(address("pushcertificate_import"), {})
    assert page.status_code == 302
    assert "login" in page["Location"]
