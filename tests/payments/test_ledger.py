"""The ledger keeps its promises in PostgreSQL, whatever the code above it does."""

from datetime import UTC, datetime
from functools import partial
from uuid import uuid4

import pytest
from django.db import Error, IntegrityError, connection, transaction
from django.db.models import Sum
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from foundation.database import database_now
from payments import ledger
from payments.errors import AccountOverdrawn
from payments.models import Account, JournalEntry, Posting
from tests.races import Race, orders

pytestmark = pytest.mark.django_db(transaction=True)
MERCHANT = uuid4()
CUSTOMER = ledger.customer_account(MERCHANT, "c", "usd")
CLEARING = ledger.clearing("usd")
FEES = ledger.fees("usd")


def post(key: str = "k", amount_minor: int = 100, **changes):
    values = {"kind": "test", "debit": CLEARING, "credit": CUSTOMER, "by": "test", **changes}
    with transaction.atomic():
        return ledger.post(key=key, amount_minor=amount_minor, **values)


def post_lines(key: str, *lines: tuple[ledger.AccountKey, int]):
    with transaction.atomic():
        return ledger.post_lines(key=key, kind="test", lines=lines, by="test")


def balance_of(account: ledger.AccountKey) -> int:
    return Account.objects.get(pk=account.id).balance_minor


def raw(*statements: str) -> None:
    """As somebody with a psql does it, in one transaction. `%(entry)s` is one id."""
    parameters = {"entry": uuid4(), "clearing": CLEARING.id, "customer": CUSTOMER.id, "fees": FEES.id}
    with transaction.atomic(), connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement, parameters)


def test_one_cause_posts_once():
    assert post()
    assert not post()
    assert Posting.objects.count() == 2
    assert balance_of(CUSTOMER) == 100


def test_an_entry_is_one_round_trip(django_assert_num_queries):
    post()
    for key, amount_minor in (("credit", 100), ("debit", -50), ("credit", 100)):
        with transaction.atomic(), django_assert_num_queries(1):
            ledger.post(key=key, kind="test", debit=CLEARING, credit=CUSTOMER, amount_minor=amount_minor, by="test")
    assert balance_of(CUSTOMER) == 150


def test_many_entries_between_our_own_accounts_are_two_statements_and_each_cause_posts_once(django_assert_num_queries):
    post("fee:7", 7, kind="fee", debit=FEES, credit=CLEARING)
    keys = ["fee:1", "fee:7", "fee:2", "fee:1"]
    fees = [ledger.Movement(key, FEES, CLEARING, 7, subject="pay_1", reference="ord_1") for key in keys]
    with transaction.atomic(), django_assert_num_queries(2):
        assert ledger.post_many(fees, kind="fee", by="test") == 2
    with transaction.atomic():
        assert ledger.post_many(fees, kind="fee", by="test") == 0
        assert ledger.post_many([], kind="fee", by="test") == 0
    entry = JournalEntry.objects.get(key="fee:2")
    assert (entry.kind, entry.subject, entry.reference, entry.currency, entry.by) == (
        "fee",
        "pay_1",
        "ord_1",
        "usd",
        "test",
    )
    lines = Posting.objects.filter(entry=entry).values_list("account_id", "amount_minor")
    assert set(lines) == {(FEES.id, 7), (CLEARING.id, -7)}


def test_many_entries_at_once_leave_accounts_that_keep_a_balance_alone():
    with pytest.raises(ValueError, match="one by one"):
        ledger.post_many([ledger.Movement("k", CLEARING, CUSTOMER, 100)], kind="test", by="test")


def test_an_entry_may_have_several_lines():
    post_lines("three", (CLEARING, 95), (FEES, 5), (CUSTOMER, -100))
    assert JournalEntry.objects.get().lines == 3
    assert balance_of(CUSTOMER) == 100
    with pytest.raises(IntegrityError, match="does not balance"):
        post_lines("four", (CLEARING, 95), (FEES, 6), (CUSTOMER, -100))
    assert balance_of(CUSTOMER) == 100


