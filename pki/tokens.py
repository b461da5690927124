"""Private keys in a PKCS #11 token: the token signs, the key never leaves it.

A key is a location (:mod:`pki.core.token_uri`) and its public key. :class:`TokenRSAKey` and
:class:`TokenECKey` are private keys to everything that signs: certificates, CRLs, CMS. They do not decrypt;
tokens seldom let them, and the padding check of a token tells too much (threats C8).

The token is spoken to when something is signed, by one thread of the process at a time. A session that broke
is opened anew, once for each signature. A PIN that was refused is not tried again by this process: tokens
lock themselves after a few.

``BRAMLEY_PKCS11_MODULE``: path of the token's library. ``BRAMLEY_PKCS11_PIN`` or ``BRAMLEY_PKCS11_PIN_FILE``:
the user PIN. They are read when they are needed, and never kept in the database.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from pki.core import algorithms, asn1
from pki.core.algorithms import PublicKey
from pki.core.certificates import load_public_key
from pki.core.token_uri import TokenUri, decode_token_uri

Answer = TypeVar("Answer")

# By their ECParameters, DER of the curve's object identifier.
_CURVES: Mapping[bytes, ec.EllipticCurve] = {
    asn1.encode_oid("1.2.840.10045.3.1.7"): ec.SECP256R1(),
    asn1.encode_oid("1.3.132.0.34"): ec.SECP384R1(),
}
_PKCS1 = padding.PKCS1v15()
_NOT_INSTALLED = "python-pkcs11 is not installed: pip install --require-hashes -r requirements-pkcs11.txt"


class TokenUnavailable(Exception):
    """The token does not do it now; ``reason`` says why, for the administrator. It may well do it later."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


# --- Keys ------------------------------------------------------------------------------------------------


class TokenRSAKey(rsa.RSAPrivateKey):
    """An RSA private key in a token, as ``cryptography`` wants one: signs with PKCS #1 v1.5."""

    def __init__(self, location: TokenUri, public_key: rsa.RSAPublicKey) -> None:
        self.location = location
        self._public_key = public_key

    def __repr__(self) -> str:
        return f"<TokenRSAKey {self.location}>"

    def public_key(self) -> rsa.RSAPublicKey:
        return self._public_key

    @property
    def key_size(self) -> int:
        return self._public_key.key_size

    def sign(
        self,
        data: bytes,
        padding: Any,
        algorithm: utils.Prehashed | hashes.HashAlgorithm | utils.NoDigestInfo,
    ) -> bytes:
        """PKCS #1 v1.5 (RFC 8017 section 8.2). Raises :class:`TokenUnavailable`.

        The digest is made here: a CRL of megabytes does not go through the token.
        """
        if not isinstance(padding, type(_PKCS1)):
            raise ValueError("keys in a token sign with PKCS #1 v1.5")
        digest, name = _digest(data, algorithm)
        info = asn1.encode_sequence(
            algorithms.encode_algorithm(algorithms.DIGEST_OIDS[name], asn1.encode_null()),
            asn1.encode_octets(digest),
        )
        signature = _sign(self.location, "RSA_PKCS", info)
        with _verified(self.location):
            self._public_key.verify(signature, digest, _PKCS1, utils.Prehashed(algorithms.HASHES[name]))
        return signature

    def decrypt(self, ciphertext: bytes, padding: Any) -> NoReturn:
        raise ValueError("keys in a token only sign")

    def private_numbers(self) -> NoReturn:
        _refuse_export()

    def private_bytes(self, encoding: Any, format: Any, encryption_algorithm: Any) -> NoReturn:
        _refuse_export()

    def __copy__(self) -> TokenRSAKey:
        return self

    def __deepcopy__(self, memo: Any) -> TokenRSAKey:
        return self


class TokenECKey(ec.EllipticCurvePrivateKey):
    """A P-256 or P-384 private key in a token, as ``cryptography`` wants one: signs with ECDSA."""

    def __init__(self, location: TokenUri, public_key: ec.EllipticCurvePublicKey) -> None:
        self.location = location
        self._public_key = public_key

    def __repr__(self) -> str:
        return f"<TokenECKey {self.location}>"

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._public_key

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._public_key.curve

    @property
    def key_size(self) -> int:
        return self._public_key.key_size

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """ECDSA, DER of Ecdsa-Sig-Value (RFC 3279 section 2.2.3). Raises :class:`TokenUnavailable`."""
        digest, name = _digest(bytes(data), signature_algorithm.algorithm)
        raw = _sign(self.location, "ECDSA", digest)
        half = len(raw) // 2
        signature = utils.encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))
        with _verified(self.location):
            algorithm = ec.ECDSA(utils.Prehashed(algorithms.HASHES[name]))
            self._public_key.verify(signature, digest, algorithm)
        return signature

    def exchange(self, algorithm: Any, peer_public_key: Any) -> NoReturn:
        raise ValueError("keys in a token only sign")

    def private_numbers(self) -> NoReturn:
        _refuse_export()

    def private_bytes(self, encoding: Any, format: Any, encryption_algorithm: Any) -> NoReturn:
        _refuse_export()

    def __copy__(self) -> TokenECKey:
        return self

    def __deepcopy__(self, memo: Any) -> TokenECKey:
        return self


