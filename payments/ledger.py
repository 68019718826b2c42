"""Double entry: what the books say about every movement of money. Entries are written once; corrections are new entries.

| cause            | debit                         | credit              |
|------------------|-------------------------------|---------------------|
| capture          | provider clearing             | customer            |
| sale             | customer                      | merchant payable    |
| provider's fee   | fees                          | provider clearing   |
| … all refunded   | merchant payable (before the sale) | customer       |
| refund requested | refunds owed, then merchant payable, or customer | refunds in flight |
| refund succeeded | refunds in flight             | provider clearing, or bank |
| refund failed    | refunds in flight             | whence it was taken |
| … after success  | provider clearing             | refunds owed        |
| correction       | provider clearing (or credit) | write-offs, or accounts of ours that a person names |
| dispute opened   | disputes                      | provider clearing   |
| dispute won      | provider clearing             | disputes            |
| dispute lost     | merchant payable, or customer | disputes            |
| payout paid      | bank                          | provider clearing   |
| payout failed    | provider clearing             | bank                |
| credit granted   | merchant payable              | store credit        |
| credit held      | store credit                  | store credit held   |
| credit spent     | store credit held             | merchant payable    |
| credit refunded  | as a refund requested, or store credit held | refunds in flight, then store credit |
| points earned    | points issued                 | points              |
| … differs from what was posted | fees            | provider clearing   |
| provider's adjustment | provider clearing        | write-offs, or accounts of ours that a person names |
| balance written off   | provider clearing        | write-offs          |
| bank got more of a payout | bank                 | write-offs          |
| opening balance  | provider clearing             | unallocated receipts |
| reversal         | what the old entry credited   | what it debited     |
| adjustment       | an account of ours            | another one of ours |

Of a dispute only what the provider really withdrew or gave back is posted, once per booking (`txn_…`); its fee is a fee
like any other. While it is open the amount stands on `disputes`: nobody's loss yet. A lost one is the merchant's loss,
who sold; where no sale was posted the money is still the customer's account's, and is taken from there. An appeal that
turns a lost dispute posts the opposite.

A reversal and an adjustment name the entry that they correct (`corrects`); a correction of a payment or refund names the
entry that posted it. An entry is reversed once.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID, uuid5

from django.db import connection
from django.db.models import Sum

from foundation.errors import InvalidInput
from foundation.ids import uuid7
from foundation.money import POINTS, format_minor
from payments.errors import AccountOverdrawn
from payments.models import CUSTOMER_KINDS, Account, JournalEntry, Posting
from payments.types import CORRECTED_AGAINST

_NAMESPACE = UUID("6a3f4c1e-8d5b-5e0e-9a57-2f7f0c9f1c11")
Kind = Account.Kind
KEEPS_BALANCE = frozenset(CUSTOMER_KINDS)  # all others are added up from their postings: payments/books.py


@dataclass(frozen=True, slots=True)
class AccountKey:
    """Names an account. `merchant_id` None: the operator's own."""

    kind: str
    currency: str
    merchant_id: UUID | None = None
    customer: str = ""

    @property
    def id(self) -> UUID:
        return uuid5(_NAMESPACE, f"{self.kind}|{self.merchant_id}|{self.customer}|{self.currency}")

    @property
    def keeps_balance(self) -> bool:
        """Whether its row holds a running balance, is locked by each entry, and never falls below zero."""
        return self.kind in KEEPS_BALANCE

    @property
    def columns(self) -> tuple[UUID, str, str, UUID | None, str]:
        """Its row but for the balance: id, kind, currency, merchant, customer."""
        return self.id, self.kind, self.currency, self.merchant_id, self.customer


def clearing(currency: str) -> AccountKey:
    return AccountKey(Kind.PROVIDER_CLEARING, currency)


def fees(currency: str) -> AccountKey:
    return AccountKey(Kind.FEES, currency)


def disputes(currency: str) -> AccountKey:
    return AccountKey(Kind.DISPUTES, currency)


def refunds_in_flight(currency: str) -> AccountKey:
    return AccountKey(Kind.REFUNDS_IN_FLIGHT, currency)


def refunds_owed(merchant_id: UUID, customer: str, currency: str) -> AccountKey:
    """What a customer still has to get, because a refund that we had paid came back."""
    return AccountKey(Kind.REFUNDS_OWED, currency, merchant_id, customer)


def bank(currency: str) -> AccountKey:
    return AccountKey(Kind.BANK, currency)


def unallocated_receipts(currency: str) -> AccountKey:
    return AccountKey(Kind.UNALLOCATED_RECEIPTS, currency)


def write_offs(currency: str) -> AccountKey:
    return AccountKey(Kind.WRITE_OFFS, currency)


def customer_account(merchant_id: UUID, customer: str, currency: str) -> AccountKey:
    return AccountKey(Kind.CUSTOMER, currency, merchant_id, customer)


def store_credit(merchant_id: UUID, customer: str, currency: str) -> AccountKey:
    return AccountKey(Kind.STORE_CREDIT, currency, merchant_id, customer)


