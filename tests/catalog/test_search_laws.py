"""Random titles: whatever is listed is found by what stands in it, however it is typed."""

import unicodedata

import pytest
from django.db import connection
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from catalog import isbn, search
from catalog.errors import InvalidIsbn

pytestmark = pytest.mark.django_db

LAWS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
# Letters of many scripts, digits, marks, punctuation, emoji: all that a title may hold.
TITLES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
SPACED = st.text("abcxyzéèßøłÅœİıΣς0189 ъйאبяฯ'-.", min_size=1, max_size=30)
UNSPACED = st.text("微服务实战金村上春樹ルウェイあいう", min_size=1, max_size=12)


def finds(title: str, author: str, typed: str) -> bool:
    asked = search.query(typed)
    assert asked, f"{typed!r} asks for nothing"
    with connection.cursor() as cursor:
        document = search.document(title=title, author=author, isbn=None)
        cursor.execute("SELECT %s::tsvector @@ %s::tsquery", [document, asked])
        return bool(cursor.fetchone()[0])


def asks_for_something(text: str) -> bool:
    """Words, that is: what is an ISBN by its check digit asks for that book alone."""
    try:
        isbn.normalise(text)
    except InvalidIsbn:
        return bool(search.query(text))
    return False


@LAWS
@given(SPACED, SPACED)
@example("L'Œuvre", "Émile Zola")
def test_each_word_is_found_by_each_of_its_beginnings(title, author):
    for field in (title, author):
        for word in field.split():
            for length in range(1, len(word) + 1):
                beginning = word[:length]
                if asks_for_something(beginning):
                    assert finds(title, author, beginning), (title, author, beginning)


@LAWS
@given(UNSPACED, st.data())
def test_an_unspaced_title_is_found_by_every_part_of_it(title, data):
    begin = data.draw(st.integers(0, len(title) - 1))
    part = title[begin : data.draw(st.integers(begin + 1, len(title)))]
    assert finds(f"Go{title}", "", part)
    assert finds(f"Go {title}!", "", f"go{part}" if begin == 0 else part)


@LAWS
@given(SPACED.filter(asks_for_something))
def test_accents_and_capitals_do_not_matter(title):
    bare = "".join(letter for letter in unicodedata.normalize("NFKD", title) if not unicodedata.combining(letter))
    for typed in {title.upper(), title.lower(), unicodedata.normalize("NFD", title), bare}:
        if asks_for_something(typed):
            assert finds(title, "", typed), typed


@LAWS
@given(TITLES, TITLES)
def test_whatever_a_title_holds_it_can_be_stored_and_asked_for(title, author):
    with connection.cursor() as cursor:
        document = search.document(title=title, author=author, isbn=None)
        cursor.execute(
            "SELECT %s::tsvector @@ coalesce(nullif(%s, '')::tsquery, ''::tsquery)", [document, search.query(title)]
        )
    if asks_for_something(title):
        assert finds(title, author, title)
