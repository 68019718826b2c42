"""Everything that writes orders, and what it asks of catalog, inventory and payments."""

from orders.services.attempts import begin_attempt, record_attempt
from orders.services.cancelling import close_unpaid, forget_cancel, request_cancel, undo_checkout
from orders.services.checkout import place_order
from orders.services.disputes import note_dispute
from orders.services.expiry import expire_due, rearm
from orders.services.fulfilment import complete_order, ship_order
from orders.services.sales import (
    attach_payment,
    cancel_and_request_refund,
    check_order_closed,
    commit_stock,
    give_back_after_dispute,
    mark_paid,
    note_failed_refund,
    note_refund,
    note_rejected_refund,
    receive_payment,
    return_stock,
)

__all__ = [
    "attach_payment",
    "begin_attempt",
    "cancel_and_request_refund",
    "check_order_closed",
    "close_unpaid",
    "commit_stock",
    "complete_order",
    "expire_due",
    "forget_cancel",
    "give_back_after_dispute",
    "mark_paid",
    "note_dispute",
    "note_failed_refund",
    "note_refund",
    "note_rejected_refund",
    "place_order",
    "rearm",
    "receive_payment",
    "record_attempt",
    "request_cancel",
    "return_stock",
    "ship_order",
    "undo_checkout",
]
