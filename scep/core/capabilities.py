"""GetCACaps: what a service can do, and what a client takes of it (RFC 8894 section 3.5)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

CONTENT_TYPE = "text/plain"

# What a service may allow; each is enforced as it is advertised. SHA-1 is not among them: it is understood
# where an old client uses it, but nobody is invited to. SHA-384 is not a keyword of the RFC; clients ignore
# keywords that they do not know, and strongSwan 5.9 sees "AES" only in a list that also holds it.
KEYWORDS = (
    "AES",
    "DES3",
    "GetNextCACert",
    "POSTPKIOperation",
    "Renewal",
    "SHA-256",
    "SHA-384",
    "SHA-512",
)
# Implies AES, POST and SHA-256 (section 3.5.2), so it is said where all three are allowed.
STANDARD = "SCEPStandard"
_STANDARD_NEEDS = frozenset({"AES", "POSTPKIOperation", "SHA-256"})

_CIPHERS = {"AES": ("aes128_cbc", "aes256_cbc"), "DES3": ("des_ede3_cbc",)}
_DIGESTS = {"SHA-256": "sha256", "SHA-384": "sha384", "SHA-512": "sha512"}


def advertised(allowed: Collection[str] = KEYWORDS, *, next_ca: bool = False) -> tuple[str, ...]:
    """The lines of the answer. GetNextCACert is said only while there is a next CA certificate."""
    keywords = [
        keyword for keyword in KEYWORDS if keyword in allowed and (next_ca or keyword != "GetNextCACert")
    ]
    if allowed and set(allowed) >= _STANDARD_NEEDS:
        keywords.append(STANDARD)
    return tuple(keywords)


def encode_capabilities(keywords: Collection[str] | None = None) -> bytes:
    """One keyword a line, LF only: Apple's clients compare whole lines."""
    keywords = advertised() if keywords is None else keywords
    return "".join(f"{keyword}\n" for keyword in keywords).encode("ascii")


def ciphers(allowed: Collection[str]) -> frozenset[str]:
    """The content ciphers that requests may use, as :mod:`pki.core.cms` names them."""
    return _ciphers(frozenset(allowed))


@lru_cache(maxsize=64)
def _ciphers(allowed: frozenset[str]) -> frozenset[str]:
    return frozenset(cipher for keyword, names in _CIPHERS.items() if keyword in allowed for cipher in names)


def digests(allowed: Collection[str], *, sha1: bool) -> frozenset[str]:
    """The digests that requests may be signed with, as :mod:`pki.core.cms` names them."""
    return _digests(frozenset(allowed), sha1)


@lru_cache(maxsize=64)
def _digests(allowed: frozenset[str], sha1: bool) -> frozenset[str]:
    named = {digest for keyword, digest in _DIGESTS.items() if keyword in allowed}
    return frozenset(named | ({"sha1"} if sha1 else set()))


@dataclass(frozen=True)
class Capabilities:
    """What a client found out about its server."""

    keywords: frozenset[str]

    @property
    def by_post(self) -> bool:
        """Whether PKIOperation may be sent by POST."""
        return bool(self.keywords & {"POSTPKIOperation", STANDARD})

    @property
    def cipher(self) -> str:
        """The content cipher to use, as :mod:`pki.core.cms` names it."""
        return "aes128_cbc" if self.keywords & {"AES", STANDARD} else "des_ede3_cbc"

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
