"""Ids: UUIDv7 inside (time-ordered, so that indexes stay dense), `ord_01kah5v0qtfq8rsx3m4n2e0f7b` outside.

The public form is that of TypeID (https://github.com/jetify-com/typeid): a prefix and the UUID in Crockford's base32.
It is the same id, not a second one: no column, no index, no look-up. Each has 32 fresh random bits and counts up from a
random start within a millisecond: hard to guess, though not a secret. Who may read an object is decided elsewhere.
"""

from base64 import b32encode
from datetime import datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7 as _uuid7

from foundation.errors import NotFound

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_VALUES = {letter: value for value, letter in enumerate(_ALPHABET)}
_LENGTH = 26
_TO_OURS = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", _ALPHABET.encode())  # from the letters of RFC 4648


def uuid7() -> UUID:
    """A new time-ordered id."""
    return _uuid7()


def derived_id(base: UUID, name: str) -> UUID:
    """The id of what there is once for a time-ordered id and a name: the same for both, and ordered by that id's moment."""
    digest = int.from_bytes(sha256(base.bytes + name.encode()).digest()[:10])
    rest = digest & ((1 << 80) - 1) & ~(0xF << 76 | 0x3 << 62)
    return UUID(int=base.int >> 80 << 80 | rest | 7 << 76 | 2 << 62)


def first_id_at(moment: datetime) -> UUID:
    """The least id that can be made in this millisecond: ids made before it are smaller."""
    return UUID(int=int(moment.timestamp() * 1000) << 80)


def public_id(prefix: str, value: UUID) -> str:
    """`"ord", UUID(…)` → `ord_` and 26 letters."""
    # 32 letters are 20 bytes: four empty ones in front, so that the last 26 letters hold the id.
    letters = b32encode(bytes(4) + value.bytes)[-_LENGTH:].translate(_TO_OURS).decode()
    return f"{prefix}_{letters}"


def parse_public_id(prefix: str, text: str) -> UUID:
    """The UUID in a public id. Raises NotFound for anything that is not one: such an object cannot exist."""
    head, separator, letters = text.partition("_")
    if head != prefix or not separator or len(letters) != _LENGTH or not _VALUES.keys() >= set(letters):
        raise NotFound
    number = 0
    for letter in letters:
        number = number << 5 | _VALUES[letter]
    if number >> 128:
        raise NotFound
    return UUID(int=number)


class Numbered:
    """A model that the API and the desk name by the public form of its id."""

    PREFIX: str
    id: Any

    def __str__(self) -> str:
        return self.number

    @property
    def number(self) -> str:
        return public_id(self.PREFIX, self.id)

    @classmethod
    def id_of(cls, number: str) -> UUID:
        """Raises NotFound."""
        return parse_public_id(cls.PREFIX, number)
