"""Who buys what, when and how: 150 visits to the shop, the same on every run."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from config.trading_day.books import Book, read_books
from config.trading_day.customers import Customer, list_customers

_SEED = 20_261_118
_VISITS = 140  # on the day itself; with the trials, the late ones and today's 150
_VISITS_TODAY = 6
_HOUR_S = 3600
_OPENS_S, _CLOSES_S = 8 * _HOUR_S, 21 * _HOUR_S
_EVENING_S, _LATE_S, _UNBOOKED_S = 21 * _HOUR_S + 600, 22 * _HOUR_S, 22 * _HOUR_S + 300
BANKS_S = 22 * _HOUR_S - 60
PLANTING_S = 22 * _HOUR_S + 1800
# Its payout is due a week before today, so our bank should have it by now, a long weekend included.
TRIAL_DAYS_BEFORE, TRIAL_S = 8, 12 * _HOUR_S

_GOOD_CARDS = ("visa", "visa", "visa", "mastercard", "mastercard", "amex", "visa_debit")
_BAD_CARDS = ("chargeDeclinedInsufficientFunds", "chargeDeclinedInsufficientFunds", "chargeDeclined")
_CARD_WITH_3DS = "authenticationRequired"

_EURO_VISITS = 9
_ABANDONED = 8
_BROWSER_DECLINES_MENDED, _BROWSER_DECLINES_FOR_GOOD = 6, 4
_SERVER_DECLINES_MENDED, _SERVER_DECLINES_FOR_GOOD = 3, 2
_AUTHENTICATED, _NOT_AUTHENTICATED = 8, 1
_SERVER_SALES = 18
# What is never paid happens early, so that it has expired when the day is over.
_UNPAID_BEFORE = 0.35

_SHIPPED, _COMPLETED = 14, 8
_PARTIAL_REFUNDS, _FULL_REFUNDS, _CANCELLED = 5, 3, 1


@dataclass(frozen=True, slots=True)
class Wish:
    """How a customer pays: with `cards` one after another until one is taken; without any the cart is abandoned.

    The browser confirms the payment, or with `by_server` we do. `authenticates` is what becomes of 3-D Secure.
    """

    cards: tuple[str, ...] = ()
    by_server: bool = False
    authenticates: bool = True
    currency: str = "usd"


@dataclass(frozen=True, slots=True)
class Visit:
    """One customer's way through the checkout. `second` is the second of the day; `basket` is ISBN and quantity."""

    number: int
    second: int
    customer: Customer
    basket: tuple[tuple[str, int], ...]
    wish: Wish

    @property
    def copies(self) -> int:
        return sum(quantity for _, quantity in self.basket)


class Task(StrEnum):
    SHIP = "ship"
    COMPLETE = "complete"
    REFUND_ONE = "refund one copy"
    REFUND_ALL = "refund all"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Errand:
    """What the back-office does about the order of a visit."""

    visit: int
    task: Task
    second: int


@dataclass(frozen=True, slots=True)
class Day:
    """`trials` come before the day, one to each shop. `late` is the visit whose payment only the provider will know of,
    `unbooked` the one whose payment is not on its books yet; `today` are visits after the day.
    """

    trials: list[Visit]
    visits: list[Visit]
    errands: list[Errand]
    late: Visit
    unbooked: Visit
    today: list[Visit]
    planting_second: int = PLANTING_S


def make_day() -> Day:
    chance = random.Random(_SEED)
    customers = list_customers()
    chance.shuffle(customers)
    wishes = _wishes(chance)
    seconds = sorted(_second(chance) for _ in wishes)
    others = _VISITS_TODAY + 4
    came = customers + chance.choices(customers, k=_VISITS + others - len(customers))  # everybody once
    visits = [
        _visit(chance, number, came[number - 1], second, wish)
        for number, (second, wish) in enumerate(zip(seconds, wishes, strict=True), 1)
    ]
    rest = iter(range(_VISITS + 1, _VISITS + others + 1))

    def visit(second: int, wish: Wish) -> Visit:
        number = next(rest)
        return _visit(chance, number, came[number - 1], second, wish)

    return Day(
        trials=[visit(TRIAL_S, Wish((_good(chance),), currency=currency)) for currency in ("usd", "eur")],
        visits=visits,
        errands=_errands(chance, visits),
        late=visit(_LATE_S, Wish()),
        unbooked=visit(_UNBOOKED_S, Wish((_good(chance),))),
        today=[visit(0, Wish((_good(chance),))) for _ in range(_VISITS_TODAY)],
    )


