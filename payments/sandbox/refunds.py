"""Refunds: money goes back, the fee does not; and the ones that are late, or fail when nobody expects it."""

from payments.sandbox import balance, cards, disputes, money, payment_methods, views
from payments.sandbox.account import Account, new_id
from payments.sandbox.calls import Call, Route, listing, load, retrieve
from payments.sandbox.errors import InvalidParameter, Refused
from payments.sandbox.events import emit
from payments.sandbox.forms import merge_metadata
from payments.sandbox.store import Json

REASONS = ("duplicate", "fraudulent", "requested_by_customer")
FAILURES = (
    *("lost_or_stolen_card", "expired_or_canceled_card", "insufficient_funds", "declined"),
    *("charge_for_pending_refund_disputed", "merchant_request", "unknown"),
)
DECISIONS = {
    ("pending", "requires_action"),
    ("requires_action", "pending"),
    ("pending", "succeeded"),
    ("requires_action", "succeeded"),
    ("pending", "failed"),
    ("requires_action", "failed"),
    ("succeeded", "failed"),
    ("pending", "canceled"),
    ("requires_action", "canceled"),
}


def build(account: Account, charge: Json, *, amount: int, reason: str | None, metadata: dict[str, str]) -> Json:
    return {
        "id": new_id("re"),
        "object": "refund",
        "amount": amount,
        "balance_transaction": None,
        "charge": charge["id"],
        "created": account.now(),
        "currency": charge["currency"],
        "customer": charge["customer"],
        "customer_account": None,
        "destination_details": {
            "card": {"reference_status": "pending", "reference_type": "acquirer_reference_number", "type": "refund"},
            "type": "card",
        },
        "metadata": metadata,
        "payment_intent": charge["payment_intent"],
        "payment_method": charge["payment_method"],
        "reason": reason,
        "receipt_number": None,
        "source_transfer_reversal": None,
        "status": "succeeded",
        "transfer_reversal": None,
    }


def give_back(
    account: Account,
    charge: Json,
    *,
    amount: int,
    reason: str | None = None,
    metadata: dict[str, str] | None = None,
) -> Json:
    """Refund a part or all of a charge that allows it, in minor units; returns the refund."""
    refund = build(account, charge, amount=amount, reason=reason, metadata=metadata or {})
    course = _course(account, charge)
    if course == "pending_first":
        refund |= {"status": "pending", "pending_reason": "processing"}
    refund["balance_transaction"] = record(account, refund, charge)["id"]
    account.store.insert(refund)
    before = {name: charge[name] for name in ("amount_refunded", "refunded")}
    charge["_refunds"] = [*charge.get("_refunds", []), refund["id"]]
    _count(account, charge, amount)
    emit(account, "refund.created", refund)
    emit(account, "charge.refunded", charge, before)
    if course != "succeeds" and not account.silent:
        account.later("refund_news", refund["id"], account.config.news_after_s)
    return refund


def record(account: Account, refund: Json, charge: Json) -> Json:
    """The balance transaction of a refund: negative, without a fee and without the old one's return."""
    original = account.store.get("balance_transaction", charge["balance_transaction"] or "")
    return balance.record(
        account,
        kind="refund",
        source=refund["id"],
        amount=-refund["amount"],
        currency=refund["currency"],
        # What is still pending is reduced while pending.
        available_on=max(account.now(), original["available_on"]) if original else account.now(),
        description=f"REFUND FOR CHARGE ({charge['description']})" if charge["description"] else "REFUND FOR CHARGE",
    )


def fail(account: Account, refund: Json, reason: str = "lost_or_stolen_card", *, status: str = "failed") -> None:
    """The customer's bank sends the money back: it returns to our balance, and the charge counts as less refunded."""
    charge = load(account, "charge", refund["charge"])
    returned = balance.record(
        account,
        kind="refund_failure",
        source=refund["id"],
        amount=refund["amount"],
        currency=refund["currency"],
        description="REFUND FAILURE",
    )
    before = {"status": refund["status"]}
    refund |= {"status": status, "failure_balance_transaction": returned["id"]}
    if status == "failed":
        refund["failure_reason"] = reason
    refund.pop("pending_reason", None)
    account.store.update(refund)
    _count(account, charge, -refund["amount"])
    if status == "failed":
        emit(account, "refund.failed", refund, before)
    emit(account, "refund.updated", refund, before)


