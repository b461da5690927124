"""The pure parts: the table of answers, the schedule, reading push certificates."""

from __future__ import annotations

import contextlib
import json
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from hypothesis import given
from hypothesis import strategies as st

from pki.core import iterations
from push.core import backoff, pushcert
from push.core.notification import (
    Answer,
    Failure,
    Notification,
    Verdict,
    decode_answer,
    decode_goaway,
    encode_payload,
    is_outage,
    judge,
    says_wrong_environment,
)
from tests.support.apns import Authority

VECTORS = Path(__file__).resolve().parents[2].parent / "shared" / "vectors" / "push"
TOPIC = "com.apple.mgmt.External.test"
TOKEN_TIME = datetime(2026, 11, 1, tzinfo=UTC)
NOW = datetime(2026, 11, 24, tzinfo=UTC)


# --- answers ---


@pytest.mark.parametrize(
    ("status", "reason", "verdict"),
    [
        (200, "", Verdict.ACCEPTED),
        (400, "BadDeviceToken", Verdict.TOKEN_DEAD),
        (400, "DeviceTokenNotForTopic", Verdict.TOKEN_DEAD),
        (400, "BadTopic", Verdict.HOLD),
        (400, "TopicDisallowed", Verdict.HOLD),
        (400, "MissingTopic", Verdict.HOLD),
        (400, "BadCertificate", Verdict.HOLD),
        (400, "BadCertificateEnvironment", Verdict.HOLD),
        (400, "BadPriority", Verdict.DROP),
        (400, "PayloadEmpty", Verdict.DROP),
        (400, "IdleTimeout", Verdict.RETRY),
        (400, "", Verdict.RETRY),
        (403, "BadCertificate", Verdict.HOLD),
        (403, "Forbidden", Verdict.HOLD),
        (403, "", Verdict.HOLD),
        (404, "BadPath", Verdict.DROP),
        (405, "MethodNotAllowed", Verdict.DROP),
        (413, "PayloadTooLarge", Verdict.DROP),
        (429, "TooManyRequests", Verdict.RETRY),
        (500, "InternalServerError", Verdict.OUTAGE),
        (503, "", Verdict.OUTAGE),
        (503, "Shutdown", Verdict.OUTAGE),
        (302, "", Verdict.RETRY),
        (0, "", Verdict.RETRY),
    ],
)
def test_the_table_of_answers(status: int, reason: str, verdict: Verdict) -> None:
    assert judge(Answer(status, reason), token_updated_at=TOKEN_TIME) is verdict


@pytest.mark.parametrize(
    ("failure", "verdict"),
    [
        (Failure.CONNECTION, Verdict.OUTAGE),
        (Failure.TIME_OUT, Verdict.OUTAGE),
        (Failure.SERVER_NOT_TRUSTED, Verdict.OUTAGE),
        (Failure.CERTIFICATE_REFUSED, Verdict.HOLD),
        (Failure.UNUSABLE_CERTIFICATE, Verdict.HOLD),
    ],
)
def test_what_no_answer_means(failure: Failure, verdict: Verdict) -> None:
    assert judge(Answer(failure=failure), token_updated_at=TOKEN_TIME) is verdict


def test_410_kills_the_token_only_if_it_is_not_older_than_the_token() -> None:
    def gone(timestamp: datetime | None, token: datetime | None = TOKEN_TIME) -> Verdict:
        return judge(Answer(410, "Unregistered", timestamp), token_updated_at=token)

    assert gone(TOKEN_TIME) is Verdict.TOKEN_DEAD
    assert gone(TOKEN_TIME + timedelta(seconds=1)) is Verdict.TOKEN_DEAD
    assert gone(TOKEN_TIME - timedelta(milliseconds=1)) is Verdict.RETRY
    assert gone(None) is Verdict.RETRY
    assert gone(TOKEN_TIME, None) is Verdict.TOKEN_DEAD
    assert gone(TOKEN_TIME, TOKEN_TIME + timedelta(microseconds=999)) is Verdict.TOKEN_DEAD


def test_an_answer_with_reason_and_timestamp() -> None:
    answer = decode_answer(410, b'{"reason":"Unregistered","timestamp":1700000000123}')
    assert answer == Answer(410, "Unregistered", datetime(2023, 11, 14, 22, 13, 20, 123000, tzinfo=UTC))
    assert str(answer) == "410 Unregistered"


