"""Words for the search column. PostgreSQL stores, indexes and matches them; what a word is, is decided here.

Its own text search neither folds accents (without an extension) nor splits scripts that write no spaces. So a product
is indexed as folded words, and each letter of an unspaced script is a word of its own: `Go微服务` → go 微 服 务. A query
asks for words by their beginnings, and for a run of unspaced letters as a phrase, which finds it anywhere in a title.
"""

import re
import unicodedata
from collections.abc import Iterator
from itertools import groupby

from catalog import isbn as isbns
from catalog.errors import InvalidIsbn

# PostgreSQL refuses lexemes above 2 kB; nobody types more than this to tell two words apart.
_LONGEST_WORD = 64
_ASCII_WORD = re.compile(r"[a-z0-9]+")

# Letters that Unicode does not take apart into a base and an accent, and what people type instead of them.
_TYPED_AS = {
    "ø": "o",
    "ł": "l",
    "đ": "d",
    "ð": "d",
    "þ": "th",
    "æ": "ae",
    "œ": "oe",
    "ħ": "h",
    "ı": "i",
    "ة": "ه",
    "ى": "ي",
    "ـ": "",
}
# Accents and vowel points. Marks of other scripts are letters in their own right and stay.
_MARKS = [
    *range(0x0300, 0x0370),
    *range(0x0591, 0x05C8),
    *range(0x0610, 0x061B),
    *range(0x064B, 0x0660),
    0x0670,
    *range(0x06D6, 0x06EE),
    *range(0x1AB0, 0x1B00),
    *range(0x1DC0, 0x1E00),
    *range(0x20D0, 0x2100),
    *range(0xFE20, 0xFE30),
]
_FOLDED: dict[int, str | None] = {
    **dict.fromkeys(_MARKS),
    **{ord(letter): typed for letter, typed in _TYPED_AS.items()},
}

# Thai, Lao, Tibetan, Burmese · Khmer · Han signs, kana, bopomofo · Han.
_UNSPACED = [
    (0x0E00, 0x109F),
    (0x1780, 0x17FF),
    (0x3005, 0x3007),
    (0x3040, 0x312F),
    (0x31A0, 0x31BF),
    (0x31F0, 0x31FF),
    (0x3400, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
]


def document(*, title: str, author: str, isbn: str | None) -> str:
    """What a product is found by, as the text of a `tsvector`."""
    lexemes: list[str] = []
    position = 0
    for field in (title, author):
        for chunk in fold(field).split():
            for word in _words_to_index(chunk):
                position += 1
                lexemes.append(f"'{word}':{position}")
        position += 1  # no phrase runs from the title into the author
    lexemes += [f"'{form.lower()}'" for form in (isbn or "", isbns.ten_digits(isbn or "")) if form]
    return " ".join(lexemes)


def query(text: str) -> str:
    """What a person typed, as the text of a `tsquery`; empty where it holds no letter and no digit."""
    try:
        return f"'{isbns.normalise(text)}'"
    except InvalidIsbn:
        return " & ".join(filter(None, map(_chunk_query, fold(text).split())))


def fold(text: str) -> str:
    """`"Çà et Là: STRAẞE"` → `"ca et la: strasse"`."""
    if text.isascii():
        return text.lower()
    apart = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return unicodedata.normalize("NFC", apart.translate(_FOLDED))


def _words_to_index(chunk: str) -> Iterator[str]:
    """`l'etranger` is found by `etranger` and by `letranger`, `e-mail` by `email`."""
    words = []
    for unspaced, run in _runs(chunk):
        if unspaced:
            yield from run
        else:
            words.append(run)
            yield run[:_LONGEST_WORD]
    if len(words) > 1:
        yield "".join(words)[:_LONGEST_WORD]


def _chunk_query(chunk: str) -> str:
    runs = list(_runs(chunk))
    words = [run for unspaced, run in runs if not unspaced]
    asked = " & ".join(_phrase(run) if unspaced else _beginning(run) for unspaced, run in runs)
    # A hyphenated ISBN is many words to us; written together it is the one that is indexed.
    return f"({asked} | {_beginning(''.join(words))})" if len(words) > 1 and len(words) == len(runs) else asked


def _phrase(run: str) -> str:
    return "(" + " <-> ".join(f"'{letter}'" for letter in run) + ")"


def _beginning(word: str) -> str:
    return f"'{word[:_LONGEST_WORD]}':*"


def _runs(chunk: str) -> Iterator[tuple[bool, str]]:
    """Runs of letters, marks and digits, each either of unspaced scripts or not; all else only separates."""
    if chunk.isascii():  # most are, and this is four times faster
        yield from ((False, word) for word in _ASCII_WORD.findall(chunk))
        return
    for kind, letters in groupby(chunk, key=_kind):
        if kind is not None:
            yield kind, "".join(letters)


def _kind(letter: str) -> bool | None:
    if unicodedata.category(letter)[0] not in "LMN":
        return None
    code = ord(letter)
    return code >= 0x0E00 and any(first <= code <= last for first, last in _UNSPACED)
