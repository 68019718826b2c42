"""Double entry: what the books say about every movement of money. Entries are written once; corrections are new entries.

| cause            | debit                         | credit              |
|------------------|-------------------------------|---------------------|
| capture          | provider clearing             | customer            |
| sale             | customer                      | merchant payable    |
| provider's fee   | fees                          | provider clearing   |
| refund requested | refunds owed, then merchant payable, or customer | refunds in flight |
| refund succeeded | refunds in flight             | provider clearing, or bank |
| refund failed    | refunds in flight             | whence it was taken |
| … after success  | provider clearing             | refunds owed        |
| correction       | provider clearing (or credit) | write-offs          |
| dispute opened   | disputes                      | provider clearing   |
| dispute won      | provider clearing             | disputes            |
| dispute lost     | merchant payable, or customer | disputes            |
| payout paid      | bank                          | provider clearing   |
| payout failed    | provider clearing             | bank                |

Of a dispute only what the provider really withdrew or gave back is posted, once per booking (`txn_…`); its fee is a fee
like any other. While it is open the amount stands on `disputes`: nobody's loss yet. A lost one is the merchant's loss,
who sold; where no sale was posted the money is still the customer's account's, and is taken from there. An appeal that
turns a lost dispute posts the opposite.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID, uuid5

from django.db import connection
from django.db.models import F, Sum

from payments.errors import AccountOverdrawn
from payments.models import Account, JournalEntry, Posting

_NAMESPACE = UUID("6a3f4c1e-8d5b-5e0e-9a57-2f7f0c9f1c11")
Kind = Account.Kind


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


def write_offs(currency: str) -> AccountKey:
    return AccountKey(Kind.WRITE_OFFS, currency)


def customer_account(merchant_id: UUID, customer: str, currency: str) -> AccountKey:
    return AccountKey(Kind.CUSTOMER, currency, merchant_id, customer)


def merchant_payable(merchant_id: UUID, currency: str) -> AccountKey:
    return AccountKey(Kind.MERCHANT_PAYABLE, currency, merchant_id)


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

    Raises AccountOverdrawn where a customer's account would fall below zero.
    """
    entry = JournalEntry(
        merchant_id=merchant_id,
        kind=kind,
        key=key,
        subject=subject,
        reference=reference,
        currency=debit.currency,
        memo=memo,
        by=by,
        corrects_id=corrects,
    )
    if not _insert_once(entry):
        return False
    _ensure_accounts([debit, credit])
    Posting.objects.bulk_create(
        [
            Posting(entry=entry, account_id=debit.id, amount_minor=amount_minor),
            Posting(entry=entry, account_id=credit.id, amount_minor=-amount_minor),
        ]
    )
    for account, change in ((debit, -amount_minor), (credit, amount_minor)):
        if account.kind == Kind.CUSTOMER:
            _change_balance(account, change)
    return True


def was_posted(key: str) -> bool:
    return JournalEntry.objects.filter(key=key).exists()


def amounts_of(keys: Sequence[str]) -> dict[str, int]:
    """key → what its entry moved, in minor units; 0 for a cause that was not posted."""
    debits = Posting.objects.filter(entry__key__in=keys, amount_minor__gt=0)
    return dict.fromkeys(keys, 0) | dict(debits.values_list("entry__key").annotate(Sum("amount_minor")))


def _insert_once(entry: JournalEntry) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO payments_journalentry
                (id, merchant_id, kind, key, subject, reference, currency, memo, by, corrects_id)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT (key) DO NOTHING
            """,
            [
                entry.id,
                entry.merchant_id,
                entry.kind,
                entry.key,
                entry.subject,
                entry.reference,
                entry.currency,
                entry.memo,
                entry.by,
                entry.corrects_id,
            ],
        )
        return bool(cursor.rowcount)


def _ensure_accounts(keys: Sequence[AccountKey]) -> None:
    Account.objects.bulk_create(
        [
            Account(id=key.id, kind=key.kind, currency=key.currency, merchant_id=key.merchant_id, customer=key.customer)
            for key in keys
        ],
        ignore_conflicts=True,
    )


def _change_balance(account: AccountKey, change: int) -> None:
    changed = Account.objects.filter(pk=account.id, balance_minor__gte=-change).update(
        balance_minor=F("balance_minor") + change
    )
    if not changed:
        raise AccountOverdrawn(f"The account of customer {account.customer} would fall below zero.")