@given(st.integers(), st.binary(max_size=200))
def test_any_bytes_are_an_answer(status: int, body: bytes) -> None:
    answer = decode_answer(status, body)
    assert answer.status == status
    assert judge(answer, token_updated_at=TOKEN_TIME) in Verdict


@given(
    st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists),
    st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists),
)
def test_any_json_is_an_answer(reason: object, timestamp: object) -> None:
    body = json.dumps({"reason": reason, "timestamp": timestamp}).encode()
    answer = decode_answer(410, body)
    assert answer.reason.isascii()
    assert len(answer.reason) <= 100
    assert judge(answer, token_updated_at=TOKEN_TIME) in {
        Verdict.TOKEN_DEAD,
        Verdict.RETRY,
    }


def test_a_goaway_s_reason() -> None:
    assert decode_goaway(b'{"reason":"Shutdown"}') == "Shutdown"
    assert decode_goaway(None) == ""
    assert decode_goaway(b"\x00\x01") == ""


@given(st.text())
def test_the_body_is_the_magic_and_nothing_else(magic: str) -> None:
    try:
        magic.encode()
    except UnicodeEncodeError:
        return
    body = encode_payload(Notification(b"t", magic, TOPIC, uuid.uuid4(), 0))
    assert json.loads(body) == {"mdm": magic}


def test_tokens_that_are_all_bad_mean_another_apns() -> None:
    bad = Answer(400, "BadDeviceToken")
    assert says_wrong_environment([bad] * 20)
    assert not says_wrong_environment([bad] * 19)
    assert not says_wrong_environment([bad] * 50 + [Answer(200)])
    assert not says_wrong_environment([])


def test_an_outage_is_more_than_half_of_a_batch() -> None:
    assert is_outage([Verdict.OUTAGE])
    assert is_outage([Verdict.OUTAGE] * 2 + [Verdict.ACCEPTED])
    assert not is_outage([Verdict.OUTAGE, Verdict.ACCEPTED])
    assert not is_outage([])


# --- schedule ---


def test_pushed_again_at_2_and_10_minutes_1_6_and_24_hours_and_then_daily() -> None:
    hours = [backoff.after_accepted(n, 0) / timedelta(minutes=1) for n in range(1, 8)]
    assert hours == [2, 10, 60, 360, 1440, 1440, 1440]


@given(st.integers(0, 10**6), st.floats(0, 1, exclude_max=True))
def test_pauses_are_bounded_and_spread_upwards(attempts: int, jitter: float) -> None:
    for pause, longest in (
        (backoff.after_accepted, timedelta(hours=24)),
        (backoff.after_failure, timedelta(minutes=50)),
        (backoff.pause_of_topic, timedelta(minutes=1)),
    ):
        assert timedelta(0) < pause(attempts, 0) <= longest
        assert pause(attempts, 0) <= pause(attempts, jitter) <= pause(attempts, 0) * 1.2
        assert pause(attempts, 0) <= pause(attempts + 1, 0)
    assert backoff.after_failure(attempts, jitter) <= timedelta(hours=1)
    assert max(backoff.after_connect(0)) == timedelta(hours=1)


# --- push certificates ---


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def pair(authority: Authority) -> tuple[bytes, bytes]:
    return authority.push_certificate(TOPIC)


def encrypted(key_pem: bytes, password: bytes) -> bytes:
    key = serialization.load_pem_private_key(key_pem, None)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password),
    )


def traditional(key_pem: bytes, password: bytes) -> bytes:
    key = serialization.load_pem_private_key(key_pem, None)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.BestAvailableEncryption(password),
    )


def bundle(
    pair: tuple[bytes, bytes], authority: Authority, password: bytes | None, *, old: bool = False
) -> bytes:
    certificate = x509.load_pem_x509_certificate(pair[0])
    key = serialization.load_pem_private_key(pair[1], None)
    assert isinstance(key, rsa.RSAPrivateKey)
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password)
    if password is not None and old:  # what Keychain Access writes
        encryption = (
            serialization.PrivateFormat.PKCS12.encryption_builder()
            .kdf_rounds(2048)
            .key_cert_algorithm(pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC)
            .build(password)
        )
    return pkcs12.serialize_key_and_certificates(
        b"push", key, certificate, [authority.certificate], encryption
    )


