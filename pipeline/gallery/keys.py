"""The gallery's secrets: keys that seal what lies at rest, and the key that signs receipts and the audit log."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NoReturn

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from pipeline.gallery.errors import GalleryError

FILE_VARIABLE, JSON_VARIABLE = "OMOTE_GALLERY_KEYS_FILE", "OMOTE_GALLERY_KEYS"
# What is sealed is: version (1 byte), key id (4), nonce (12), ciphertext, tag (16).
VERSION = b"\x01"
ID_BYTES, NONCE_BYTES, TAG_BYTES, KEY_BYTES = 4, 12, 16, 32
HEADER_BYTES = len(VERSION) + ID_BYTES + NONCE_BYTES
PSEUDONYM_DIGITS = 24
PERMITTED, PERMITTED_OF_ROOT = 0o700, 0o740  # a Secret that Kubernetes mounts is root's, and read through its group
FILE_BYTES = 1 << 20
NOTHING_SEEN = 0, 0, 0
LOOK_S = 1.0  # how often keys look whether their file was replaced

log = logging.getLogger(__name__)


class KeysError(GalleryError):
    """There are no keys, they cannot be used, or what was sealed does not open with them."""


class KeysFile(BaseModel):
    """The keys as JSON: ``data`` by id and ``signing``, each 32 bytes in base64, and the id that seals from now on."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    format: Literal["omote.keys/1"] = "omote.keys/1"
    current: str
    data: dict[str, SecretStr]
    signing: SecretStr