def _wishes(chance: random.Random) -> list[Wish]:
    """How each visit pays, in the order of the day."""
    unpaid = [Wish() for _ in range(_ABANDONED)]
    unpaid += [Wish((_bad(chance),)) for _ in range(_BROWSER_DECLINES_FOR_GOOD)]
    unpaid += [Wish((_bad(chance),), by_server=True) for _ in range(_SERVER_DECLINES_FOR_GOOD)]
    unpaid += [Wish((_CARD_WITH_3DS,), authenticates=False) for _ in range(_NOT_AUTHENTICATED)]
    paid = [Wish((_bad(chance), _good(chance))) for _ in range(_BROWSER_DECLINES_MENDED)]
    paid += [Wish((_bad(chance), _good(chance)), by_server=True) for _ in range(_SERVER_DECLINES_MENDED)]
    paid += [Wish((_CARD_WITH_3DS,)) for _ in range(_AUTHENTICATED)]
    paid += [Wish((_good(chance),), by_server=True) for _ in range(_SERVER_SALES)]
    paid += [Wish((_good(chance),), currency="eur") for _ in range(_EURO_VISITS)]
    paid += [Wish((_good(chance),)) for _ in range(_VISITS - len(unpaid) - len(paid))]
    chance.shuffle(paid)
    early = round(_VISITS * _UNPAID_BEFORE)
    first = unpaid + paid[: early - len(unpaid)]
    chance.shuffle(first)
    return first + paid[early - len(unpaid) :]


def _second(chance: random.Random) -> int:
    """Quiet mornings, a busy lunch hour, a busy evening."""
    middle = chance.choice((12.5 * _HOUR_S, 19 * _HOUR_S, 16 * _HOUR_S))
    return min(max(int(chance.gauss(middle, 2 * _HOUR_S)), _OPENS_S), _CLOSES_S)


def _visit(chance: random.Random, number: int, customer: Customer, second: int, wish: Wish) -> Visit:
    books = [book for book in read_books() if wish.currency in book.prices]
    titles = chance.choices((1, 2, 3), weights=(6, 3, 1))[0]
    quantities = {book.isbn: chance.choices((1, 2), weights=(5, 1))[0] for book in _popular(chance, books, titles)}
    return Visit(number, second, customer, tuple(quantities.items()), wish)


def _popular(chance: random.Random, books: Sequence[Book], count: int) -> list[Book]:
    """Some books sell better than others: the n-th half as well as the first after n = 12."""
    return chance.choices(books, weights=[1 / (12 + place) for place in range(len(books))], k=count)


def _errands(chance: random.Random, visits: list[Visit]) -> list[Errand]:
    sold = [visit for visit in visits if len(visit.wish.cards) == 1 and visit.wish.cards[0] in _GOOD_CARDS]
    chance.shuffle(sold)
    several = [visit.number for visit in sold if visit.copies > 1][:_PARTIAL_REFUNDS]
    others = [visit.number for visit in sold if visit.number not in several]
    tasks = [Task.SHIP] * _SHIPPED + [Task.REFUND_ALL] * _FULL_REFUNDS + [Task.CANCEL] * _CANCELLED
    jobs = [(visit, Task.REFUND_ONE) for visit in several] + list(zip(others, tasks, strict=False))
    jobs += [(visit, Task.COMPLETE) for visit, task in jobs if task is Task.SHIP][:_COMPLETED]
    return [Errand(visit, task, _EVENING_S + 90 * place) for place, (visit, task) in enumerate(jobs)]


def _good(chance: random.Random) -> str:
    return chance.choice(_GOOD_CARDS)


def _bad(chance: random.Random) -> str:
    return chance.choice(_BAD_CARDS)