def test_two_lines_of_one_customer_change_its_balance_once():
    post_lines("both", (CUSTOMER, 30), (CUSTOMER, -100), (CLEARING, 70))
    assert balance_of(CUSTOMER) == 70


# --- What raw SQL cannot do -----------------------------------------------------------------------------------

ENTRY = (
    "INSERT INTO payments_journalentry (id, kind, key, subject, reference, currency, memo, by)"
    " VALUES (%(entry)s, 'test', 'raw', '', '', 'usd', '', 'psql')"
)
THREE_LINES = ENTRY.replace("currency,", "currency, lines,").replace("'usd',", "'usd', 3,")
DEBIT = "INSERT INTO payments_posting (entry_id, account_id, amount_minor) VALUES (%(entry)s, %(clearing)s, 5)"
CREDIT = "INSERT INTO payments_posting (entry_id, account_id, amount_minor) VALUES (%(entry)s, %(fees)s, -5)"
BOTH = DEBIT + ", (%(entry)s, %(fees)s, -5)"


@pytest.fixture
def accounts():
    """The three accounts, with something on them."""
    post(credit=CUSTOMER)
    post("fee", 1, debit=FEES, credit=CLEARING)


def test_lines_may_come_in_several_statements_of_one_transaction(accounts):
    raw(ENTRY, DEBIT, CREDIT)
    raw(ENTRY.replace("'raw'", "'at once'"), BOTH)
    assert JournalEntry.objects.filter(by="psql").count() == 2


@pytest.mark.guard(13)
@pytest.mark.parametrize(
    ("statements", "why"),
    [
        ([ENTRY], "has 0 lines, not the 2"),
        ([ENTRY, DEBIT], "has 1 lines, not the 2"),
        ([ENTRY, DEBIT, CREDIT.replace("-5", "-6")], "does not balance"),
        ([ENTRY, BOTH.replace("-5", "-6")], "does not balance"),
        ([ENTRY, BOTH + ", (%(entry)s, %(fees)s, -1)"], "is complete"),
        ([THREE_LINES, BOTH], "has 2 lines, not the 3"),
        ([ENTRY.replace("'usd'", "'eur'"), BOTH], "mixes currencies"),
        ([ENTRY, BOTH.replace("-5", "0")], "posting_not_zero"),
        ([DEBIT, ENTRY, CREDIT], "posted_at"),
        ([ENTRY, BOTH, "UPDATE payments_account SET currency = 'eur' WHERE id = %(fees)s"], "Cannot update"),
        ([THREE_LINES.replace(", 3,", ", 1,"), DEBIT], "two_lines_at_least"),
    ],
)
def test_an_entry_that_is_wrong_never_commits(accounts, statements, why):
    with pytest.raises(Error, match=why):
        raw(*statements)
    assert not JournalEntry.objects.filter(by="psql").exists()


def test_an_entry_of_two_currencies_is_refused():
    with pytest.raises(IntegrityError, match="mixes currencies"):
        post(credit=ledger.write_offs("eur"))