class Keys:
    """AES-256-GCM keys by id, of which one is current, and an Ed25519 key.

    It tells no secret: not when shown, not in an error, and it cannot be pickled. Safe to use from many threads. Keys
    that were read from a file follow it: within a second of its replacement they seal and open with what is in it now.
    At most 2^32 pieces may be sealed under one data key (NIST SP 800-38D, section 8.3): rotate before.
    """

    __slots__ = (
        "_data",
        "_looked_s",
        "_looking",
        "_naming",
        "_opens",
        "_path",
        "_seals",
        "_seen",
        "_signing",
        "public_key",
    )

    def __init__(self, current: str, data: Mapping[str, bytes], signing: bytes) -> None:
        """Keys of 32 random bytes each.

        Args:
            current: Id of the key that seals from now on.
            data: Keys that open, by id: 8 hexadecimal digits.
            signing: Private key, in RFC 8032's raw form.

        Raises:
            KeysError: An id or a key is of another form, or ``current`` is none of ``data``.
        """
        _check(current, data, signing)
        self._signing = Ed25519PrivateKey.from_private_bytes(signing)
        self._naming = HKDF(hashes.SHA256(), KEY_BYTES, None, b"omote pseudonym").derive(signing)
        self._path: Path | None = None
        self._seen, self._looked_s, self._looking = NOTHING_SEEN, 0.0, threading.Lock()
        self._hold(current, data)
        self.public_key = base64.b64encode(self._signing.public_key().public_bytes_raw()).decode()

    @classmethod
    def new(cls) -> Keys:
        """One new data key and a new signing key."""
        key_id = os.urandom(ID_BYTES).hex()
        return cls(key_id, {key_id: os.urandom(KEY_BYTES)}, os.urandom(KEY_BYTES))

    @classmethod
    def from_environment(cls) -> Keys:
        """The keys in the file that ``OMOTE_GALLERY_KEYS_FILE`` names, else the JSON in ``OMOTE_GALLERY_KEYS``.

        Raises:
            KeysError: Neither is set, or what is there are no keys, or others may read the file.
        """
        if file := os.environ.get(FILE_VARIABLE):
            return cls.read(Path(file))
        if text := os.environ.get(JSON_VARIABLE):
            return _parsed(SecretStr(text), f"the variable {JSON_VARIABLE}")
        message = f"the gallery has no keys: make them with `omote gallery keys new FILE` and set {FILE_VARIABLE}=FILE"
        raise KeysError(message)

    @staticmethod
    def are_given() -> bool:
        """Whether the environment names keys."""
        return bool(os.environ.get(FILE_VARIABLE) or os.environ.get(JSON_VARIABLE))

    @classmethod
    def read(cls, path: Path) -> Keys:
        """The keys in a file.

        Raises:
            KeysError: It cannot be read, holds no keys, or may be read by others than its owner. A file of root's
                may be read by its group too, for so does Kubernetes mount a Secret.
        """
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                _refuse_open_file(status, path)
                text = SecretStr(file.read(FILE_BYTES).decode())
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            message = f"cannot read the keys file {path}: {reason}; make one with `omote gallery keys new {path}`"
            raise KeysError(message) from None
        keys = _parsed(text, f"the keys file {path}")
        keys._path, keys._seen, keys._looked_s = path, _seen(status), time.monotonic()
        return keys

    def write(self, path: Path) -> None:
        """Write a new file that its owner alone may read.

        Raises:
            KeysError: There is a file of this name, or it cannot be written.
        """
        try:
            self._write(path)
        except FileExistsError as error:
            message = f"there is a file {path} already, and keys are never overwritten; choose another name"
            raise KeysError(message) from error
        except OSError as error:
            message = f"cannot write the keys file {path}: {error.strerror}; choose another folder"
            raise KeysError(message) from error

    def replace(self, path: Path) -> None:
        """Put these keys in the place of a file in one step: who reads it finds the old ones or these, and all of them.

        The file stays its owner's. Processes that have read it follow within a second.

        Raises:
            KeysError: It cannot be replaced.
        """
        there = path.resolve()  # where Kubernetes or somebody else has a link, the link stays
        fresh = there.with_name(f".{there.name}.{os.urandom(4).hex()}")
        try:
            self._write(fresh)
            os.chown(fresh, there.stat().st_uid, -1)
            fresh.replace(there)
        except OSError as error:
            with suppress(OSError):
                fresh.unlink()
            message = f"cannot replace the keys file {path}: {error.strerror}; it is as it was"
            raise KeysError(message) from error

    def rotated(self) -> Keys:
        """The same keys, and a new one that seals from now on; what the old ones sealed still opens."""
        key_id = next(new for new in iter(lambda: os.urandom(ID_BYTES).hex(), "") if new not in self._data)
        return Keys(key_id, {**self._data, key_id: os.urandom(KEY_BYTES)}, self._signing.private_bytes_raw())

    def without(self, key_id: str) -> Keys:
        """The keys but one; whatever it sealed is lost from then on.

        Raises:
            KeysError: There is no such key, or it is the one that seals.
        """
        current = self.current
        if key_id == current or key_id not in self._data:
            reason = "is the current one; rotate first" if key_id == current else "is not there"
            message = f"the key {key_id!r} cannot be removed: it {reason}"
            raise KeysError(message)
        kept = {each: key for each, key in self._data.items() if each != key_id}
        return Keys(current, kept, self._signing.private_bytes_raw())

    @property
    def current(self) -> str:
        """Id of the key that seals from now on."""
        self._follow()
        return self._seals[0][1:].hex()

    @property
    def key_ids(self) -> tuple[str, ...]:
        """Ids of the keys that open; the current one is among them."""
        return tuple(self._data)

    @property
    def fingerprint(self) -> str:
        """Short name of the signing key: 16 hexadecimal digits of the SHA-256 of its public half."""
        return fingerprint(self.public_key)

    def seal(self, data: bytes, context: bytes) -> bytes:
        """``data`` encrypted under the current key; it opens under the same ``context`` only.

        Args:
            data: At most 2 GiB.
            context: What the data belongs to, such as a template's full name; it is not stored.
        """
        self._follow()
        nonce, (prefix, encrypt) = os.urandom(NONCE_BYTES), self._seals
        return prefix + nonce + encrypt(nonce, data, context)

    def open(self, blob: bytes, context: bytes) -> bytes:
        """What was sealed under ``context``.

        Raises:
            KeysError: It was changed, belongs to something else, or its key is not here.
        """
        opens = self._opens.get(blob[:5])
        if opens is None:
            self._follow()
            opens = self._opens.get(blob[:5])
        if opens is None or len(blob) < HEADER_BYTES + TAG_BYTES:
            message = f"what was sealed under the key {self.key_of(blob)!r} does not open: the keys do not hold it"
            raise KeysError(message)
        try:
            return opens(blob[5:17], memoryview(blob)[17:], context)
        except InvalidTag:
            message = (
                f"what was sealed under the key {self.key_of(blob)!r} does not open: it was changed, it was moved "
                "from another place, or the key is not the one of this id"
            )
            raise KeysError(message) from None

    @staticmethod
    def key_of(blob: bytes) -> str:
        """Id of the key under which it was sealed.

        Raises:
            KeysError: It was not sealed by this version of omote.
        """
        if blob[:1] != VERSION or len(blob) < HEADER_BYTES + TAG_BYTES:
            message = f"{len(blob)} bytes were not sealed by this version of omote, or are cut off"
            raise KeysError(message)
        return blob[1:5].hex()

    def sign(self, data: bytes) -> bytes:
        """Ed25519 signature, 64 bytes."""
        return self._signing.sign(data)

    @staticmethod
    def verify(public_key: str, data: bytes, signature: bytes) -> bool:
        """Whether the private half of ``public_key`` (base64) signed ``data``.

        Raises:
            KeysError: ``public_key`` is none.
        """
        try:
            Ed25519PublicKey.from_public_bytes(_decoded(public_key)).verify(signature, data)
        except InvalidSignature:
            return False
        except ValueError as error:
            message = f"{public_key!r} is no public key; `omote gallery keys show` tells it"
            raise KeysError(message) from error
        return True

    def pseudonym(self, namespace: str, subject_id: str) -> str:
        """The subject's name in the audit log: 24 hexadecimal digits that tell nothing to who has no signing key.

        It stays the same when data keys are rotated. Two subjects, or namespaces, have different ones.
        """
        named = f"{len(namespace)}:{namespace}{subject_id}".encode()
        return hmac.digest(self._naming, named, "sha256").hex()[:PSEUDONYM_DIGITS]

    def __repr__(self) -> str:
        return f"Keys(current={self.current!r}, {len(self._data)} data keys, signing {self.fingerprint})"

    def __reduce__(self) -> NoReturn:
        message = "keys are not pickled: each process reads its own with Keys.from_environment()"
        raise TypeError(message)

    def _hold(self, current: str, data: Mapping[str, bytes]) -> None:
        self._data = dict(data)
        self._opens: dict[bytes, Callable[..., bytes]] = {
            VERSION + bytes.fromhex(key_id): AESGCM(key).decrypt for key_id, key in data.items()
        }
        # Together, so that no thread seals with one key under the id of another.
        self._seals = VERSION + bytes.fromhex(current), AESGCM(data[current]).encrypt

    def _follow(self) -> None:
        """Hold what is in the file now, if it was replaced; look once a second at most."""
        if self._path is None or time.monotonic() - self._looked_s < LOOK_S:
            return
        with self._looking:
            if time.monotonic() - self._looked_s < LOOK_S:
                return
            self._looked_s = time.monotonic()
            with suppress(OSError):  # it is not there: a moment between two files, or an open one is enough
                if _seen(self._path.stat()) != self._seen:
                    self._take(self._path)

    def _take(self, path: Path) -> None:
        try:
            fresh = Keys.read(path)
        except KeysError as error:
            log.warning("the keys stay as they were: %s", error)
            return
        if fresh.public_key == self.public_key:
            self._seen = fresh._seen
            self._hold(fresh.current, fresh._data)
        else:
            log.warning("the keys stay as they were: %s holds those of another gallery", path)

    def _write(self, path: Path) -> None:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(self._file(), file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())

    def _file(self) -> dict[str, Any]:
        data = {key_id: base64.b64encode(key).decode() for key_id, key in self._data.items()}
        signing = base64.b64encode(self._signing.private_bytes_raw()).decode()
        return {"format": "omote.keys/1", "current": self.current, "data": data, "signing": signing}


