"""Payouts: what the balance has available goes to the bank, and some days later it is there, or comes back.

Made when asked for, or each midnight of the sandbox's clock once the schedule says so. A payout collects every row that
is available and went into no other payout; its own row leads the list of them, so Σ net of all is 0, and of the others
the payout's amount. Where the balance is in the red, Stripe takes it from the bank in some countries, as a payout of a
negative amount: here when asked for (https://support.stripe.com/questions/what-happens-when-i-have-a-negative-balance).
"""

from datetime import UTC, datetime

from payments.sandbox import balance
from payments.sandbox.account import Account, new_id
from payments.sandbox.calls import listing, retrieve
from payments.sandbox.errors import Refused
from payments.sandbox.events import emit
from payments.sandbox.store import Json

DAY_S = 86400
ARRIVES_AFTER_DAYS = 2
SCHEDULES = ("manual", "daily")
OUTCOMES = ("paid", "failed", "canceled")
_DECISIONS = {
    ("pending", "paid"),
    ("in_transit", "paid"),
    ("pending", "failed"),
    ("in_transit", "failed"),
    ("paid", "failed"),
    ("pending", "canceled"),
    ("in_transit", "canceled"),
}
# Why a bank sends money back, and why it lets none be taken.
_CLOSED = ("account_closed", "The bank account has been closed.")
_NO_DEBIT = ("debit_not_authorized", "Debit transactions are not approved on your bank account.")


def build(account: Account, *, amount: int, currency: str, arrival_date: int) -> Json:
    """An automatic payout on its way to the bank; amount in minor units."""
    return {
        "id": new_id("po"),
        "object": "payout",
        "amount": amount,
        "application_fee": None,
        "application_fee_amount": None,
        "arrival_date": arrival_date,
        "automatic": True,
        "balance_transaction": None,
        "created": account.now(),
        "currency": currency,
        "description": "STRIPE PAYOUT",
        "destination": "ba_sandbox",
        "failure_balance_transaction": None,
        "failure_code": None,
        "failure_message": None,
        "livemode": False,
        "metadata": {},
        "method": "standard",
        "original_payout": None,
        "payout_method": None,
        "reconciliation_status": "in_progress",
        "reversed_by": None,
        "source_type": "card",
        "statement_descriptor": None,
        "status": "in_transit",
        "trace_id": {"status": "pending", "value": None},
        "type": "bank_account",
    }


def pay_out(
    account: Account, *, currency: str | None = None, until: int, at: int | None = None, debit: bool = False
) -> list[Json]:
    """Collect what is available at `until`, one payout a currency (or of that one). What is owed stays owed, unless our bank
    is to be debited for it.
    """
    rows = account.store.execute(
        "SELECT currency, sum(net) FROM objects WHERE kind = 'balance_transaction' AND payout IS NULL"
        " AND available_on <= ? AND currency = coalesce(?, currency) GROUP BY currency ORDER BY currency",
        (until, currency),
    ).fetchall()
    return [_make(account, of, net, until, at or account.now()) for of, net in rows if net > 0 or (debit and net < 0)]


def _make(account: Account, currency: str, amount: int, until: int, at: int) -> Json:
    arrival = _midnight(at) + ARRIVES_AFTER_DAYS * DAY_S
    payout = build(account, amount=amount, currency=currency, arrival_date=arrival) | {"created": at}
    collected = account.store.execute(
        "SELECT id FROM objects WHERE kind = 'balance_transaction' AND payout IS NULL AND available_on <= ?"
        " AND currency = ?",
        (until, currency),
    ).fetchall()
    own = balance.record(
        account,
        kind="payout",
        source=payout["id"],
        amount=-amount,
        currency=currency,
        available_on=at,
        description="STRIPE PAYOUT",
    )
    for row_id in [own["id"], *(row[0] for row in collected)]:
        row = account.store.get("balance_transaction", row_id)
        if row is not None:
            account.store.update(row | {"_payout": payout["id"]})
    payout["balance_transaction"] = own["id"]
    account.store.insert(payout)
    emit(account, "payout.created", payout)
    payout["reconciliation_status"] = "completed"
    account.store.update(payout)
    emit(account, "payout.reconciliation_completed", payout)
    return payout


def decide(account: Account, payout: Json, status: str) -> Json:
    """What the bank makes of a payout; one that was paid can still fail some days later. Raises Refused."""
    before = payout["status"]
    if (before, status) not in _DECISIONS:
        raise Refused(f"Payout {payout['id']} is {before}: it cannot become {status}.")
    payout["status"] = status
    if status == "paid":  # what Stripe learns from the banks some days later
        payout["trace_id"] = {"status": "supported", "value": f"TRC{payout['id'].removeprefix('po_').upper()}"}
    else:
        row = balance.record(
            account,
            kind="payout_failure" if status == "failed" else "payout_cancel",
            source=payout["id"],
            amount=payout["amount"],
            currency=payout["currency"],
            description="STRIPE PAYOUT FAILURE" if status == "failed" else "STRIPE PAYOUT CANCEL",
            category="payout_reversal",
        )
        payout["failure_balance_transaction"] = row["id"]
    if status == "failed":
        code, message = _CLOSED if payout["amount"] > 0 else _NO_DEBIT
        payout |= {"failure_code": code, "failure_message": message}
    account.store.update(payout)
    emit(account, f"payout.{status}", payout, {"status": before})
    return payout


def run_schedule(account: Account) -> None:
    """Catch up with the clock: each midnight that passed, payouts that are due arrive, and a new one sets out."""
    today = _midnight(account.now())
    last = account.payouts_run_until
    account.set("payouts_run_until", max(last, today))
    if account.payout_schedule != "daily" or not last:
        return
    for midnight in range(last + DAY_S, today + 1, DAY_S):
        for payout in list(account.store.newest("payout", "in_transit")):
            if payout["arrival_date"] <= midnight:
                decide(account, payout, "paid")
        pay_out(account, until=midnight, at=midnight)


def _midnight(moment: int) -> int:
    return int(datetime.fromtimestamp(moment, UTC).replace(hour=0, minute=0, second=0, microsecond=0).timestamp())


ROUTES = {
    ("GET", "/v1/payouts"): listing("payout", "status"),
    ("GET", "/v1/payouts/{id}"): retrieve("payout"),
}
