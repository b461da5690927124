"""Who gets a certificate: the whole table, for every service that can be set up."""

from __future__ import annotations

import itertools

import pytest

from scep.core.attributes import FailInfo, Header, MessageType
from scep.core.decision import (
    Approval,
    Barred,
    ChallengeMode,
    ChallengeStanding,
    Ground,
    Holder,
    Refusal,
    Rules,
    RulesRefused,
    Signer,
    Stranger,
    decide,
    message_type_of,
)

STRANGER, HOLDER, BARRED = Stranger(), Holder(), Barred("revoked")
SIGNERS: tuple[Signer, ...] = (STRANGER, HOLDER, BARRED)
PKCS, RENEWAL = MessageType.PKCS_REQ, MessageType.RENEWAL_REQ
S = ChallengeStanding

Key = tuple[MessageType, ChallengeStanding, Signer]

# Everything that is not here is refused. What a renewal gets it gets at every service that allows renewal.
RENEWED: dict[Key, Ground] = {
    **{(RENEWAL, standing, HOLDER): Ground.RENEWAL for standing in S if standing is not S.SEVERAL},
    **{(PKCS, standing, HOLDER): Ground.RENEWAL for standing in S if standing not in {S.SEVERAL, S.LIVE}},
    # What is live elsewhere than at a service with challenges of our own does not occur.
    (PKCS, S.LIVE, HOLDER): Ground.RENEWAL,
}
BOUND: dict[Key, Ground] = {
    (PKCS, S.USED, STRANGER): Ground.CHALLENGE_AGAIN,
    (PKCS, S.USED, BARRED): Ground.CHALLENGE_AGAIN,
}


def live(ground: Ground) -> dict[Key, Ground]:
    return {(PKCS, S.LIVE, signer): ground for signer in SIGNERS}


def from_others(*standings: ChallengeStanding, ground: Ground) -> dict[Key, Ground]:
    return {(PKCS, standing, signer): ground for standing in standings for signer in (STRANGER, BARRED)}


NOT_SEVERAL = tuple(standing for standing in S if standing is not S.SEVERAL)
TABLES: dict[tuple[ChallengeMode, Approval], dict[Key, Ground]] = {
    (ChallengeMode.BOUND, Approval.NEVER): {**BOUND, **live(Ground.CHALLENGE)},
    (ChallengeMode.BOUND, Approval.WITHOUT_CHALLENGE): {
        **BOUND,
        **live(Ground.CHALLENGE),
        **from_others(S.ABSENT, ground=Ground.APPROVAL),
    },
    (ChallengeMode.BOUND, Approval.ALWAYS): {**BOUND, **live(Ground.CHALLENGE_AND_APPROVAL)},
    (ChallengeMode.WEBHOOK, Approval.NEVER): from_others(S.PRESENTED, ground=Ground.WEBHOOK),
    (ChallengeMode.WEBHOOK, Approval.WITHOUT_CHALLENGE): {
        **from_others(S.PRESENTED, ground=Ground.WEBHOOK),
        **from_others(S.ABSENT, ground=Ground.APPROVAL),
    },
    (ChallengeMode.WEBHOOK, Approval.ALWAYS): from_others(S.PRESENTED, ground=Ground.WEBHOOK_AND_APPROVAL),
    (ChallengeMode.NONE, Approval.ALWAYS): from_others(*NOT_SEVERAL, ground=Ground.APPROVAL),
}


@pytest.mark.parametrize(("mode", "approval"), list(TABLES))
@pytest.mark.parametrize("renewal", [True, False])
def test_the_table(mode: ChallengeMode, approval: Approval, renewal: bool) -> None:
    rules = Rules(mode, approval, renewal)
    table = {**(RENEWED if renewal else {}), **TABLES[mode, approval]}
    if not renewal and mode is not ChallengeMode.BOUND:
        # Who holds a certificate is then a stranger like all others.
        table.update(
            {
                (kind, standing, HOLDER): ground
                for (kind, standing, who), ground in table.items()
                if who is STRANGER
            }
        )
    elif not renewal:
        table.update(
            {
                (kind, standing, HOLDER): ground
                for (kind, standing, who), ground in table.items()
                if who is STRANGER and standing is not S.LIVE
            }
        )
    for key in itertools.product(MessageType, ChallengeStanding, SIGNERS):
        decided = decide(*key, rules)
        expected = table.get(key)
        if expected is not None:
            assert decided is expected, key
        else:
            assert isinstance(decided, Refusal), key
            assert decided.fail_info is FailInfo.BAD_REQUEST
            assert decided.reason


@pytest.mark.parametrize("approval", [Approval.NEVER, Approval.WITHOUT_CHALLENGE])
def test_an_open_door_is_no_set_of_rules(approval: Approval) -> None:
    with pytest.raises(RulesRefused, match="every request needs approval"):
        Rules(ChallengeMode.NONE, approval)


def test_no_type_but_two_ever_gets_a_ground() -> None:
    """Whatever a service allows: CertPoll, GetCert, GetCRL and CertRep ask for no certificate."""
    others = [kind for kind in MessageType if kind not in {PKCS, RENEWAL}]
    for (mode, approval), kind, standing, signer in itertools.product(TABLES, others, S, SIGNERS):
        assert isinstance(decide(kind, standing, signer, Rules(mode, approval)), Refusal)


@pytest.mark.parametrize("signer", SIGNERS)
def test_without_renewal_nobody_renews(signer: Signer) -> None:
    for standing in S:
        refused = decide(RENEWAL, standing, signer, Rules(renewal=False))
        assert isinstance(refused, Refusal)
    refused = decide(PKCS, S.ABSENT, HOLDER, Rules(renewal=False))
    assert isinstance(refused, Refusal)
    assert "renewal is turned off" in refused.reason


@pytest.mark.parametrize("written", ["17", "19", "20", "21", "22"])
def test_the_five_requests_pass(written: str) -> None:
    assert message_type_of(Header("id", written, b"nonce")) == MessageType(written)


OTHERS = "0 1 2 3 4 16 18 23 99 -1 019 +19 19.0 0x13 １９ PKCSReq"


@pytest.mark.parametrize("written", [*OTHERS.split(), "19 ", " 19", "", "\0"])
def test_no_other_type_passes(written: str) -> None:
    refused = message_type_of(Header("id", written, b"nonce"))
    assert isinstance(refused, Refusal)
    assert refused.fail_info is FailInfo.BAD_REQUEST


def test_faults_of_the_header_are_refused_first() -> None:
    refused = message_type_of(Header("id", "19", b"", ("senderNonce is missing",)))
    assert refused == Refusal(FailInfo.BAD_REQUEST, "senderNonce is missing")