def fingerprint(public_key: str) -> str:
    """Short name of a public key: 16 hexadecimal digits of its SHA-256."""
    return sha256(public_key.encode()).hexdigest()[:16]


def canonical(said: Mapping[str, Any]) -> bytes:
    """The one JSON text of plain values that is hashed and signed: UTF-8, keys in order, no blanks.

    Raises:
        ValueError: A number is not finite.
    """
    return json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _seen(status: os.stat_result) -> tuple[int, int, int]:
    """What tells one file from the next one of its name."""
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _check(current: str, data: Mapping[str, bytes], signing: bytes) -> None:
    digits = set("0123456789abcdef")
    whole = all(len(key) == KEY_BYTES for key in (*data.values(), signing))
    if current not in data or not whole or any(len(each) != 2 * ID_BYTES or set(each) - digits for each in data):
        message = "keys are 32 bytes each, their ids 8 hexadecimal digits, and the current one is among them"
        raise KeysError(message)


def _refuse_open_file(status: os.stat_result, path: Path) -> None:
    permitted = PERMITTED_OF_ROOT if status.st_uid == 0 and os.geteuid() else PERMITTED
    if stat.S_IMODE(status.st_mode) & ~permitted:
        message = f"others may read the keys file {path}: run `chmod 600 {path}`, and rotate the keys if they could"
        raise KeysError(message)


def _parsed(text: SecretStr, place: str) -> Keys:
    """The keys that a JSON text holds; an error names the field, and never what it holds."""
    try:
        file = KeysFile.model_validate_json(text.get_secret_value())
        data = {key_id: _decoded(key.get_secret_value()) for key_id, key in file.data.items()}
        return Keys(file.current, data, _decoded(file.signing.get_secret_value()))
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False)[0]
        reason = f"at `{'.'.join(map(str, first['loc'][:1]))}`, {first['type'].replace('_', ' ')}"
    except (KeysError, ValueError) as error:
        reason = str(error) if isinstance(error, KeysError) else "a key is no base64"
    message = f"{place} holds no keys: {reason}; make some with `omote gallery keys new FILE`"
    raise KeysError(message)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        message = "no base64"
        raise ValueError(message) from None