def test_pem_with_certificate_chain_and_key_in_any_order(
    authority: Authority, pair: tuple[bytes, bytes]
) -> None:
    certificate, key = pair
    for data in (certificate + key + authority.pem, authority.pem + key + certificate):
        file = pushcert.decode_file(data)
        facts = pushcert.describe(file.certificate)
        assert facts.topic == TOPIC
        assert len(file.chain) == 1
        assert file.private_key is not None
        assert pushcert.verify_key_matches(facts, file.private_key) == file.private_key
        assert "private_key" not in repr(file)


def test_a_certificate_alone_as_pem_and_der(authority: Authority, pair: tuple[bytes, bytes]) -> None:
    der = x509.load_pem_x509_certificate(pair[0]).public_bytes(serialization.Encoding.DER)
    for data in (pair[0], der, authority.pem + pair[0]):
        file = pushcert.decode_file(data)
        assert file.certificate == der
        assert file.private_key is None


@pytest.mark.parametrize("encrypt", [encrypted, traditional])
def test_an_encrypted_key_opens_with_its_password_only(encrypt: object, pair: tuple[bytes, bytes]) -> None:
    assert callable(encrypt)
    data = pair[0] + encrypt(pair[1], b"correct horse")
    assert pushcert.decode_file(data, password="correct horse").private_key is not None
    for wrong in ("", "wrong"):
        with pytest.raises(pushcert.WrongPassword):
            pushcert.decode_file(data, password=wrong)


def test_a_password_that_is_not_needed_does_no_harm(pair: tuple[bytes, bytes]) -> None:
    assert pushcert.decode_file(pair[0] + pair[1], password="needless").private_key is not None


@pytest.mark.parametrize("old", [False, True])
def test_pkcs12_opens_with_its_password_only(
    old: bool, authority: Authority, pair: tuple[bytes, bytes]
) -> None:
    data = bundle(pair, authority, b"correct horse", old=old)
    file = pushcert.decode_file(data, password="correct horse")
    assert pushcert.describe(file.certificate).topic == TOPIC
    assert file.private_key is not None
    assert len(file.chain) == 1
    for wrong in ("", "wrong"):
        with pytest.raises(pushcert.WrongPassword):
            pushcert.decode_file(data, password=wrong)


def test_pkcs12_without_a_password(authority: Authority, pair: tuple[bytes, bytes]) -> None:
    assert pushcert.decode_file(bundle(pair, authority, None)).private_key is not None


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", pushcert.Unreadable),
        (b"not a certificate", pushcert.Unreadable),
        (b"\x30\x80\x00\x00", pushcert.Unreadable),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", pushcert.Unreadable),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n", pushcert.NoCertificate),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", pushcert.Unreadable),
        (b"x" * (pushcert.MAX_SIZE + 1), pushcert.TooLarge),
    ],
)
def test_files_that_are_none(data: bytes, error: type[pushcert.PushCertError]) -> None:
    with pytest.raises(error):
        pushcert.decode_file(data)


def test_a_key_alone_is_no_certificate(pair: tuple[bytes, bytes]) -> None:
    with pytest.raises(pushcert.NoCertificate):
        pushcert.decode_file(pair[1])


def test_too_many_keys_and_certificates(authority: Authority, pair: tuple[bytes, bytes]) -> None:
    with pytest.raises(pushcert.Unreadable, match="more than one private key"):
        pushcert.decode_file(pair[0] + pair[1] + pair[1])
    with pytest.raises(pushcert.Unreadable, match="certificates"):
        pushcert.decode_file(pair[0] * 11)


def test_a_key_of_another_certificate(authority: Authority, pair: tuple[bytes, bytes]) -> None:
    _other, other_key = authority.push_certificate(TOPIC)
    with pytest.raises(pushcert.KeyMismatch):
        pushcert.decode_file(pair[0] + other_key)
    facts = pushcert.describe(pushcert.decode_file(pair[0]).certificate)
    with pytest.raises(pushcert.KeyMismatch):
        pushcert.verify_key_matches(facts, pushcert.decode_private_key(other_key))


