"""Who gets a certificate: the whole table."""

from __future__ import annotations

import itertools

import pytest

from scep.core.attributes import FailInfo, Header, MessageType
from scep.core.decision import (
    Barred,
    ChallengeStanding,
    Ground,
    Holder,
    Refusal,
    Signer,
    Stranger,
    decide,
    message_type_of,
)

STRANGER, HOLDER, BARRED = Stranger(), Holder(), Barred("revoked")
SIGNERS: tuple[Signer, ...] = (STRANGER, HOLDER, BARRED)
PKCS, RENEWAL = MessageType.PKCS_REQ, MessageType.RENEWAL_REQ

# Everything that is not here is refused.
GRANTED: dict[tuple[MessageType, ChallengeStanding, Signer], Ground] = {
    (PKCS, ChallengeStanding.LIVE, STRANGER): Ground.CHALLENGE,
    (PKCS, ChallengeStanding.LIVE, HOLDER): Ground.CHALLENGE,
    (PKCS, ChallengeStanding.LIVE, BARRED): Ground.CHALLENGE,
    (PKCS, ChallengeStanding.USED, STRANGER): Ground.CHALLENGE_AGAIN,
    (PKCS, ChallengeStanding.USED, BARRED): Ground.CHALLENGE_AGAIN,
    (PKCS, ChallengeStanding.ABSENT, HOLDER): Ground.RENEWAL,
    (PKCS, ChallengeStanding.UNKNOWN, HOLDER): Ground.RENEWAL,
    (PKCS, ChallengeStanding.FOREIGN, HOLDER): Ground.RENEWAL,
    (PKCS, ChallengeStanding.EXPIRED, HOLDER): Ground.RENEWAL,
    (PKCS, ChallengeStanding.USED, HOLDER): Ground.RENEWAL,
    (RENEWAL, ChallengeStanding.ABSENT, HOLDER): Ground.RENEWAL,
    (RENEWAL, ChallengeStanding.UNKNOWN, HOLDER): Ground.RENEWAL,
    (RENEWAL, ChallengeStanding.FOREIGN, HOLDER): Ground.RENEWAL,
    (RENEWAL, ChallengeStanding.EXPIRED, HOLDER): Ground.RENEWAL,
    (RENEWAL, ChallengeStanding.USED, HOLDER): Ground.RENEWAL,
    (RENEWAL, ChallengeStanding.LIVE, HOLDER): Ground.RENEWAL,
}


@pytest.mark.parametrize(
    ("message_type", "challenge", "signer"), list(itertools.product(MessageType, ChallengeStanding, SIGNERS))
)
def test_the_table(message_type: MessageType, challenge: ChallengeStanding, signer: Signer) -> None:
    decided = decide(message_type, challenge, signer)
    expected = GRANTED.get((message_type, challenge, signer))
    if expected is not None:
        assert decided is expected
    else:
        assert isinstance(decided, Refusal)
        assert decided.fail_info is FailInfo.BAD_REQUEST
        assert decided.reason


@pytest.mark.parametrize("written", ["17", "19"])
def test_the_two_types_that_ask_for_a_certificate_pass(written: str) -> None:
    assert message_type_of(Header("id", written, b"nonce")) == MessageType(written)


OTHERS = "0 1 2 3 4 16 18 20 21 22 23 99 -1 019 +19 19.0 0x13 １９ PKCSReq"


@pytest.mark.parametrize("written", [*OTHERS.split(), "19 ", " 19", "", "\0"])
def test_no_other_type_passes(written: str) -> None:
    refused = message_type_of(Header("id", written, b"nonce"))
    assert isinstance(refused, Refusal)
    assert refused.fail_info is FailInfo.BAD_REQUEST


def test_faults_of_the_header_are_refused_first() -> None:
    refused = message_type_of(Header("id", "19", b"", ("senderNonce is missing",)))
    assert refused == Refusal(FailInfo.BAD_REQUEST, "senderNonce is missing")