TokenKey = TokenRSAKey | TokenECKey


def _refuse_export() -> NoReturn:
    raise ValueError("a key in a token cannot be read out")


def _digest(data: bytes, algorithm: object) -> tuple[bytes, str]:
    """The digest of what is to be signed, and its name."""
    if isinstance(algorithm, utils.Prehashed):
        return bytes(data), algorithm._algorithm.name
    if not isinstance(algorithm, hashes.HashAlgorithm) or algorithm.name not in algorithms.DIGEST_OIDS:
        raise ValueError("keys in a token sign SHA-2 digests")
    return hashlib.new(algorithm.name, data).digest(), algorithm.name


@contextmanager
def _verified(location: TokenUri) -> Iterator[None]:
    """What a token gives is checked before anybody relies on it: it may hold another key of that name."""
    try:
        yield
    except InvalidSignature:
        raise TokenUnavailable(f"the key at {location} in the token is not the one on record") from None


# --- Finding and making keys -----------------------------------------------------------------------------


def token_key(location: str, public_key: bytes) -> TokenKey:
    """The private key at ``location`` whose SubjectPublicKeyInfo (DER) is on record. Asks no token."""
    return _as_key(decode_token_uri(location), load_public_key(public_key))


def find_key(location: TokenUri) -> TokenKey | None:
    """The key that is at ``location`` now, None where there is none. Raises :class:`TokenUnavailable`."""

    def find(session: Any) -> TokenKey | None:
        found = _find(session, location, private=False)
        if found is not None:
            return _as_key(location, _read_public_key(found, location))
        if _find(session, location, private=True) is not None:
            raise TokenUnavailable(f"the token holds no public key beside the private one at {location}")
        return None

    return _ask(location, find, anew=True)


def make_key(location: TokenUri, algorithm: str) -> TokenKey:
    """Make a key in the token: it signs, and cannot be read out. ``algorithm`` as in :mod:`pki.keys`.

    Raises :class:`TokenUnavailable`.
    """
    _ask(location, lambda session: _generate(session, location, algorithm), anew=True, writing=True)
    key = find_key(location)
    if key is None:
        raise TokenUnavailable(f"the token made no key at {location}")
    return key


def _generate(session: Any, location: TokenUri, algorithm: str) -> None:
    import pkcs11
    from pkcs11.util.ec import encode_named_curve_parameters

    kind, _, size = algorithm.partition("-")
    wanted: dict[str, Any] = {
        "store": True,
        "label": location.label,
        "id": location.identifier or hashlib.sha256(str(location).encode()).digest()[:8],
        "capabilities": pkcs11.MechanismFlag.SIGN | pkcs11.MechanismFlag.VERIFY,
        "private_template": {pkcs11.Attribute.SENSITIVE: True, pkcs11.Attribute.EXTRACTABLE: False},
    }
    if kind == "RSA":
        session.generate_keypair(pkcs11.KeyType.RSA, int(size), **wanted)
        return
    curve = encode_named_curve_parameters({"P256": "secp256r1", "P384": "secp384r1"}[size])
    parameters = {pkcs11.Attribute.EC_PARAMS: curve}
    session.create_domain_parameters(pkcs11.KeyType.EC, parameters, local=True).generate_keypair(**wanted)


def _find(session: Any, location: TokenUri, *, private: bool) -> Any:
    """The one object at ``location``, None where there is none."""
    import pkcs11

    kind = pkcs11.ObjectClass.PRIVATE_KEY if private else pkcs11.ObjectClass.PUBLIC_KEY
    try:
        return session.get_key(object_class=kind, label=location.label, id=location.identifier)
    except pkcs11.NoSuchKey:
        return None
    except pkcs11.MultipleObjectsReturned:
        raise TokenUnavailable(f"the token holds several keys at {location}: name one by its id") from None


def _as_key(location: TokenUri, public_key: object) -> TokenKey:
    if isinstance(public_key, rsa.RSAPublicKey):
        return TokenRSAKey(location, public_key)
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return TokenECKey(location, public_key)
    raise TokenUnavailable(f"the key at {location} is neither RSA nor EC")


def _read_public_key(found: Any, location: TokenUri) -> PublicKey:
    import pkcs11

    if found.key_type is pkcs11.KeyType.RSA:
        modulus, exponent = found[pkcs11.Attribute.MODULUS], found[pkcs11.Attribute.PUBLIC_EXPONENT]
        return rsa.RSAPublicNumbers(int.from_bytes(exponent), int.from_bytes(modulus)).public_key()
    if found.key_type is pkcs11.KeyType.EC:
        curve = _CURVES.get(bytes(found[pkcs11.Attribute.EC_PARAMS]))
        if curve is not None:
            return ec.EllipticCurvePublicKey.from_encoded_point(
                curve, _bare_point(bytes(found[pkcs11.Attribute.EC_POINT]), curve)
            )
    raise TokenUnavailable(f"the key at {location} is neither RSA nor on a curve that is used here")


