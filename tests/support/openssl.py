"""openssl as an independent judge of what the product signs, encrypts and issues."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pki.core.certificates import encode_pem


@dataclass(frozen=True)
class Openssl:
    """Runs in a folder of its own, where its files are. ``at``: the moment that it judges; None: now."""

    folder: Path
    at: datetime | None = None

    @property
    def _time(self) -> list[str]:
        return ["-attime", str(int(self.at.timestamp()))] if self.at else []

    def run(self, *arguments: str, content: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["openssl", *arguments], cwd=self.folder, input=content, capture_output=True, check=False
        )

    def made(self, *arguments: str, content: bytes = b"") -> bytes:
        """What it prints. It has to succeed."""
        done = self.run(*arguments, content=content)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def write(self, name: str, *certificates: bytes) -> str:
        """Certificates (DER) as a PEM file; returns its name."""
        (self.folder / name).write_text("".join(encode_pem(der) for der in certificates))
        return name

    def write_key(self, name: str, key: Any) -> str:
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (self.folder / name).write_bytes(pem)
        return name

    def validates(
        self,
        certificate: bytes,
        anchors: Sequence[bytes],
        untrusted: Sequence[bytes] = (),
    ) -> bool:
        """Whether a relying party that knows ``anchors`` and was sent ``untrusted`` believes it."""
        arguments = ["-CAfile", self.write("anchors.pem", *anchors)]
        if untrusted:
            arguments += ["-untrusted", self.write("untrusted.pem", *untrusted)]
        done = self.run("verify", *self._time, *arguments, self.write("subject.pem", certificate))
        assert done.returncode == 0 or b"error " in done.stderr, done.stderr
        return done.returncode == 0

    def opens_signature(self, message: bytes, *anchors: bytes) -> bytes | None:
        """The signed content, where the signature is right and leads to one of ``anchors``.

        Without anchors: where the signature is right, whoever made it.
        """
        trust = ["-CAfile", self.write("anchors.pem", *anchors)] if anchors else ["-noverify"]
        done = self.run(
            *("cms", "-verify", "-inform", "DER", "-binary", "-purpose", "any", *self._time, *trust),
            content=message,
        )
        return done.stdout if done.returncode == 0 else None

    def signer(self, message: bytes) -> str:
        """The certificate that signed, as a PEM file."""
        self.made(
            *("cms", "-verify", "-inform", "DER", "-binary", "-noverify", "-signer", "signer.pem"),
            content=message,
        )
        return "signer.pem"

    def decrypts(self, envelope: bytes, certificate: bytes, key: Any) -> bytes | None:
        """What was encrypted to the certificate, where the key opens it."""
        recipient, key_file = self.write("recipient.pem", certificate), self.write_key("recipient.key", key)
        done = self.run(
            *("cms", "-decrypt", "-inform", "DER", "-binary", "-recip", recipient, "-inkey", key_file),
            content=envelope,
        )
        return done.stdout if done.returncode == 0 else None

    def says(self, certificate_file: str, what: str) -> str:
        """One line about a certificate: ``-subject``, ``-issuer``, ``-pubkey``…"""
        return self.made("x509", "-in", certificate_file, "-noout", what).decode().strip()
