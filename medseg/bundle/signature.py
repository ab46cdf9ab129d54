"""Who stands for a file: Ed25519 signatures, by keys that ``ssh-keygen`` or ``openssl`` make.

``ssh-keygen -t ed25519`` (no passphrase) or ``openssl genpkey -algorithm ed25519`` make a private key. A signature is
the 64 bytes of RFC 8032 over the signed file's bytes, so that ``openssl pkeyutl -verify -rawin`` verifies it too.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medseg.errors import MedsegError, shown

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["LENGTH", "SignatureError", "sign", "verify"]

LENGTH = 64
"""Bytes of a signature."""


class SignatureError(MedsegError):
    """A key that cannot be used, or a signature that is not of it."""


def sign(content: bytes, key: str | Path) -> bytes:
    """Return the signature of bytes.

    Args:
        content: what is signed.
        key: file of an Ed25519 private key without a passphrase, in PEM or OpenSSH's format.

    Raises:
        SignatureError: if the key cannot be used.
    """
    return _private(Path(key)).sign(content)


def verify(content: bytes, signature: bytes | None, key: str | Path, what: object) -> None:
    """Check that bytes are signed by a key.

    Args:
        content: what is signed.
        signature: as `sign` gives it; ``None`` where there is none.
        key: file of an Ed25519 public key, in PEM or OpenSSH's format.
        what: is signed, for the message.

    Raises:
        SignatureError: if there is no signature, or it is not of this key over these bytes.
    """
    from cryptography.exceptions import InvalidSignature

    public = _public(Path(key))
    if signature is None:
        raise SignatureError(f"{shown(what)} is not signed; ask its author for a signed one, or leave the key out")
    try:
        public.verify(signature, content)
    except InvalidSignature as error:
        raise SignatureError(
            f"{shown(what)} is not signed by {shown(key)}: it is another's, or was changed; do not use it"
        ) from error


def _private(path: Path) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    content = _read(path)
    ssh = b"OPENSSH PRIVATE KEY" in content
    load = serialization.load_ssh_private_key if ssh else serialization.load_pem_private_key
    try:
        key = load(content, password=None)
    except (ValueError, TypeError) as error:
        raise SignatureError(f"{shown(path)} is no private key that can be read ({_reason(error)}); {_MAKE}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SignatureError(f"{shown(path)} is no Ed25519 key; {_MAKE}")
    return key


def _public(path: Path) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    content = _read(path)
    ssh = content.lstrip().startswith(b"ssh-")
    try:
        key = serialization.load_ssh_public_key(content) if ssh else serialization.load_pem_public_key(content)
    except ValueError as error:
        raise SignatureError(f"{shown(path)} is no public key that can be read ({_reason(error)}); {_MAKE}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise SignatureError(f"{shown(path)} is no Ed25519 key; {_MAKE}")
    return key


_MAKE = "make a pair with ssh-keygen -t ed25519 -N '' -f KEY, and give KEY to sign, KEY.pub to verify"


def _read(path: Path) -> bytes:
    try:
        return path.expanduser().read_bytes()
    except OSError as error:
        raise SignatureError(f"key {shown(path)} cannot be read ({error.strerror}); name the key's file") from error


def _reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:100]
