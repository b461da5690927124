"""The roots that devices come with, as near as it can be said here: Mozilla's, from the package certifi.

Apple's store is not to be had as a file; the two agree on nearly every public CA. The trust store of this
machine is left out on purpose: a private root that was added there is none that devices have.
"""

from __future__ import annotations

import re
import ssl
from functools import lru_cache
from pathlib import Path

import certifi

from pki.core.server_trust import Roots

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


@lru_cache(maxsize=1)
def public_roots() -> Roots:
    """Read once. None is parsed before it is wanted: some are older than today's rules for certificates."""
    pem = Path(certifi.where()).read_text(encoding="utf-8")
    return Roots(ssl.PEM_cert_to_DER_cert(block) for block in _PEM.findall(pem))