def _bare_point(point: bytes, curve: ec.EllipticCurve) -> bytes:
    """Most tokens wrap the point in an OCTET STRING, whose tag is also the octet that a point begins with."""
    return point if len(point) == 1 + curve.key_size // 4 else asn1.decode_octets(asn1.read(point))


# --- Sessions --------------------------------------------------------------------------------------------

_lock = threading.RLock()
_sessions: dict[tuple[str | None, str | None], Any] = {}
_opened_by = 0
_refused_pins: set[tuple[str, bytes]] = set()


def forget_sessions() -> None:
    """Close what is open, and try refused PINs again: as after a restart."""
    with _lock:
        _close_sessions()
        _refused_pins.clear()


def _sign(location: TokenUri, mechanism: str, data: bytes) -> bytes:
    import pkcs11

    def sign(session: Any) -> bytes:
        key = _find(session, location, private=True)
        if key is None:
            raise pkcs11.NoSuchKey(f"there is no private key at {location}")
        return bytes(key.sign(data, mechanism=pkcs11.Mechanism[mechanism]))

    return _ask(location, sign)


def _ask(
    location: TokenUri, action: Callable[[Any], Answer], *, anew: bool = False, writing: bool = False
) -> Answer:
    """Do something in a session that is logged in. Whatever fails is :class:`TokenUnavailable`.

    A session of before may have died with its token or its network, or know nothing of what is there now:
    then once more in a new one. ``anew``: in a new one at once. ``writing``: in one that may make keys.
    """
    with _lock:
        if anew:
            _start_anew()
        repeat = bool(_sessions)
        while True:
            library = _library()
            try:
                return action(_session(library, location, writing))
            except _pkcs11_error() as error:
                _start_anew()
                if not repeat:
                    name = location.token or location.serial
                    raise TokenUnavailable(f"the token {name} failed: {_words(error)}") from None
                repeat = False
            finally:
                if writing:
                    _close_sessions()


def _library() -> Any:
    """The token's library, loaded once for each process."""
    path = os.environ.get("BRAMLEY_PKCS11_MODULE", "")
    if not path:
        raise TokenUnavailable("BRAMLEY_PKCS11_MODULE does not name the library of the token")
    try:
        import pkcs11
    except ImportError:
        raise TokenUnavailable(_NOT_INSTALLED) from None
    try:
        return pkcs11.lib(path)
    except (pkcs11.PKCS11Error, OSError, RuntimeError) as error:
        raise TokenUnavailable(f"the library {path} does not start: {_words(error)}") from None


def _pkcs11_error() -> type[Exception]:
    import pkcs11

    return pkcs11.PKCS11Error


def _session(library: Any, location: TokenUri, writing: bool) -> Any:
    global _opened_by  # noqa: PLW0603
    if _opened_by != os.getpid():
        # After a fork the library, and what it has open, are the parent's.
        _sessions.clear()
        if _opened_by:
            library.reinitialize()
        _opened_by = os.getpid()
    name = (location.token, location.serial)
    if name not in _sessions:
        _sessions[name] = _log_in(library, location, writing)
    return _sessions[name]


def _log_in(library: Any, location: TokenUri, writing: bool) -> Any:
    import pkcs11

    pin = _pin()
    refused = (f"{location.token};{location.serial}", hashlib.sha256(pin.encode()).digest())
    if refused in _refused_pins:
        raise TokenUnavailable("the token refused the PIN; it is tried again after a change or a restart")
    serial = location.serial.encode() if location.serial else None
    tokens = list(library.get_tokens(token_label=location.token, token_serial=serial))
    if len(tokens) != 1:
        found = "several tokens" if tokens else "no token"
        raise TokenUnavailable(f"there is {found} {location.token or location.serial}")
    try:
        return tokens[0].open(rw=writing, user_pin=pin)
    except (pkcs11.PinIncorrect, pkcs11.PinLenRange, pkcs11.PinInvalid):
        _refused_pins.add(refused)
        raise TokenUnavailable("the token refused the PIN") from None
    except pkcs11.PinLocked:
        raise TokenUnavailable("the token's PIN is locked") from None


def _pin() -> str:
    if pin := os.environ.get("BRAMLEY_PKCS11_PIN"):
        return pin
    path = os.environ.get("BRAMLEY_PKCS11_PIN_FILE")
    if not path:
        raise TokenUnavailable("neither BRAMLEY_PKCS11_PIN nor BRAMLEY_PKCS11_PIN_FILE is set")
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError):
        raise TokenUnavailable("the file that BRAMLEY_PKCS11_PIN_FILE names cannot be read") from None


def _close_sessions() -> None:
    for session in _sessions.values():
        with contextlib.suppress(_pkcs11_error()):
            session.close()
    _sessions.clear()


def _start_anew() -> None:
    """Let the library look anew at what there is, as after a start."""
    library = _library()
    _close_sessions()
    with contextlib.suppress(_pkcs11_error()):
        library.finalize()


def _words(error: Exception) -> str:
    return f"{type(error).__name__} {error}".rstrip()