def store_credit_held(merchant_id: UUID, customer: str, currency: str) -> AccountKey:
    return AccountKey(Kind.STORE_CREDIT_HELD, currency, merchant_id, customer)


def points(merchant_id: UUID, customer: str) -> AccountKey:
    return AccountKey(Kind.POINTS, POINTS, merchant_id, customer)


def points_issued(merchant_id: UUID) -> AccountKey:
    return AccountKey(Kind.POINTS_ISSUED, POINTS, merchant_id)


def merchant_payable(merchant_id: UUID, currency: str) -> AccountKey:
    return AccountKey(Kind.MERCHANT_PAYABLE, currency, merchant_id)


def against_clearing(
    currency: str, amount_minor: int, parts: Sequence[tuple[str, int]]
) -> list[tuple[AccountKey, int]]:
    """The lines of an entry that moves an amount to the provider's clearing account from accounts of ours: each part a
    kind of CORRECTED_AGAINST and what of the amount it bears; without parts, all from write-offs.

    Raises InvalidInput: another account, a part of nothing, parts that do not add up, or one that goes the other way: it would let
    any amount pass between two accounts of ours.
    """
    borne: Counter[str] = Counter()
    for kind, minor in parts or [(str(Kind.WRITE_OFFS), amount_minor)]:
        if kind not in CORRECTED_AGAINST:
            raise InvalidInput(f"{kind} is no account that a correction may be booked on.", param="parts")
        borne[kind] += minor
    if sum(borne.values()) != amount_minor:
        told = (
            f"{format_minor(sum(borne.values()), currency)}, the difference is {format_minor(amount_minor, currency)}"
        )
        raise InvalidInput(f"The parts add up to {told}.", param="parts")
    if not all(borne.values()) or not all(minor for _, minor in parts):
        raise InvalidInput("A part of nothing corrects nothing.", param="parts")
    if any(minor * amount_minor < 0 for _, minor in parts):
        told = format_minor(amount_minor, currency)
        raise InvalidInput(f"Each part goes the same way as the difference, {told}.", param="parts")
    return [
        (clearing(currency), amount_minor),
        *((AccountKey(kind, currency), -minor) for kind, minor in borne.items()),
    ]


def post(
    *,
    key: str,
    kind: str,
    debit: AccountKey,
    credit: AccountKey,
    amount_minor: int,
    by: str,
    merchant_id: UUID | None = None,
    subject: str = "",
    reference: str = "",
    memo: str = "",
    corrects: UUID | None = None,
) -> bool:
    """Move an amount from `credit` to `debit` in the caller's transaction, once per `key`. A negative amount moves it
    the other way. True if it was posted now, False if that cause was posted before.

    Raises AccountOverdrawn where a customer's account would fall below zero: the transaction must not commit then.
    """
    return post_lines(
        key=key,
        kind=kind,
        lines=[(debit, amount_minor), (credit, -amount_minor)],
        by=by,
        merchant_id=merchant_id,
        subject=subject,
        reference=reference,
        memo=memo,
        corrects=corrects,
    )


def post_lines(
    *,
    key: str,
    kind: str,
    lines: Sequence[tuple[AccountKey, int]],
    by: str,
    merchant_id: UUID | None = None,
    subject: str = "",
    reference: str = "",
    memo: str = "",
    corrects: UUID | None = None,
) -> bool:
    """The same for an entry of several lines, each an account and an amount: debit positive, credit negative."""
    entry = (uuid7(), merchant_id, kind, key, subject, reference, lines[0][0].currency, len(lines), memo, by, corrects)
    changes: Counter[AccountKey] = Counter()  # of balances that are kept: credit positive
    for account, amount_minor in lines:
        if account.keeps_balance:
            changes[account] -= amount_minor
    credited = {account: change for account, change in changes.items() if change >= 0}
    debited = {account: -change for account, change in changes.items() if change < 0}
    bare = {account: 0 for account, _ in lines if not account.keeps_balance}
    if len(changes) > 1:
        _lock(changes)
    statement = _POST.format(
        lines=_rows(lines, "%s::uuid, %s::bigint"),
        opened=_opened("opened", bare, "DO NOTHING") if bare else "",
        credited=_opened("credited", credited, _ADDED) if credited else "",
        debited=_DEBITED.format(rows=_rows(debited, "%s::uuid, %s::bigint")) if debited else _NOTHING_DEBITED,
    )
    parameters = [
        *entry,
        *(value for account, amount_minor in lines for value in (account.id, amount_minor)),
        *(value for account in bare for value in (*account.columns, 0)),
        *(value for account, change in credited.items() for value in (*account.columns, change)),
        *(value for account, change in debited.items() for value in (account.id, change)),
    ]
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        is_posted, debits = cursor.fetchone()
    if is_posted and debits < len(debited):
        customers = ", ".join(sorted({account.customer for account in debited}))
        raise AccountOverdrawn(f"The account of customer {customers} would fall below zero.")
    return bool(is_posted)


@dataclass(frozen=True, slots=True)
class Movement:
    """An entry of two lines between accounts that keep no balance."""

    key: str
    debit: AccountKey
    credit: AccountKey
    amount_minor: int
    merchant_id: UUID | None = None
    subject: str = ""
    reference: str = ""


