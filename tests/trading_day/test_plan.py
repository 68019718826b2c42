"""The day of trading before anybody trades: the books are real, the plan is the same each time and has something of all."""

import pytest
from django.conf import settings

from catalog import isbn
from config.trading_day.books import read_books
from config.trading_day.customers import list_customers
from config.trading_day.load import BOOKED_AFTER_S
from config.trading_day.plan import BANKS_S, TRIAL_DAYS_BEFORE, Task, make_day


@pytest.mark.parametrize("book", read_books(), ids=lambda book: book.isbn)
def test_every_book_has_a_valid_isbn_a_title_and_a_price(book):
    assert isbn.normalise(book.isbn) == book.isbn
    assert book.title
    assert book.author
    assert all(price > 0 for price in book.prices.values())


def test_books_are_listed_once_and_in_several_scripts():
    books = read_books()
    assert len({book.isbn for book in books}) == len(books) >= 40
    assert {"三体", "L'Étranger", "Der Steppenwolf", "人間失格"} <= {book.title for book in books}


def test_customers_have_addresses_of_their_own_at_domains_that_never_exist():
    customers = list_customers()
    assert len({customer.id for customer in customers}) == len({customer.email for customer in customers}) == 60
    for customer in customers:
        local, _, domain = customer.email.partition("@")
        assert local.isascii()
        assert local.replace(".", "").replace("-", "").isalpha()
        assert domain.startswith("example.")


def test_the_plan_is_the_same_every_time():
    assert make_day() == make_day()


def test_the_plan_has_150_visits_by_60_customers_in_the_order_of_the_day():
    day = make_day()
    visits = [*day.visits, *day.trials, day.late, day.unbooked, *day.today]
    assert [visit.number for visit in visits] == list(range(1, 151))
    assert len({visit.customer.id for visit in visits}) == 60
    seconds = [visit.second for visit in day.visits]
    assert seconds == sorted(seconds)
    # A counterpart within an hour of midnight counts as timing, so nothing happens there.
    assert max(*seconds, *(errand.second for errand in day.errands)) < BANKS_S < day.late.second < day.unbooked.second
    assert day.unbooked.second < day.planting_second < 23 * 3600


def test_what_is_not_booked_yet_waits_until_it_is_booked_whenever_the_day_is_loaded():
    """The day is yesterday until midnight, however long the load takes; then the provider takes its time."""
    loaded_s = 24 * 3600 + 3600
    assert 24 * 3600 - make_day().unbooked.second + loaded_s + BOOKED_AFTER_S < settings.RECONCILE_UNBOOKED_AFTER_S


def test_the_plan_has_something_of_everything():
    visits = make_day().visits
    wishes = [visit.wish for visit in visits]
    assert sum(not wish.cards for wish in wishes) == 8
    assert sum(any("Declined" in card for card in wish.cards) for wish in wishes) == 15
    assert {wish.authenticates for wish in wishes if "authenticationRequired" in wish.cards} == {True, False}
    assert {wish.currency for wish in wishes} == {"usd", "eur"}
    assert {errand.task for errand in make_day().errands} == set(Task)
    assert {visit.wish.currency for visit in make_day().trials} == {"usd", "eur"}


def test_what_was_tried_out_should_have_reached_the_bank():
    """Two days to arrive, and five that a bank may be late."""
    assert TRIAL_DAYS_BEFORE + 1 - 2 > settings.BANK_LATE_DAYS


def test_only_paid_orders_are_worked_on_and_none_is_both_shipped_and_refunded():
    day = make_day()
    visits = {visit.number: visit for visit in day.visits}
    tasks: dict[int, list[Task]] = {}
    for errand in day.errands:
        assert visits[errand.visit].wish.cards
        tasks.setdefault(errand.visit, []).append(errand.task)
    assert {tuple(done) for done in tasks.values()} == {
        (Task.SHIP,),
        (Task.SHIP, Task.COMPLETE),
        (Task.REFUND_ONE,),
        (Task.REFUND_ALL,),
        (Task.CANCEL,),
    }
    assert all(visits[errand.visit].copies > 1 for errand in day.errands if errand.task is Task.REFUND_ONE)
