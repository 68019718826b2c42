"""The balance, and its rows: every movement of the account's money is a balance transaction. Balance = Σ net."""

from datetime import UTC, datetime, timedelta

from payments.sandbox.account import Account, new_id
from payments.sandbox.calls import PAGE_PARAMS, Call, Route, list_page, retrieve
from payments.sandbox.money import processing_fee
from payments.sandbox.store import Json

# Money from a card is available two days later, at midnight UTC.
SETTLEMENT_DAYS = 2
FILTERS = ("currency", "source", "type", "payout")
_UNEXPLAINED = "unexplained_balance"


def record(
    account: Account,
    *,
    kind: str,
    source: str,
    amount: int,
    currency: str,
    fee: int = 0,
    fee_text: str = "Stripe processing fees",
    available_on: int | None = None,
    description: str | None = None,
    category: str | None = None,
) -> Json:
    """Insert a row: `amount` and `fee` in minor units, signed as they change the balance; net = amount - fee."""
    detail = {"amount": fee, "application": None, "currency": currency, "description": fee_text, "type": "stripe_fee"}
    row: Json = {
        "id": new_id("txn"),
        "object": "balance_transaction",
        "amount": amount,
        "available_on": account.now() if available_on is None else available_on,
        "balance_type": "payments",
        "created": account.now(),
        "currency": currency,
        "description": description,
        "exchange_rate": None,
        "fee": fee,
        "fee_details": [detail] if fee else [],
        "net": amount - fee,
        "reporting_category": category or kind,
        "source": source,
        "type": kind,
    }
    account.store.insert(row)
    return row


def record_charge(account: Account, charge: Json) -> Json:
    """The row of a captured charge: its amount, less the fee, pending for two days."""
    midnight = datetime.fromtimestamp(account.now(), UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return record(
        account,
        kind="charge",
        source=charge["id"],
        amount=charge["amount"],
        currency=charge["currency"],
        fee=processing_fee(charge["amount"], charge["currency"]),
        available_on=int((midnight + timedelta(days=SETTLEMENT_DAYS)).timestamp()),
        description=charge["description"],
    )


def _retrieve_balance(call: Call) -> Json:
    now = call.account.now()
    query = (
        "SELECT currency, SUM(CASE WHEN available_on <= ? THEN net ELSE 0 END), SUM(net) FROM objects"
        " WHERE kind = 'balance_transaction' GROUP BY currency ORDER BY currency"
    )
    rows = call.account.store.execute(query, (now,)).fetchall() or [("usd", 0, 0)]
    more = unexplained(call.account)
    return {
        "object": "balance",
        "available": [_share(currency, available) for currency, available, _ in rows],
        "connect_reserved": [{"amount": 0, "currency": currency} for currency, _, _ in rows],
        "livemode": False,
        "pending": [_share(currency, total - available + more.get(currency, 0)) for currency, available, total in rows],
    }


def unexplained(account: Account) -> dict[str, int]:
    """What the balance tells beside the sum of its rows, minor units by currency: nothing, unless it was planted."""
    off: dict[str, int] = account.store.read_setting(_UNEXPLAINED, {})
    return off


def tell_more(account: Account, currency: str, amount: int) -> Json:
    """Let the balance hold so much that no row explains."""
    account.store.write_setting(_UNEXPLAINED, unexplained(account) | {currency: amount})
    return {"id": f"balance_{currency}", "object": "balance", "amount": amount, "currency": currency}


def _share(currency: str, amount: int) -> Json:
    return {"amount": amount, "currency": currency, "source_types": {"card": amount}}


def _list(call: Call) -> Json:
    equal = {name: call.params.required(name) for name in FILTERS if name in call.params}
    if "currency" in equal:
        equal["currency"] = equal["currency"].lower()
    return list_page(call, "balance_transaction", equal)


ROUTES = {
    ("GET", "/v1/balance"): Route(_retrieve_balance),
    ("GET", "/v1/balance_transactions"): Route(_list, PAGE_PARAMS | set(FILTERS)),
    ("GET", "/v1/balance_transactions/{id}"): retrieve("balance_transaction"),
}
