"""The daily proof: stock, log and open reservations say the same, or somebody is told what does not."""

from datetime import date
from io import StringIO

import psycopg
import pytest
from celery import current_app
from django.core.management import call_command
from django.db import DatabaseError, IntegrityError, connection, transaction

from inventory import books, selectors, services
from inventory.models import Stock, StockCheck, StockHold, StockMovement
from inventory.types import Line
from tests.exposition import read
from tests.factories import make_merchant, make_product

pytestmark = pytest.mark.django_db

TODAY = date(2026, 11, 21)


@pytest.fixture
def merchant():
    return make_merchant()


@pytest.fixture
def book(merchant):
    """Some of everything: ten came, three are promised, two sold, one was taken and is back, a count found one less."""
    offer = make_product(merchant, stock=10)
    lines = lambda quantity: [Line(offer.id, offer.product, quantity)]  # noqa: E731
    services.reserve(merchant_id=merchant.id, reference="ord_sold", lines=lines(2), by="test")
    services.commit_reserved(merchant_id=merchant.id, reference="ord_sold", by="test")
    services.reserve(merchant_id=merchant.id, reference="ord_back", lines=lines(1), by="test")
    services.commit_reserved(merchant_id=merchant.id, reference="ord_back", by="test")
    services.return_sold(merchant_id=merchant.id, reference="ord_back", by="test")
    services.reserve(merchant_id=merchant.id, reference="ord_open", lines=lines(3), by="test")
    taken = {"merchant_id": merchant.id, "product": offer.product, "quantity": 1, "reference": "counter", "by": "test"}
    services.deduct(**taken, key="out")
    services.release(**taken, key="in")
    services.adjust(merchant_id=merchant.id, product=offer.product, change=-1, key="c", by="test", reason="counted")
    return offer


def differences():
    return [(one["law"], one["text"]) for one in services.check_stock(day=TODAY).differences]


def found_last():
    proof = selectors.last_stock_check()
    return proof and proof.found