def decide(account: Account, refund: Json, status: str, reason: str) -> Json:
    """What the customer's bank makes of a refund: a late failure, or the end of a pending one. Raises Refused."""
    before = refund["status"]
    if (before, status) not in DECISIONS:
        raise Refused(f"Refund {refund['id']} is {before}: it cannot become {status}.")
    if status in {"failed", "canceled"}:
        fail(account, refund, reason, status=status)
        return refund
    refund["status"] = status
    if status == "succeeded":
        refund.pop("pending_reason", None)
    account.store.update(refund)
    emit(account, "refund.updated", refund, {"status": before})
    return refund


def news(account: Account, refund_id: str) -> None:
    """The job after a refund on a card whose refunds take their time."""
    refund = account.store.get("refund", refund_id)
    if refund is None or refund["status"] not in {"pending", "succeeded"}:
        return
    if refund["status"] == "pending":
        refund["status"] = "succeeded"
        refund.pop("pending_reason", None)
        account.store.update(refund)
        emit(account, "refund.updated", refund, {"status": "pending"})
    else:
        fail(account, refund)


def _count(account: Account, charge: Json, amount: int) -> None:
    charge["amount_refunded"] += amount
    charge["refunded"] = charge["amount_refunded"] >= charge["amount_captured"]
    account.store.update(charge)


def _course(account: Account, charge: Json) -> cards.RefundCourse:
    method = account.store.get("payment_method", charge["payment_method"] or "")
    return "succeeds" if method is None else payment_methods.card_of(method).refund


def _create(call: Call) -> Json:
    account, params = call.account, call.params
    charge = _refundable(call)
    amount = check_amount(account, charge, params.integer("amount", least=1))
    refund = give_back(
        account,
        charge,
        amount=amount,
        reason=params.choice("reason", REASONS),
        metadata=merge_metadata({}, params.metadata()),
    )
    return views.present(account, refund)


def _refundable(call: Call) -> Json:
    """The captured charge that the parameters name. Raises NotFound, InvalidParameter, Refused."""
    params, account = call.params, call.account
    if ("charge" in params) == ("payment_intent" in params):
        raise InvalidParameter(
            "One of the following params should be provided for this request: payment_intent or charge.",
            code="parameter_missing",
        )
    if "charge" in params:
        charge = load(account, "charge", params.required("charge"), "charge")
    else:
        intent = load(account, "payment_intent", params.required("payment_intent"), "payment_intent")
        found = account.store.get("charge", intent["latest_charge"] or "")
        if found is None or not found["captured"]:
            message = f"This PaymentIntent ({intent['id']}) does not have a successful charge to refund."
            raise Refused(message, code="charge_not_refundable", param="payment_intent")
        charge = found
    if not charge["captured"]:
        raise Refused(f"Charge {charge['id']} was not captured.", code="charge_not_refundable", param="charge")
    return charge


def check_amount(account: Account, charge: Json, amount: int | None) -> int:
    """What a captured charge is refunded, None: all that is left. Raises Refused."""
    left = charge["amount_captured"] - charge["amount_refunded"]
    if left == 0:
        raise Refused(f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded")
    blocked = disputes.blocked_amount(account, charge) if charge["disputed"] else 0
    amount = max(left - blocked, 0) if amount is None else amount
    if amount > left:
        whole = "unrefunded amount on charge" if charge["amount_refunded"] else "charge amount"
        shown, rest = money.shown(amount, charge["currency"]), money.shown(left, charge["currency"])
        raise Refused(f"Refund amount ({shown}) is greater than {whole} ({rest})", param="amount")
    if blocked and not 0 < amount <= left - blocked:
        raise Refused(f"Charge {charge['id']} has been charged back; cannot issue a refund.", code="charge_disputed")
    return amount


def _update(call: Call) -> Json:
    refund = call.load("refund")
    before = refund["metadata"]
    refund["metadata"] = merge_metadata(before, call.params.metadata())
    call.account.store.update(refund)
    emit(call.account, "refund.updated", refund, {"metadata": before})
    return views.present(call.account, refund)


def _list_of_charge(call: Call) -> Json:
    charge = call.load("charge")
    params = call.params
    params.values["charge"] = charge["id"]
    return listing("refund", "charge").handle(call)


ROUTES = {
    ("POST", "/v1/refunds"): Route(_create, {"payment_intent", "charge", "amount", "reason", "metadata"}),
    ("GET", "/v1/refunds"): listing("refund", "charge", "payment_intent"),
    ("GET", "/v1/refunds/{id}"): retrieve("refund"),
    ("POST", "/v1/refunds/{id}"): Route(_update, {"metadata"}),
    ("GET", "/v1/charges/{id}/refunds"): Route(_list_of_charge, {"limit", "starting_after", "ending_before"}),
}