def test_a_key_that_apns_does_not_take(pair: tuple[bytes, bytes]) -> None:
    key = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(pushcert.WeakKey):
        pushcert.decode_private_key(key)


@pytest.mark.parametrize(
    ("topic", "error"),
    [
        (None, pushcert.NoTopic),
        ("com.example.app", pushcert.WrongPrefix),
        ("com.apple.mgmt.", pushcert.WrongPrefix),
        ("com.apple.mgmtX.a", pushcert.WrongPrefix),
        ("com.apple.mgmt.a b", pushcert.WrongPrefix),
        ("com.apple.mgmt.<script>", pushcert.WrongPrefix),
        ("com.apple.mgmt." + "x" * 200, pushcert.WrongPrefix),
    ],
)
def test_certificates_that_are_not_for_device_management(
    topic: str | None, error: type[pushcert.PushCertError], authority: Authority
) -> None:
    certificate, _key = authority.push_certificate(topic)
    with pytest.raises(error):
        pushcert.describe(pushcert.decode_file(certificate).certificate)


def test_a_weak_key_in_the_certificate(authority: Authority) -> None:
    certificate, _key = authority.push_certificate(TOPIC, bits=1024)
    with pytest.raises(pushcert.WeakKey, match="1024"):
        pushcert.describe(pushcert.decode_file(certificate).certificate)


def test_a_certificate_has_its_time(authority: Authority) -> None:
    certificate, _key = authority.push_certificate(
        TOPIC, not_before=NOW - timedelta(days=1), not_after=NOW + timedelta(days=1)
    )
    facts = pushcert.describe(pushcert.decode_file(certificate).certificate)
    assert pushcert.verify_current(facts, now=NOW) is facts
    with pytest.raises(pushcert.Expired):
        pushcert.verify_current(facts, now=NOW + timedelta(days=1))
    with pytest.raises(pushcert.NotYetValid):
        pushcert.verify_current(facts, now=NOW - timedelta(days=2))


def test_a_request_is_rsa_2048_with_sha_256() -> None:
    key = rsa.generate_private_key(65537, pushcert.REQUEST_RSA_BITS)
    der = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    request = x509.load_der_x509_csr(pushcert.encode_request("Bramley at Example", der))
    assert request.is_signature_valid
    assert request.subject.rfc4514_string() == "CN=Bramley at Example"
    assert request.signature_hash_algorithm is not None
    assert request.signature_hash_algorithm.name == "sha256"
    assert isinstance(request.public_key(), rsa.RSAPublicKey)
    assert pushcert.public_key_of_request(pushcert.encode_request("a", der)) == pushcert.public_key_of(der)
    for bad in ("", "  ", "x" * 65, "a\nb", "a\x00b", "a\u202eb"):
        with pytest.raises(pushcert.BadName):
            pushcert.encode_request(bad, der)


def test_the_real_examples() -> None:
    if not VECTORS.is_dir():
        pytest.skip("the shared vectors are not here")
    good = pushcert.describe(pushcert.decode_file((VECTORS / "mock_push_cert.pem").read_bytes()).certificate)
    assert good.topic == "com.apple.mgmt.External.18a16429-886b-41f1-9c30-2bd04ae4fc37"
    assert good.common_name.startswith("APSP:")
    for name, error in (
        ("mock_push_cert_no_uid.pem", pushcert.NoTopic),
        ("mock_push_cert_wrong_uid_prefix.pem", pushcert.WrongPrefix),
    ):
        with pytest.raises(error):
            pushcert.describe(pushcert.decode_file((VECTORS / name).read_bytes()).certificate)


@given(st.binary(max_size=400), st.text(max_size=5))
def test_any_file_is_read_or_refused(data: bytes, password: str) -> None:
    with contextlib.suppress(pushcert.PushCertError):
        pushcert.decode_file(data, password=password)


@given(st.data())
def test_a_damaged_file_is_read_or_refused(data: st.DataObject) -> None:
    whole = _damaged_source()
    position = data.draw(st.integers(0, len(whole) - 1))
    value = data.draw(st.integers(0, 255))
    broken = whole[:position] + bytes([value]) + whole[position + 1 :]
    with contextlib.suppress(pushcert.PushCertError):
        pushcert.describe(pushcert.decode_file(broken, password="p").certificate)


