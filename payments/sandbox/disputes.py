"""Disputes: a customer's bank takes the money back, and a merchant with evidence may get it back from there.

A dispute has no balance transaction (an inquiry: the bank only asks), one (withdrawn) or two (given back after it was won).
"""

from payments.sandbox import balance, money, views
from payments.sandbox import payment_methods as methods
from payments.sandbox.account import Account, new_id
from payments.sandbox.calls import Call, Route, listing, retrieve
from payments.sandbox.errors import InvalidParameter, Refused
from payments.sandbox.events import emit
from payments.sandbox.forms import merge_metadata
from payments.sandbox.store import Json

EVIDENCE_DAYS = 7
REASONS = (
    "fraudulent",
    "product_not_received",
    "product_unacceptable",
    "duplicate",
    "credit_not_processed",
    "subscription_canceled",
    "unrecognized",
    "general",
)
OPEN = ("warning_needs_response", "warning_under_review", "needs_response", "under_review")
OUTCOMES = ("needs_response", "under_review", "won", "lost", "warning_closed", "prevented")
# What a merchant writes into `uncategorized_text` to see a test dispute decided.
_DECIDING = {"winning_evidence": "won", "losing_evidence": "lost", "escalate_inquiry_evidence": "needs_response"}
_EVIDENCE = [
    "access_activity_log",
    "billing_address",
    "cancellation_policy",
    "cancellation_policy_disclosure",
    "cancellation_rebuttal",
    "customer_communication",
    "customer_email_address",
    "customer_name",
    "customer_purchase_ip",
    "customer_signature",
    "duplicate_charge_documentation",
    "duplicate_charge_explanation",
    "duplicate_charge_id",
    "product_description",
    "receipt",
    "refund_policy",
    "refund_policy_disclosure",
    "refund_refusal_explanation",
    "service_date",
    "service_documentation",
    "shipping_address",
    "shipping_carrier",
    "shipping_date",
    "shipping_documentation",
    "shipping_tracking_number",
    "uncategorized_file",
    "uncategorized_text",
]


def build(
    account: Account,
    charge: Json,
    *,
    reason: str = "fraudulent",
    amount: int | None = None,
    inquiry: bool = False,
    due_in_s: int = EVIDENCE_DAYS * 86400,
) -> Json:
    """A dispute that needs a response, of the charge's whole amount where none is given."""
    return {
        "id": new_id("dp"),
        "object": "dispute",
        "amount": charge["amount"] if amount is None else amount,
        "balance_transactions": [],
        "charge": charge["id"],
        "created": account.now(),
        "currency": charge["currency"],
        "enhanced_eligibility_types": [],
        "evidence": {**dict.fromkeys(_EVIDENCE), "enhanced_evidence": {}},
        "evidence_details": {
            "due_by": account.now() + due_in_s,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
        },
        "is_charge_refundable": inquiry,
        "livemode": False,
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        "payment_method_details": {
            "card": {
                "brand": "visa",
                "case_type": "inquiry" if inquiry else "chargeback",
                "network": "visa",
                "network_reason_code": "10.4",
            },
            "type": "card",
        },
        "reason": reason,
        "status": "warning_needs_response" if inquiry else "needs_response",
    }


def open_dispute(
    account: Account,
    charge: Json,
    *,
    reason: str = "fraudulent",
    amount: int | None = None,
    inquiry: bool = False,
    due_in_s: int = EVIDENCE_DAYS * 86400,
) -> Json:
    """The customer's bank disputes a captured charge, in part or whole; the money leaves the balance unless it only asks.

    Raises Refused where the charge took no money, or less than the amount.
    """
    if not charge["captured"]:
        raise Refused(f"Charge {charge['id']} was not captured.", param="charge")
    if amount is not None and not 0 < amount <= charge["amount_captured"]:
        raise Refused(f"Only {charge['amount_captured']} of {charge['id']} can be disputed.", param="amount")
    dispute = build(account, charge, reason=reason, amount=amount, inquiry=inquiry, due_in_s=due_in_s)
    charge["disputed"] = True
    account.store.update(charge)
    account.store.insert(dispute)
    if not inquiry:
        _withdraw(account, dispute)
    emit(account, "charge.dispute.created", dispute)
    if not inquiry:
        emit(account, "charge.dispute.funds_withdrawn", dispute)
    return dispute


def open_by_card(account: Account, charge_id: str) -> None:
    """The job after a charge on a card that is made to dispute."""
    charge = account.store.get("charge", charge_id)
    if charge is None or charge["disputed"]:
        return
    method = account.store.get("payment_method", charge["payment_method"] or "")
    reason = methods.card_of(method).dispute if method else ""
    inquiry = reason == "inquiry"
    open_dispute(account, charge, reason="general" if inquiry else reason or "fraudulent", inquiry=inquiry)