def past_the_triggers(statement, *values):
    """What somebody writes past the services, as a superuser may."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(statement, values)
        cursor.execute("SET LOCAL session_replication_role = origin")


def test_stock_that_was_moved_by_the_services_agrees(book):
    assert differences() == []
    check = StockCheck.objects.get()
    assert (check.products, check.movements, check.found) == (1, StockMovement.objects.count(), 0)


def test_an_empty_shop_agrees(db):
    assert differences() == []


def test_a_count_that_the_log_does_not_explain_is_found(book):
    Stock.objects.filter(pk=book.id).update(on_hand=8)
    assert differences() == [("on_hand_is_the_log", "8 are on hand, the log adds up to 7")]


def test_a_line_that_left_the_log_is_found(book):
    past_the_triggers("DELETE FROM inventory_stockmovement WHERE operation = 'adjust'")
    assert differences() == [("on_hand_is_the_log", "7 are on hand, the log adds up to 8")]


def test_a_reservation_that_nobody_holds_is_found(book):
    Stock.objects.filter(pk=book.id).update(reserved=4)
    assert differences() == [
        ("reserved_is_the_log", "4 are reserved, the log adds up to 3"),
        ("reserved_is_held", "4 are reserved, open reservations add up to 3"),
    ]


def test_a_hold_that_is_gone_is_found(book):
    StockHold.objects.filter(reference="ord_open").delete()
    assert differences() == [("reserved_is_held", "3 are reserved, open reservations add up to 0")]


def test_a_sale_that_no_line_tells_of_is_found(book):
    StockHold.objects.filter(reference="counter").update(sold=5)
    assert differences() == [("sold_is_the_log", "7 are held as sold, the log adds up to 2")]


def test_all_is_looked_at_however_small_the_batches(merchant, book, settings):
    settings.STOCK_CHECK_BATCH = 2
    others = [make_product(merchant, stock=1) for _ in range(4)]
    Stock.objects.filter(pk__in=[others[0].id, others[3].id]).update(on_hand=2)
    check = services.check_stock(day=TODAY)
    assert (check.products, check.found) == (5, 2)
    assert {one["product"] for one in check.differences} == {others[0].product, others[3].product}


def test_of_many_differences_the_first_are_kept_and_all_are_counted(merchant, settings, caplog):
    settings.STOCK_CHECK_SHOWN = 2
    for _ in range(3):
        make_product(merchant, stock=1)
    Stock.objects.update(on_hand=2)
    check = services.check_stock(day=TODAY)
    assert (check.found, len(check.differences)) == (3, 2)
    assert caplog.text.count("the stock differs") == 2


def test_it_is_done_once_a_day_and_by_hand_again(book):
    assert services.check_stock_of_today()
    assert not services.check_stock_of_today()
    Stock.objects.filter(pk=book.id).update(on_hand=8)
    current_app.loader.import_default_modules()
    current_app.tasks["inventory.check_stock"].run()
    assert found_last() == 0  # today's is done
    out = StringIO()
    with pytest.raises(SystemExit) as end:
        call_command("check_stock", stdout=out)
    assert end.value.code == 1
    assert "on_hand_is_the_log" in out.getvalue()
    assert found_last() == 1
    Stock.objects.filter(pk=book.id).update(on_hand=7)
    with pytest.raises(SystemExit) as end:
        call_command("check_stock", stdout=StringIO())
    assert end.value.code == 0
    assert StockCheck.objects.count() == 1


def test_what_was_found_is_a_metric(book, valkey):
    assert not read().has("everycent_stock_differences")
    Stock.objects.filter(pk=book.id).update(on_hand=8)
    services.check_stock_of_today()
    assert read().value("everycent_stock_differences") == 1
    assert read().value("everycent_stock_checked_timestamp_seconds") > 1_700_000_000


@pytest.mark.django_db(transaction=True)
def test_what_moves_meanwhile_is_no_difference(book):
    """Another session has moved stock and log, and not committed: the proof neither waits for it nor sees half of it."""
    address = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
    with psycopg.connect(**{name: connection.settings_dict[ours] for name, ours in address.items()}) as other:
        other.execute("UPDATE inventory_stock SET on_hand = on_hand + 5")
        assert differences() == []
        other.rollback()


@pytest.mark.django_db(transaction=True)
def test_control_stock_and_log_that_are_read_one_after_the_other_differ(merchant, book):
    """Why each batch is one statement."""
    on_hand = Stock.objects.get(pk=book.id).on_hand
    services.restock(merchant_id=merchant.id, product=book.product, quantity=5, key="van", by="test")
    logged = sum(StockMovement.objects.filter(product_id=book.id).values_list("on_hand_change", flat=True))
    assert on_hand != logged
    assert [batch.differences for batch in books.proof()] == [[]]


# --- What the database refuses by itself ---


def test_stock_is_never_deleted(book):
    with pytest.raises(DatabaseError, match="Cannot delete"), transaction.atomic():
        Stock.objects.filter(pk=book.id).delete()


@pytest.mark.parametrize(
    ("operation", "on_hand_change", "reserved_change"),
    [
        ("restock", 5, 0),
        ("restock", -1, 0),
        ("restock", 1, 1),
        ("reserve", 1, 1),
        ("reserve", 0, -1),
        ("commit", -1, 0),
        ("release_reserved", 1, -1),
        ("return_sold", -1, 0),
        ("deduct", 1, 0),
        ("release", -1, 0),
        ("adjust", 2, 0),
        ("adjust", 1, 1),
        ("gift", 1, 0),
    ],
)
def test_a_line_of_the_log_changes_what_its_operation_says(merchant, book, operation, on_hand_change, reserved_change):
    with pytest.raises(IntegrityError, match="stock_movement_changes_what_its_operation_says"), transaction.atomic():
        StockMovement.objects.create(
            merchant_id=merchant.id,
            product_id=book.id,
            key="by hand",
            operation=operation,
            quantity=1,
            on_hand_change=on_hand_change,
            reserved_change=reserved_change,
            on_hand_after=9,
            reserved_after=1,
            by="somebody",
        )
