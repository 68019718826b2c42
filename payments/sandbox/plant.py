"""Planted differences: the sandbox's books change in silence, each in a way that reconciliation must find.

No event, no webhook. An object is planted at most once (`_planted` in its body). What a planter leaves behind is consistent in
itself: net = amount - fee in every row, and the balance is still the sum of the rows. Only a residual is just that: a balance
that is not.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from payments.sandbox import balance, cards, disputes, intents, payment_methods, payouts, refunds
from payments.sandbox.account import Account
from payments.sandbox.money import smallest_step
from payments.sandbox.store import Json

# The metadata key that carries the product's own payment number: what has it was started by the product.
OUR_NUMBER = "payment"
# What an object of theirs that we do not know still tells about where it belongs.
SHARED_METADATA = ("order", "merchant", "instance")
FAR_AHEAD_S = 30 * 86400  # what is pending is paid out as well
MISSTATED_STEPS = 7  # an amount is off by 1 to 7 of the currency's smallest steps


class TooFewError(Exception):
    def __init__(self, kind: str, wanted: int, candidates: int) -> None:
        super().__init__(f"{kind}: {wanted} asked for, but there are only {candidates} candidates")
        self.candidates = candidates


def plant(account: Account, kind: str, count: int) -> Json:
    """Plant `count` differences of a kind, the newest candidates first; ids are of what differs: charges, refunds, disputes…

    Raises TooFewError with nothing planted.
    """
    candidates, make = KINDS[kind]
    chosen = list(islice(candidates(account), count))
    if len(chosen) < count:
        raise TooFewError(kind, count, len(chosen))
    with account.silence():
        objects = [make(account, obj) for obj in chosen]
    return {"ids": [planted["id"] for planted in objects], "objects": [_described(planted) for planted in objects]}


# --- candidates, newest first -----------------------------------------------------------------------


def _our_charges(account: Account) -> Iterator[Json]:
    """Captured, settled, never refunded, untouched."""
    for charge in account.store.newest("charge", "succeeded"):
        settled = charge["balance_transaction"] is not None
        if _ours(charge) and settled and not charge.get("_refunds") and not charge["disputed"]:
            yield charge


def _charges_to_refund(account: Account) -> Iterator[Json]:
    """Untouched charges of which at least two steps are not refunded yet."""
    for charge in account.store.newest("charge", "succeeded"):
        left = charge["amount_captured"] - charge["amount_refunded"]
        settled = charge["balance_transaction"] is not None
        if _ours(charge) and settled and left >= 2 * smallest_step(charge["currency"]) and not charge["disputed"]:
            yield charge


def _our_refunds(account: Account) -> Iterator[Json]:
    """Succeeded refunds of untouched charges, one a charge."""
    taken: set[str] = set()
    for refund in account.store.newest("refund", "succeeded"):
        charge = account.store.get("charge", refund["charge"])
        if charge is None or charge["id"] in taken or not _ours(charge) or "_planted" in refund:
            continue
        taken.add(charge["id"])
        yield refund


def _our_refunds_to_misstate(account: Account) -> Iterator[Json]:
    for refund in _our_refunds(account):
        if refund["amount"] > smallest_step(refund["currency"]):
            yield refund


def _unpaid_intents(account: Account) -> Iterator[Json]:
    """Intents of ours that took no money: canceled ones first, then those that wait for a card."""
    for status in ("canceled", "requires_payment_method"):
        for intent in account.store.newest("payment_intent", status):
            if _ours(intent):
                yield intent


def _orders(account: Account) -> Iterator[Json]:
    """Intents whose order a stray payment can belong to: open ones first, each once, then cancelled, then paid; at last {}."""
    for statuses in (("requires_payment_method", "requires_action"), ("canceled",), ("succeeded",)):
        for intent in account.store.newest("payment_intent", *statuses):
            if _ours(intent) and "_lent" not in intent and intent["metadata"].get("order"):
                yield intent
    while True:
        yield {}


def _our_disputes(account: Account) -> Iterator[Json]:
    """Disputes whose money is withdrawn, of untouched charges."""
    for dispute in account.store.newest("dispute", "needs_response", "under_review", "lost"):
        charge = account.store.get("charge", dispute["charge"])
        if charge is not None and _ours(charge) and "_planted" not in dispute and dispute["balance_transactions"]:
            yield dispute


def _currencies_to_pay_out(account: Account) -> Iterator[str]:
    """Those in which something is there that went into no payout."""
    rows = account.store.execute(
        "SELECT currency FROM objects WHERE kind = 'balance_transaction' AND payout IS NULL"
        " GROUP BY currency HAVING sum(net) > 0 ORDER BY currency"
    )
    yield from (currency for (currency,) in rows.fetchall())


def _currencies_that_add_up(account: Account) -> Iterator[str]:
    """Those that the account holds and whose balance is the sum of its rows."""
    rows = account.store.execute(
        "SELECT DISTINCT currency FROM objects WHERE kind = 'balance_transaction' ORDER BY currency"
    )
    yield from (currency for (currency,) in rows.fetchall() if currency not in balance.unexplained(account))


def _nothing_needed(account: Account) -> Iterator[Json]:
    while True:
        yield {}


def _ours(obj: Json) -> bool:
    return bool(obj["metadata"].get(OUR_NUMBER)) and "_planted" not in obj


# --- planters: change the books, return what differs ------------------------------------------------


def _lose_charge(account: Account, charge: Json) -> Json:
    """missing_in_stripe: the charge, its row and the intent's success were never there."""
    intent = _intent_of(account, charge)
    intent |= {"status": "requires_payment_method", "amount_received": 0, "latest_charge": None, "payment_method": None}
    _touch(account, intent, "missing_in_stripe")
    account.store.delete(charge["balance_transaction"])
    account.store.delete(charge["id"])
    return charge


