"""The ledger keeps its promises in PostgreSQL, whatever the code above it does."""

from uuid import uuid4

import pytest
from django.db import Error, IntegrityError, connection, transaction
from django.db.models import Sum
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from payments import ledger
from payments.errors import AccountOverdrawn
from payments.models import Account, JournalEntry, Posting

pytestmark = pytest.mark.django_db(transaction=True)
MERCHANT = uuid4()
CUSTOMER = ledger.customer_account(MERCHANT, "c", "usd")


def post(key: str = "k", amount_minor: int = 100, **changes):
    values = {"kind": "test", "debit": ledger.clearing("usd"), "credit": CUSTOMER, "by": "test", **changes}
    with transaction.atomic():
        return ledger.post(key=key, amount_minor=amount_minor, **values)


def test_one_cause_posts_once():
    assert post()
    assert not post()
    assert Posting.objects.count() == 2


def test_an_unbalanced_entry_is_refused_at_commit():
    post()
    with pytest.raises(IntegrityError, match="does not balance"), transaction.atomic():
        entry = JournalEntry.objects.create(key="bad", kind="test", currency="usd", by="test")
        Posting.objects.create(entry=entry, account_id=CUSTOMER.id, amount_minor=5)


def test_an_entry_of_two_currencies_is_refused_at_commit():
    with pytest.raises(IntegrityError, match="mixes currencies"):
        post(credit=ledger.write_offs("eur"))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE payments_posting SET amount_minor = amount_minor + 1",
        "DELETE FROM payments_posting",
        "UPDATE payments_journalentry SET memo = 'other'",
        "DELETE FROM payments_journalentry",
    ],
)
def test_what_is_written_stays_written(statement):
    post()
    with pytest.raises(Error, match=r"append_only|Cannot (update|delete)"), connection.cursor() as cursor:
        cursor.execute(statement)


def test_a_customer_account_is_never_overdrawn():
    post(amount_minor=100)
    with pytest.raises(AccountOverdrawn):
        post("k2", debit=CUSTOMER, credit=ledger.clearing("usd"), amount_minor=101)
    assert Account.objects.get(pk=CUSTOMER.id).balance_minor == 100
    assert not JournalEntry.objects.filter(key="k2").exists()


class AnyHistory(TestCase):
    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 9), st.integers(-500, 500).filter(bool)), max_size=12))
    def test_the_books_add_up_whatever_is_posted(self, movements):
        """Σ postings = 0, and the customer's balance is the sum of what was posted to it."""
        JournalEntry.objects.all()
        for number, amount_minor in movements:
            try:
                post(f"{uuid4()}:{number}", amount_minor)
            except AccountOverdrawn:
                continue
        assert (Posting.objects.aggregate(total=Sum("amount_minor"))["total"] or 0) == 0
        owed = -(Posting.objects.filter(account_id=CUSTOMER.id).aggregate(total=Sum("amount_minor"))["total"] or 0)
        kept = Account.objects.filter(pk=CUSTOMER.id).values_list("balance_minor", flat=True).first() or 0
        assert owed == kept >= 0
