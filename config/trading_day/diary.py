"""What of the day of trading has been done: kept in the metadata of its first book, where the API shows it."""

from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from typing import Any

from config.trading_day.books import Book
from config.trading_day.client import Client
from foundation.database import database_now

_MEMBER = "day_of_trading"


@dataclass(frozen=True)
class Page:
    """The day that was traded, and how far it got."""

    day: str
    tried_out: bool = False
    banks_heard: bool = False
    planted: bool = False
    disputed: bool = False
    paid_out: bool = False
    loaded: bool = False


class Diary:
    def __init__(self, client: Client, book: Book) -> None:
        self._client = client
        self._path = f"/products/{book.isbn}"
        product = client.find(self._path) or {}
        written = product.get("metadata", {}).get(_MEMBER)
        self.page = Page(**written) if written else Page(day=str(database_now().date() - timedelta(days=1)))

    @property
    def day(self) -> date:
        return date.fromisoformat(self.page.day)

    def write(self, **done: bool) -> None:
        """Keep what is done by now; what was done stays done. The book has to be listed."""
        news: dict[str, Any] = {name: True for name, is_done in done.items() if is_done}
        self.page = replace(self.page, **news)
        self._client.patch(self._path, {"metadata": {_MEMBER: asdict(self.page)}})
