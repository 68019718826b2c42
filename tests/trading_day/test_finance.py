"""What our bank tells before the day of trading, and at its end."""

from config.trading_day import finance
from payments import services as payments
from reconciliation.models import BankMatch, Discrepancy
from tests.reconciliation.conftest import books, provider_process, settle_after_s

__all__ = ["books", "provider_process", "settle_after_s"]


def test_our_bank_tells_of_the_payout_of_a_customer_and_of_money_that_nothing_explains(books):
    books.sell(1)
    (made,) = books.sandbox.control("POST", "payouts", {"include_pending": True})["payouts"]
    paid = books.sandbox.control("POST", "payouts/outcome", {"payout": made["id"], "status": "paid"})
    payments.sync_payout(made["id"], by="test")
    finance.bank_tells_of_today([paid])
    assert BankMatch.objects.get().how == "trace_id"
    assert Discrepancy.objects.get().kind == "bank_line_unexplained"
    finance.bank_tells_of_today([])  # a load that is gone on with
    finance.bank_tells_of_trial([])
    assert BankMatch.objects.count() == 1


def test_the_books_begin_once(books):
    finance.begin_books(books.day)
    finance.begin_books(books.day)