def _stray_charge(account: Account, origin: Json) -> Json:
    """missing_in_our_system: a payment that we never started, for an order of ours if there is one."""
    metadata, amount, currency = {}, 2500, "usd"
    if origin:
        metadata = {key: origin["metadata"][key] for key in SHARED_METADATA if key in origin["metadata"]}
        amount, currency = origin["amount"], origin["currency"]
        origin["_lent"] = True
        account.store.update(origin)
    return _new_payment(account, "missing_in_our_system", amount=amount, currency=currency, metadata=metadata)


def _double_charge(account: Account, charge: Json) -> Json:
    """duplicate_charge: the same payment of ours was charged a second time, under another intent."""
    _touch(account, charge, "duplicate_charge")
    return _new_payment(
        account,
        "duplicate_charge",
        amount=charge["amount"],
        currency=charge["currency"],
        metadata=charge["metadata"],
    )


def _misstate_charge(account: Account, charge: Json) -> Json:
    """amount_mismatch: a few cents more or less were taken."""
    change = _few_steps(account, charge["currency"])
    if charge["amount"] % 2 and charge["amount"] > change:
        change = -change
    intent, row = _intent_of(account, charge), _row_of(account, charge)
    charge["amount"] += change
    charge["amount_captured"] += change
    intent["amount_received"] += change
    row["amount"] += change
    row["net"] += change
    _touch(account, intent, "amount_mismatch")
    _touch(account, row, "amount_mismatch")
    return _touch(account, charge, "amount_mismatch")


def _pay_in_silence(account: Account, intent: Json) -> Json:
    """status_mismatch: an intent that we hold for unpaid succeeded."""
    method = payment_methods.build(account, cards.by_name("visa"))
    account.store.insert(method)
    charge = intents.succeed(account, intent, method)
    _touch(account, intent, "status_mismatch")
    return _touch(account, charge, "status_mismatch")


def _change_currency(account: Account, charge: Json) -> Json:
    """currency_mismatch: the same number, of another currency."""
    currency = "gbp" if charge["currency"] == "eur" else "eur"
    intent, row = _intent_of(account, charge), _row_of(account, charge)
    for obj in (charge, intent, row, *row["fee_details"]):
        obj["currency"] = currency
    _touch(account, intent, "currency_mismatch")
    _touch(account, row, "currency_mismatch")
    return _touch(account, charge, "currency_mismatch")


def _change_fee(account: Account, charge: Json) -> Json:
    """fee_variance: the fee is a few cents higher than the contract says."""
    change, row = _few_steps(account, charge["currency"]), _row_of(account, charge)
    row["fee"] += change
    row["net"] -= change
    row["fee_details"][0]["amount"] += change
    _touch(account, row, "fee_variance")
    return _touch(account, charge, "fee_variance")


def _lose_refund(account: Account, refund: Json) -> Json:
    """missing_in_stripe_refund: the refund and its row were never there."""
    charge = _charge_of(account, refund)
    charge["_refunds"].remove(refund["id"])
    _count_refunded(charge, -refund["amount"])
    _touch(account, charge, "missing_in_stripe_refund")
    account.store.delete(refund["balance_transaction"])
    account.store.delete(refund["id"])
    return refund


