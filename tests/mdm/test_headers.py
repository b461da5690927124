"""Readers of certificate headers: the forms of four proxies, and nothing else."""

from __future__ import annotations

import base64
import contextlib
import textwrap
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdm.core import headers
from mdm.core.headers import HeaderError, decode_client_certificate, decode_signature

# Any SEQUENCE will do: these readers take the certificate out, pki reads it.
DER = (
    bytes.fromhex("3082012c")
    + b"\x02\x03\x01\x02\x03"
    + b"\x04\x82\x01\x23"
    + bytes(range(256))
    + b"\xfb" * 35
)
B64 = base64.b64encode(DER).decode()
PEM = "-----BEGIN CERTIFICATE-----\n" + "\n".join(textwrap.wrap(B64, 64)) + "\n-----END CERTIFICATE-----\n"
VECTORS = Path(__file__).resolve().parents[3] / "shared" / "vectors"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Client-Cert", f":{B64}:"),
        ("client-cert", f" :{B64}: "),
        ("X-Forwarded-Client-Cert", f'Cert="{quote(PEM, safe="")}"'),
        (
            "X-Forwarded-Client-Cert",
            f'By=spiffe://m;Hash={"ab" * 32};Cert="{quote(PEM, safe="")}";Subject="CN=\\"a, b\\";O=x";URI=',
        ),
        ("x-forwarded-client-cert", f"Hash=00;cert={quote(PEM, safe='')}"),
        ("X-SSL-Client-Cert", quote(PEM, safe="")),  # nginx $ssl_client_escaped_cert
        ("X-SSL-Client-Cert", quote_plus(PEM)),
        ("X-SSL-Client-Cert", PEM.replace("\n", " ")),  # Apache, RequestHeader set … %{SSL_CLIENT_CERT}s
        ("X-SSL-Client-Cert", base64.b64encode(PEM.encode()).decode()),  # Apache, expr base64
        ("X-SSL-Client-Cert", B64),  # Traefik, HAProxy
        ("X-SSL-Client-Cert", quote(B64, safe="")),
        ("X-SSL-Client-Cert", f":{B64}:"),
    ],
)
def test_every_form_gives_the_one_certificate(name: str, value: str) -> None:
    assert decode_client_certificate(name, value) == DER


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Client-Cert", ""),
        ("Client-Cert", ":"),
        ("Client-Cert", "::"),
        ("Client-Cert", B64),
        ("Client-Cert", f":{B64}:, :{B64}:"),
        ("Client-Cert", f":{B64}:;q=1"),
        ("Client-Cert", f':{B64}:,"x"'),
        ("Client-Cert", ":not base64:"),
        ("Client-Cert", f":{base64.b64encode(DER + b'junk').decode()}:"),
        ("Client-Cert", f":{base64.b64encode(DER[:-1]).decode()}:"),
        ("Client-Cert", PEM.replace("\n", " ")),
        ("X-Forwarded-Client-Cert", ""),
        ("X-Forwarded-Client-Cert", "Hash=00"),
        ("X-Forwarded-Client-Cert", f'Cert="{quote(PEM, safe="")}",Cert="{quote(PEM, safe="")}"'),
        ("X-Forwarded-Client-Cert", f'Hash=00,Cert="{quote(PEM, safe="")}"'),
        ("X-Forwarded-Client-Cert", f'Cert="{quote(PEM, safe="")}";Cert="{quote(PEM, safe="")}"'),
        ("X-Forwarded-Client-Cert", f'Subject="\\";Cert="{quote(PEM, safe="")}"'),
        ("X-Forwarded-Client-Cert", f'Cert="{quote(PEM, safe="")}'),
        ("X-Forwarded-Client-Cert", 'Cert=""'),
        ("X-SSL-Client-Cert", ""),
        ("X-SSL-Client-Cert", "%0d%0a"),
        ("X-SSL-Client-Cert", quote(PEM + PEM, safe="")),
        ("X-SSL-Client-Cert", quote(PEM + "trailing", safe="")),
        ("X-SSL-Client-Cert", quote("leading" + PEM, safe="")),
        ("X-SSL-Client-Cert", quote(PEM, safe="") + "," + quote(PEM, safe="")),
        ("X-SSL-Client-Cert", f"{B64},{B64}"),
        ("X-SSL-Client-Cert", "CN=x,CN=MDM"),
        ("X-SSL-Client-Cert", "-----BEGIN CERTIFICATE-----"),
        ("X-SSL-Client-Cert", "-----BEGIN CERTIFICATE----------END CERTIFICATE-----"),
        ("X-SSL-Client-Cert", PEM.replace("CERTIFICATE", "PRIVATE KEY").replace("\n", " ")),
        ("X-SSL-Client-Cert", "A" * 65_536),
        ("X-SSL-Client-Cert", "-----BEGIN CERTIFICATE-----" + " " * 30_000),
        ("X-SSL-Client-Cert", "\xff\xfe"),
    ],
)
def test_anything_else_is_refused(name: str, value: str) -> None:
    with pytest.raises(HeaderError):
        decode_client_certificate(name, value)


def test_a_certificate_of_indefinite_length_is_refused() -> None:
    ber = b"\x30\x80\x02\x01\x01\x00\x00"
    with pytest.raises(HeaderError):
        decode_client_certificate("Client-Cert", f":{base64.b64encode(ber).decode()}:")


@given(name=st.sampled_from(["Client-Cert", "X-Forwarded-Client-Cert", "X-SSL-Client-Cert"]), value=st.text())
def test_readers_are_total(name: str, value: str) -> None:
    with contextlib.suppress(HeaderError):
        assert decode_client_certificate(name, value)[:1] == b"\x30"


@given(
    name=st.sampled_from(["Client-Cert", "X-Forwarded-Client-Cert", "X-SSL-Client-Cert"]),
    form=st.sampled_from([f":{B64}:", f'Cert="{quote(PEM, safe="")}";Hash=1', quote(PEM, safe=""), B64]),
    at=st.integers(0, 700),
    junk=st.text(alphabet=':=,;"\\%-+ A\n', max_size=6),
)
def test_one_wrong_piece_never_yields_another_error(name: str, form: str, at: int, junk: str) -> None:
    with contextlib.suppress(HeaderError):
        decode_client_certificate(name, form[:at] + junk + form[at + len(junk) :])


def test_a_signature_may_be_folded_and_spaced() -> None:
    folded = "\r\n ".join(textwrap.wrap(B64, 60)) + "\t "
    assert decode_signature(folded) == DER


@pytest.mark.parametrize("value", ["", " ", "%%%", "AAA", "A===", B64 + ",", "A" * 70_000, "é"])
def test_what_is_not_base64_is_no_signature(value: str) -> None:
    with pytest.raises(HeaderError):
        decode_signature(value)


@given(st.text())
def test_the_signature_reader_is_total(value: str) -> None:
    with contextlib.suppress(HeaderError):
        decode_signature(value)


def test_the_signature_header_of_a_real_device_is_read() -> None:
    path = VECTORS / "mdm-signature" / "header-without-body.b64"
    if not path.exists():
        pytest.skip("the messages of real devices are not here")
    assert decode_signature(path.read_text()).startswith(b"\x30\x80")


def test_the_limits_leave_room_for_what_devices_send() -> None:
    assert headers.MAX_HEADER >= 16_384
