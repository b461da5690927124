"""What is read of bytes is remembered, but not what strangers make longer than it has to be."""

from __future__ import annotations

import gc
import tracemalloc
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from pki.core import cms
from pki.core.remembering import LONGEST, remembered


def test_what_is_short_is_read_once_and_what_is_long_each_time() -> None:
    asked: list[bytes] = []

    @remembered(2)
    def read(data: bytes) -> int:
        asked.append(data)
        return len(data)

    short, long = b"a" * LONGEST, b"a" * (LONGEST + 1)
    assert [read(short), read(short), read(long), read(long)] == [LONGEST] * 2 + [LONGEST + 1] * 2
    assert asked == [short, long, long]
    read(b"b")
    read(b"c")
    read(short)
    assert asked == [short, long, long, b"b", b"c", short]


def test_nothing_stays_of_large_certificates_that_nobody_vouches_for() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    messages = [wrongly_signed(key, number) for number in range(1, 21)]
    refuse(messages[0])
    tracemalloc.start()
    try:
        for message in messages:
            refuse(message)
        gc.collect()
        kept, _most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 200_000


def refuse(message: bytes) -> None:
    with pytest.raises(cms.CmsError):
        cms.verify_signed_data(message)


def wrongly_signed(key: ec.EllipticCurvePrivateKey, number: int) -> bytes:
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a stranger")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), number)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), bytes(60_000)), False)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    message = cms.sign(b"x", certificate=certificate, private_key=key)
    return message[:-1] + bytes((message[-1] ^ 1,))