def _stray_refund(account: Account, charge: Json) -> Json:
    """missing_in_our_system_refund: half of what is left was refunded behind our back."""
    step = smallest_step(charge["currency"])
    left = charge["amount_captured"] - charge["amount_refunded"]
    refund = refunds.give_back(account, charge, amount=max(step, left // 2 // step * step))
    _touch(account, charge, "missing_in_our_system_refund")
    return _touch(account, refund, "missing_in_our_system_refund")


def _misstate_refund(account: Account, refund: Json) -> Json:
    """amount_mismatch_refund: a few cents less were given back."""
    step = smallest_step(refund["currency"])
    change = min(_few_steps(account, refund["currency"]), (refund["amount"] - 1) // step * step)
    charge, row = _charge_of(account, refund), _row_of(account, refund)
    refund["amount"] -= change
    row["amount"] += change
    row["net"] += change
    _count_refunded(charge, -change)
    _touch(account, charge, "amount_mismatch_refund")
    _touch(account, row, "amount_mismatch_refund")
    return _touch(account, refund, "amount_mismatch_refund")


def _fail_refund(account: Account, refund: Json) -> Json:
    """status_mismatch_refund: the customer's bank sent it back, and nobody told us."""
    refunds.fail(account, refund)
    _touch(account, _charge_of(account, refund), "status_mismatch_refund")
    return _touch(account, refund, "status_mismatch_refund")


def _dispute_in_silence(account: Account, charge: Json) -> Json:
    """dispute_unexpected: the customer's bank took the money back, and nobody told us."""
    dispute = disputes.open_dispute(account, charge)
    _touch(account, _need(account, charge["id"]), "dispute_unexpected")
    return _touch(account, dispute, "dispute_unexpected")


def _give_back_in_silence(account: Account, dispute: Json) -> Json:
    """dispute_missing: what a dispute took from us came back, and nobody told us."""
    return _touch(account, disputes.decide(account, dispute, "won"), "dispute_missing")


def _pay_out_in_silence(account: Account, currency: str) -> Json:
    """payout_difference: what is there was paid out to our bank, and nobody told us."""
    (payout,) = payouts.pay_out(account, currency=currency, until=account.now() + FAR_AHEAD_S)
    return _touch(account, payout, "payout_difference")


def _charge_of_another(account: Account, _nothing: Json) -> Json:
    """foreign_instance: another installation that shares the account took a payment."""
    metadata = {OUR_NUMBER: "pay_of_another", "instance": "another-installation"}
    return _new_payment(account, "foreign_instance", amount=2500, currency="usd", metadata=metadata)


def _row_of_no_known_category(account: Account, _nothing: Json) -> Json:
    """unknown_type: a row of a category that did not exist yet when we were written."""
    row = balance.record(account, kind="adjustment", source="", amount=-5, currency="usd", category="tulip_futures")
    return _touch(account, row, "unknown_type")


def _misstate_balance(account: Account, currency: str) -> Json:
    """statement_residual: the balance holds a few cents that no row tells of."""
    return balance.tell_more(account, currency, _few_steps(account, currency))


# --- helpers ----------------------------------------------------------------------------------------


def _new_payment(account: Account, kind: str, *, amount: int, currency: str, metadata: dict[str, str]) -> Json:
    method = payment_methods.build(account, cards.by_name("visa"))
    intent = intents.build(account, amount=amount, currency=currency, metadata=metadata, description=None)
    account.store.insert(method)
    account.store.insert(intent)
    charge = intents.succeed(account, intent, method)
    _touch(account, intent, kind)
    return _touch(account, charge, kind)


def _touch(account: Account, obj: Json, kind: str) -> Json:
    obj["_planted"] = kind
    account.store.update(obj)
    return obj


def _few_steps(account: Account, currency: str) -> int:
    planted: int = account.store.read_setting("planted", 0)
    account.store.write_setting("planted", planted + 1)
    return (1 + planted % MISSTATED_STEPS) * smallest_step(currency)


def _count_refunded(charge: Json, change: int) -> None:
    charge["amount_refunded"] += change
    charge["refunded"] = charge["amount_refunded"] >= charge["amount_captured"]


def _need(account: Account, object_id: str) -> Json:
    found = account.store.find(object_id)
    if found is None:
        raise LookupError(f"{object_id} is referred to but not there")
    return found


def _intent_of(account: Account, charge: Json) -> Json:
    return _need(account, charge["payment_intent"])


def _charge_of(account: Account, refund: Json) -> Json:
    return _need(account, refund["charge"])


def _row_of(account: Account, obj: Json) -> Json:
    return _need(account, obj["balance_transaction"])


def _described(obj: Json) -> Json:
    names = (
        "id",
        "object",
        "amount",
        "currency",
        "status",
        "payment_intent",
        "charge",
        "balance_transaction",
        "metadata",
    )
    return {name: obj[name] for name in names if name in obj}


_Candidates = Callable[[Account], Iterator[Any]]
_Planter = Callable[[Account, Any], Json]
KINDS: dict[str, tuple[_Candidates, _Planter]] = {
    "missing_in_stripe": (_our_charges, _lose_charge),
    "missing_in_our_system": (_orders, _stray_charge),
    "amount_mismatch": (_our_charges, _misstate_charge),
    "status_mismatch": (_unpaid_intents, _pay_in_silence),
    "missing_in_stripe_refund": (_our_refunds, _lose_refund),
    "missing_in_our_system_refund": (_charges_to_refund, _stray_refund),
    "amount_mismatch_refund": (_our_refunds_to_misstate, _misstate_refund),
    "status_mismatch_refund": (_our_refunds, _fail_refund),
    "currency_mismatch": (_our_charges, _change_currency),
    "duplicate_charge": (_our_charges, _double_charge),
    "fee_variance": (_our_charges, _change_fee),
    "dispute_unexpected": (_our_charges, _dispute_in_silence),
    "dispute_missing": (_our_disputes, _give_back_in_silence),
    "payout_difference": (_currencies_to_pay_out, _pay_out_in_silence),
    "foreign_instance": (_nothing_needed, _charge_of_another),
    "unknown_type": (_nothing_needed, _row_of_no_known_category),
    "statement_residual": (_currencies_that_add_up, _misstate_balance),
}