_SOURCE: list[bytes] = []


def _damaged_source() -> bytes:
    if not _SOURCE:
        authority = Authority()
        _SOURCE.append(bundle(authority.push_certificate(TOPIC), authority, b"p", old=True))
    return _SOURCE[0]


# --- how much work a file asks for ---


def rounds_of(rounds: int, authority: Authority, pair: tuple[bytes, bytes]) -> bytes:
    key = serialization.load_pem_private_key(pair[1], None)
    assert isinstance(key, rsa.RSAPrivateKey)
    encryption = serialization.PrivateFormat.PKCS12.encryption_builder().kdf_rounds(rounds).build(b"p")
    return pkcs12.serialize_key_and_certificates(
        None, key, x509.load_pem_x509_certificate(pair[0]), None, encryption
    )


def test_the_iteration_count_is_found(authority: Authority, pair: tuple[bytes, bytes]) -> None:
    assert iterations.work(rounds_of(12_345, authority, pair)) == 2 * 12_345 + 2048, "two parts and the MAC"
    assert iterations.work_of_key(encrypted(pair[1], b"p")) >= 1000
    assert iterations.work_of_key(pair[1]) < iterations.LIMIT


def test_a_file_that_asks_for_hours_of_work_is_refused_at_once(
    authority: Authority, pair: tuple[bytes, bytes]
) -> None:
    modest = rounds_of(0x123456, authority, pair)
    greedy = modest.replace(bytes.fromhex("0203123456"), bytes.fromhex("02037fffff"))
    assert greedy != modest
    assert iterations.work(greedy) == 2 * 0x7FFFFF + 2048
    with pytest.raises(pushcert.Unreadable, match="unreasonable"):
        pushcert.decode_file(greedy, password="p")


def test_scrypt_counts_by_its_memory() -> None:
    def key(n: int, r: int) -> bytes:
        numbers = b"".join(b"\x02\x04" + number.to_bytes(4, "big") for number in (n, r, 1))
        salt = b"\x04\x08" + b"s" * 8
        return b"\x30" + bytes([len(salt + numbers)]) + salt + numbers

    assert iterations.work(key(16_384, 8)) <= iterations.LIMIT, "what openssl pkcs8 -scrypt makes"
    assert iterations.work(key(131_072, 8)) <= iterations.LIMIT, "128 MB"
    assert iterations.work(key(1_048_576, 8)) > iterations.LIMIT, "a gigabyte"
    assert iterations.work(key(16_384, 1_000_000)) > iterations.LIMIT


def test_many_modest_parts_are_one_unreasonable_file() -> None:
    part = b"\x30\x0d\x04\x06saltsa\x02\x03\x1e\x84\x80"
    assert iterations.work(part) == 2_000_000
    assert iterations.work(part * 3) > iterations.LIMIT


def test_keys_and_files_of_absurd_length_are_not_even_tried() -> None:
    """OpenSSL tries the primes of a private key: for one of 40,000 bits that takes most of a minute."""
    key = b"-----BEGIN RSA PRIVATE KEY-----\n" + b"A" * 20_000 + b"\n-----END RSA PRIVATE KEY-----\n"
    with pytest.raises(pushcert.TooLarge, match="no key that is used here"):
        pushcert.decode_private_key(key)
    with pytest.raises(pushcert.TooLarge, match="no key that is used here"):
        pushcert.decode_file(key)
    with pytest.raises(pushcert.TooLarge, match="give PEM files instead"):
        pushcert.decode_file(b"\x30\x82\x50\x00" + b"\x00" * 20_480)


@given(st.binary(max_size=600))
def test_counting_never_fails(data: bytes) -> None:
    assert iterations.work(data) >= 0
    assert iterations.work_of_key(data) >= 0


def test_counting_a_nest_of_elements_ends() -> None:
    assert iterations.work(b"\x30\x80" * 30_000) > iterations.LIMIT
    assert iterations.work(b"\x30\x00" * 30_000) > iterations.LIMIT