def test_no_line_is_added_to_an_entry_of_another_transaction(accounts):
    """Not even two that balance: what an entry says is said when it commits."""
    entry = JournalEntry.objects.get(key="fee")
    with pytest.raises(IntegrityError, match="is complete"):
        raw(*(statement.replace("%(entry)s", f"'{entry.pk}'") for statement in (DEBIT, CREDIT)))
    assert entry.postings.count() == 2


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE payments_posting SET amount_minor = amount_minor + 1",
        "UPDATE payments_posting SET posted_at = now()",
        "DELETE FROM payments_posting",
        "TRUNCATE payments_posting",
        "TRUNCATE payments_account CASCADE",
        "UPDATE payments_journalentry SET memo = 'other'",
        "DELETE FROM payments_journalentry",
        "TRUNCATE payments_journalentry CASCADE",
        "UPDATE payments_account SET kind = 'fees'",
        "UPDATE payments_account SET customer = 'somebody else'",
        "INSERT INTO payments_posting (entry_id, account_id, amount_minor)"
        " SELECT entry_id, account_id, amount_minor FROM payments_posting",
    ],
)
def test_what_is_written_stays_written(statement):
    post()
    with (
        pytest.raises(Error, match=r"append_only|Cannot (update|delete|truncate)|is complete"),
        connection.cursor() as cursor,
    ):
        cursor.execute(statement)
    assert Posting.objects.count() == 2


def test_nobody_dates_an_entry_but_the_database():
    before = database_now()
    with transaction.atomic():
        entry = JournalEntry.objects.create(
            key="back", kind="test", currency="usd", by="test", created_at=datetime(2001, 1, 1, tzinfo=UTC)
        )
        for account, amount_minor in ((CLEARING, 5), (FEES, -5)):
            Account.objects.get_or_create(pk=account.id, kind=account.kind, currency="usd")
            Posting.objects.create(
                entry=entry,
                account_id=account.id,
                amount_minor=amount_minor,
                posted_at=datetime(2001, 1, 1, tzinfo=UTC),
            )
    entry.refresh_from_db()
    assert before < entry.created_at < database_now()
    assert set(Posting.objects.values_list("posted_at", flat=True)) == {entry.created_at}


# --- Customers' balances --------------------------------------------------------------------------------------


def test_a_customer_account_is_never_overdrawn():
    post(amount_minor=100)
    with pytest.raises(AccountOverdrawn):
        post("k2", debit=CUSTOMER, credit=CLEARING, amount_minor=101)
    assert balance_of(CUSTOMER) == 100
    assert not JournalEntry.objects.filter(key="k2").exists()


def test_a_customer_who_never_had_anything_cannot_be_debited():
    with pytest.raises(AccountOverdrawn):
        post(debit=CUSTOMER, credit=CLEARING)
    assert not Posting.objects.exists()


@pytest.mark.parametrize("turns", orders("a", "a", "b", "b", alike=True))
def test_two_who_spend_the_same_balance_do_not_both_get_it(race: Race, turns):
    post(amount_minor=100)
    race.stop_before_commit()
    for name in ("a", "b"):
        race.actor(name, partial(post, name, debit=CUSTOMER, credit=CLEARING, amount_minor=70))
    ended = race.play(turns)
    assert sorted(type(one).__name__ for one in ended.values()) == ["AccountOverdrawn", "bool"]
    assert balance_of(CUSTOMER) == 30


@pytest.mark.parametrize("turns", orders("a", "a", "b", "b", alike=True))
def test_two_that_post_one_cause_post_it_once(race: Race, turns):
    race.stop_before_commit()
    for name in ("a", "b"):
        race.actor(name, post)
    assert sorted(race.play(turns).values()) == [False, True]
    assert balance_of(CUSTOMER) == 100


class AnyHistory(TestCase):
    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 9), st.integers(-500, 500).filter(bool)), max_size=12))
    def test_the_books_add_up_whatever_is_posted(self, movements):
        """Σ postings = 0, and the customer's balance is the sum of what was posted to it."""
        for number, amount_minor in movements:
            try:
                post(f"{uuid4()}:{number}", amount_minor)
            except AccountOverdrawn:
                continue
        assert (Posting.objects.aggregate(total=Sum("amount_minor"))["total"] or 0) == 0
        owed = -(Posting.objects.filter(account_id=CUSTOMER.id).aggregate(total=Sum("amount_minor"))["total"] or 0)
        kept = Account.objects.filter(pk=CUSTOMER.id).values_list("balance_minor", flat=True).first() or 0
        assert owed == kept >= 0
