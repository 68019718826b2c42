"""What is sold: well-known books with their ISBN-13 and prices in minor units."""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FILE = Path(__file__).with_name("books.csv")


@dataclass(frozen=True, slots=True)
class Book:
    """`prices` are minor units by currency; a shop sells the books that have a price in its currency."""

    isbn: str
    title: str
    author: str
    prices: dict[str, int]


@cache
def read_books() -> tuple[Book, ...]:
    with _FILE.open(encoding="utf-8", newline="") as file:
        return tuple(
            Book(
                isbn=row["isbn"],
                title=row["title"],
                author=row["author"],
                prices={currency: int(row[currency]) for currency in ("usd", "eur") if row[currency]},
            )
            for row in csv.DictReader(file)
        )