def post_many(movements: Sequence[Movement], *, kind: str, by: str) -> int:
    """`post` for many in two statements. Returns how many were posted now. Raises ValueError for an account with a balance."""
    accounts = {account for one in movements for account in (one.debit, one.credit)}
    if any(account.keeps_balance for account in accounts):
        raise ValueError("an account that keeps a balance is locked by each of its entries: post them one by one")
    if not movements:
        return 0
    opened = [account.columns for account in sorted(accounts, key=lambda account: account.id)]
    rows = [
        (
            uuid7(),
            one.merchant_id,
            one.key,
            one.subject,
            one.reference,
            one.debit.currency,
            one.debit.id,
            one.credit.id,
            one.amount_minor,
        )
        for one in movements
    ]
    with connection.cursor() as cursor:
        cursor.execute(_OPEN_MANY, [list(column) for column in zip(*opened, strict=True)])
        cursor.execute(_POST_MANY, [*(list(column) for column in zip(*rows, strict=True)), kind, by])
        (posted,) = cursor.fetchone()
    return int(posted)


def was_posted(key: str) -> bool:
    return JournalEntry.objects.filter(key=key).exists()


def amounts_of(keys: Sequence[str]) -> dict[str, int]:
    """key → what its entry moved, in minor units; 0 for a cause that was not posted."""
    debits = Posting.objects.filter(entry__key__in=keys, amount_minor__gt=0)
    return dict.fromkeys(keys, 0) | dict(debits.values_list("entry__key").annotate(Sum("amount_minor")))


# One round trip an entry. Where the cause was posted before, `entry` is empty, and so is all that follows from it.
# What an account is credited with may be the first that it ever gets; only what is there can be debited.
_POST = """
WITH entry AS (
    INSERT INTO payments_journalentry
        (id, merchant_id, kind, key, subject, reference, currency, lines, memo, by, corrects_id)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (key) DO NOTHING
    RETURNING id
), posted AS (
    INSERT INTO payments_posting (entry_id, account_id, amount_minor)
    SELECT entry.id, line.account_id, line.amount_minor
    FROM entry, (VALUES {lines}) AS line (account_id, amount_minor)
), {opened} {credited} {debited}
SELECT (SELECT count(*) FROM entry), (SELECT count(*) FROM debited)
"""
_OPEN_MANY = """
INSERT INTO payments_account (id, kind, currency, merchant_id, customer, balance_minor)
SELECT account.*, 0 FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::uuid[], %s::text[]) AS account
ON CONFLICT (id) DO NOTHING
"""
_POST_MANY = """
WITH given AS (
    SELECT * FROM unnest(%s::uuid[], %s::uuid[], %s::text[], %s::text[], %s::text[], %s::text[], %s::uuid[], %s::uuid[], %s::bigint[])
        AS movement (id, merchant_id, key, subject, reference, currency, debit_id, credit_id, amount_minor)
), entry AS (
    INSERT INTO payments_journalentry (id, merchant_id, kind, key, subject, reference, currency, lines, memo, by)
    SELECT id, merchant_id, %s, key, subject, reference, currency, 2, '', %s FROM given
    ON CONFLICT (key) DO NOTHING
    RETURNING id
), posted AS (
    INSERT INTO payments_posting (entry_id, account_id, amount_minor)
    SELECT id, line.account_id, line.amount_minor
    FROM entry JOIN given USING (id)
    CROSS JOIN LATERAL (VALUES (debit_id, amount_minor), (credit_id, -amount_minor)) AS line (account_id, amount_minor)
)
SELECT count(*) FROM entry
"""
_OPENED = """{name} AS (
    INSERT INTO payments_account (id, kind, currency, merchant_id, customer, balance_minor)
    SELECT account.* FROM entry, (VALUES {rows}) AS account
    ON CONFLICT (id) {otherwise}
),"""
_ADDED = "DO UPDATE SET balance_minor = payments_account.balance_minor + excluded.balance_minor"
_DEBITED = """debited AS (
    UPDATE payments_account account SET balance_minor = account.balance_minor - change.debit_minor
    FROM entry, (VALUES {rows}) AS change (id, debit_minor)
    WHERE account.id = change.id AND account.balance_minor >= change.debit_minor
    RETURNING account.id
)"""
_NOTHING_DEBITED = "debited AS (SELECT 1 WHERE false)"


def _opened(name: str, accounts: Mapping[AccountKey, int], otherwise: str) -> str:
    rows = _rows(accounts, "%s::uuid, %s, %s, %s::uuid, %s, %s::bigint")
    return _OPENED.format(name=name, rows=rows, otherwise=otherwise)


def _rows(what: Collection[object], row: str) -> str:
    return ", ".join([f"({row})"] * len(what))


def _lock(accounts: Iterable[AccountKey]) -> None:
    """Of several balances in one entry: in the order of their keys, or two such entries could wait for each other."""
    ids = [account.id for account in accounts]
    list(Account.objects.filter(pk__in=ids).order_by("pk").select_for_update(no_key=True).values_list("pk"))
