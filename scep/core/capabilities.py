"""GetCACaps: what this server can do, and what a client takes of it (RFC 8894 section 3.5)."""

from __future__ import annotations

from dataclasses import dataclass

CONTENT_TYPE = "text/plain"

# Only what is enforced. SHA-1 is understood where an old client uses it, but nobody is invited to. SHA-384
# is not a keyword of the RFC; it is accepted, clients ignore keywords that they do not know, and strongSwan
# 5.9 sees "AES" only in a list that also holds it.
KEYWORDS = (
    "AES",
    "DES3",
    "POSTPKIOperation",
    "Renewal",
    "SHA-256",
    "SHA-384",
    "SHA-512",
    "SCEPStandard",
)


def encode_capabilities() -> bytes:
    """One keyword a line, LF only: Apple's clients compare whole lines."""
    return "".join(f"{keyword}\n" for keyword in KEYWORDS).encode("ascii")


@dataclass(frozen=True)
class Capabilities:
    """What a client found out about its server."""

    keywords: frozenset[str]

    @property
    def by_post(self) -> bool:
        """Whether PKIOperation may be sent by POST."""
        return bool(self.keywords & {"POSTPKIOperation", "SCEPStandard"})

    @property
    def cipher(self) -> str:
        """The content cipher to use, as :mod:`pki.core.cms` names it."""
        return "aes128_cbc" if self.keywords & {"AES", "SCEPStandard"} else "des_ede3_cbc"

    @property
    def digest(self) -> str:
        """The digest to use; 512 before 256, as Apple's clients do."""
        if "SHA-512" in self.keywords:
            return "sha512"
        return "sha256"


def decode_capabilities(body: bytes) -> Capabilities:
    """Read the answer to GetCACaps; unknown lines are ignored. Never raises."""
    lines = body[:10_000].decode("ascii", "replace").splitlines()
    return Capabilities(frozenset(line.strip() for line in lines if line.strip()))
