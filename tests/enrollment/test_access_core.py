"""Codes and identifiers as people write them; what a provider says."""

from __future__ import annotations

import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrollment.core import access, provider
from enrollment.core.access import CodeRefused, normal_code, normal_identifier
from enrollment.core.provider import ProviderError

ISSUER = "https://login.example.com"


def test_a_code_is_read_as_people_type_it() -> None:
    code = access.mint_code(secrets.token_bytes)
    assert len(code.replace("-", "")) == access.CODE_LENGTH
    for typed in (
        code,
        code.lower(),
        code.replace("-", " "),
        f"  {code.replace('-', '')}\n",
        f"\u200b{code}",
    ):
        assert normal_code(typed) == code.replace("-", "")
    assert normal_code("o0-Il1") == "00111"


def test_codes_have_sixty_bits_and_differ() -> None:
    assert len(access.ALPHABET) == 32
    assert len({access.mint_code(secrets.token_bytes) for _ in range(500)}) == 500


@pytest.mark.parametrize("chosen", ["", "SHORT12", "AAAAAAAAA", "SUMMER!2026", "x" * 65, "        "])
def test_codes_that_are_easy_to_guess_are_refused(chosen: str) -> None:
    with pytest.raises(CodeRefused):
        access.verify_chosen_code(chosen)


def test_a_chosen_code_is_kept_in_normal_form() -> None:
    assert access.verify_chosen_code("Summer school 2026") == "SUMMERSCH0012026"


@given(st.text(max_size=200))
def test_any_text_is_a_code_that_is_right_or_wrong(text: str) -> None:
    try:
        access.verify_chosen_code(text)
    except CodeRefused:
        return
    assert normal_code(text).isalnum()


@pytest.mark.parametrize(
    "written", ["c02xk1y9jgh5", " C02XK1Y9JGH5 ", "C02X K1Y9 JGH5", "C02XK1Y9JGH5\u200b", "Ｃ02XK1Y9JGH5"]
)
def test_a_serial_number_is_the_same_however_it_is_written(written: str) -> None:
    assert normal_identifier(written) == normal_identifier("C02XK1Y9JGH5")


def test_udids_with_and_without_hyphen_are_the_same() -> None:
    assert normal_identifier("00008030-001A2B3C4D5E802E") == normal_identifier("00008030001a2b3c4d5e802e")


def test_a_list_of_serial_numbers_may_be_pasted() -> None:
    assert access.identifiers("C02A, c02a;\n\n F9-X \r\n") == ["c02a", "f9x"]


DOCUMENT = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/auth",
    "token_endpoint": f"{ISSUER}/token",
    "jwks_uri": f"{ISSUER}/keys",
    "id_token_signing_alg_values_supported": ["none", "HS256", "RS256"],
}


def test_a_discovery_document_is_read() -> None:
    known = provider.decode_metadata(DOCUMENT, issuer=ISSUER)
    assert known.algorithms == ("RS256",)
    assert known.client_authentication == "client_secret_basic"


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "https://evil.example.com"},
        {"issuer": f"{ISSUER}/"},
        {"issuer": None},
        {"id_token_signing_alg_values_supported": ["none", "HS256"]},
        {"id_token_signing_alg_values_supported": "RS256"},
        {"token_endpoint": None},
        {"jwks_uri": "file"},
        {"authorization_endpoint": ["https://x"]},
    ],
)
def test_a_discovery_document_that_will_not_do(change: dict[str, object]) -> None:
    with pytest.raises(ProviderError):
        provider.decode_metadata({**DOCUMENT, **change}, issuer=ISSUER)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda v: st.lists(v) | st.dictionaries(st.text(), v),
    )
)
def test_any_document_is_read_or_refused(document: object) -> None:
    with pytest.raises(ProviderError):
        provider.decode_metadata(document, issuer=ISSUER)


def test_who_it_is_has_one_line() -> None:
    claims = provider.decode_claims(
        {"sub": "7", "email": " anna\n<b>\u202e@example.com ", "groups": ["staff", 5, ""]},
        groups_claim="groups",
    )
    assert claims.name == "anna <b> @example.com"
    assert claims.groups == {"staff"}
    assert provider.decode_claims({"sub": "7", "email": 5}, groups_claim="").name == "7"
    with pytest.raises(ProviderError):
        provider.decode_claims({"email": "anna@example.com"}, groups_claim="")