def decide(account: Account, dispute: Json, status: str) -> Json:
    """What becomes of a dispute: any of OUTCOMES, also after it was closed (an appeal). Raises Refused where it makes no sense."""
    before = dispute["status"]
    inquiry = before.startswith("warning_")
    if status == before:
        raise Refused(f"Dispute {dispute['id']} is {before} already.")
    if status == "under_review" and inquiry:
        status = "warning_under_review"
    if (status == "warning_closed") > inquiry or (inquiry and status in {"won", "lost"}) or before == "prevented":
        raise Refused(f"Dispute {dispute['id']} is {before}: it cannot become {status}.")
    dispute["status"] = status
    previous: Json = {"status": before}
    if inquiry and status == "needs_response":  # the bank does not only ask any more
        dispute["is_charge_refundable"] = False
        dispute["payment_method_details"]["card"]["case_type"] = "chargeback"
    moved = _funds(account, dispute, status)
    account.store.update(dispute)
    closed = status in {"won", "lost", "warning_closed", "prevented"}
    emit(account, "charge.dispute.closed" if closed else "charge.dispute.updated", dispute, previous)
    if moved:
        emit(account, f"charge.dispute.funds_{moved}", dispute)
    return dispute


def blocked_amount(account: Account, charge: Json) -> int:
    """How much of a charge cannot be refunded because of its disputes: all of it while one is open, then what was lost."""
    found = account.store.page(
        "dispute", equal={"charge": charge["id"]}, created={}, types=(), older_than=None, newer_than=None, limit=100
    )
    if any(one["status"] in OPEN and not one["is_charge_refundable"] for one in found):
        return int(charge["amount_captured"])
    return sum(one["amount"] for one in found if one["status"] in {"lost", "prevented"})


def _funds(account: Account, dispute: Json, status: str) -> str:
    """Bring the money to where the status wants it: `withdrawn`, `reinstated`, or empty where it is there already."""
    taken = -sum(row["amount"] for row in dispute["balance_transactions"])
    if status == "won" and taken:
        _book(account, dispute, taken, fee=0, category="dispute_reversal", text="Chargeback reversal for")
        return "reinstated"
    if status in {"needs_response", "lost", "prevented"} and not taken:
        _withdraw(account, dispute)
        return "withdrawn"
    return ""


def _withdraw(account: Account, dispute: Json) -> None:
    fee = money.dispute_fee(dispute["currency"])
    _book(account, dispute, -dispute["amount"], fee=fee, category="dispute", text="Chargeback withdrawal for")


def _book(account: Account, dispute: Json, amount: int, *, fee: int, category: str, text: str) -> None:
    row = balance.record(
        account,
        kind="adjustment",
        source=dispute["id"],
        amount=amount,
        currency=dispute["currency"],
        fee=fee,
        fee_text="Dispute fee",
        description=f"{text} {dispute['charge']}",
        category=category,
    )
    # Embedded, as Stripe does it: read again when shown, because its status moves with the clock.
    dispute["balance_transactions"] = [*dispute["balance_transactions"], row]
    account.store.update(dispute)


def _update(call: Call) -> Json:
    """Evidence; with `submit` (the default, as Stripe has it) the bank reads it, and deciding words decide at once."""
    account, params, dispute = call.account, call.params, call.load("dispute")
    if dispute["status"] not in OPEN:
        raise Refused(f"This dispute is already {dispute['status']}.", code="dispute_already_closed")
    before = {"evidence": dispute["evidence"], "evidence_details": dispute["evidence_details"]}
    evidence = params.mapping("evidence") if "evidence" in params else {}
    unknown = [name for name in evidence if name not in _EVIDENCE]
    if unknown:
        raise InvalidParameter(f"Received unknown parameter: evidence[{unknown[0]}]", param=f"evidence[{unknown[0]}]")
    details = dispute["evidence_details"]
    dispute["evidence"] = {**dispute["evidence"], **{name: value or None for name, value in evidence.items()}}
    dispute["metadata"] = merge_metadata(dispute["metadata"], params.metadata())
    dispute["evidence_details"] = {**details, "has_evidence": details["has_evidence"] or bool(evidence)}
    submitted = bool(evidence) and ("submit" not in params or params.flag("submit"))
    if submitted:
        dispute["evidence_details"]["submission_count"] += 1
    account.store.update(dispute)
    emit(account, "charge.dispute.updated", dispute, before)
    if submitted:
        verdict = _DECIDING.get(str(evidence.get("uncategorized_text") or ""), "under_review")
        if dispute["status"].startswith("warning_") and verdict in {"won", "lost"}:
            verdict = "warning_closed"
        if verdict != dispute["status"]:
            dispute = decide(account, dispute, verdict)
    return views.present(account, dispute)


def _close(call: Call) -> Json:
    """The merchant gives in: lost (an inquiry cannot be closed so)."""
    dispute = call.load("dispute")
    if dispute["status"] not in {"needs_response", "under_review"}:
        raise Refused(f"This dispute is {dispute['status']}: it cannot be closed.", code="dispute_not_closable")
    return views.present(call.account, decide(call.account, dispute, "lost"))


ROUTES = {
    ("GET", "/v1/disputes"): listing("dispute", "charge", "payment_intent"),
    ("GET", "/v1/disputes/{id}"): retrieve("dispute"),
    ("POST", "/v1/disputes/{id}"): Route(_update, {"evidence", "metadata", "submit"}),
    ("POST", "/v1/disputes/{id}/close"): Route(_close),
}
