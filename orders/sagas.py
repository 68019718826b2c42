"""What happens to a sale. Read it from top to bottom.

A `Step` is a change in our own database: it commits together with the saga's progress, so it happens once. A `Call` goes
to the provider under one stable number, outside of any transaction, and may have to be asked again. A definite failure
undoes the steps in reverse, from the one that failed; a timeout is none, and is tried again.
"""

from durability.registry import register
from durability.types import Call, Saga, Step
from orders import steps

# A customer checks out. The run's key is the order's number.
CHECKOUT = register(
    Saga(
        "orders.checkout",
        version=1,
        steps=(
            # Done in the transaction that takes the key: order, items, reserved stock, the payment's intent. If the
            # provider refuses the payment, the order is cancelled and the stock goes back on the shelf.
            Step("place the order", do=None, undo=steps.undo_checkout),
            # One try in the customer's request; a worker goes on. What it ends in is the payment's state: waiting for
            # the customer's bank, declined, or captured, and a capture is news that starts PAYMENT_SUCCESS.
            Call("open the payment at the provider", do=steps.open_payment, record=steps.record_opening, undo=None),
        ),
    )
)

# The money is there. The run's key is the payment's number.
PAYMENT_SUCCESS = register(
    Saga(
        "orders.payment_success",
        version=1,
        steps=(
            # If the sale cannot be carried through, the order is cancelled and the customer gets the money back. Nobody
            # skips that: money would be taken and the order open.
            Step(
                "mark order paid",
                do=steps.mark_paid,
                undo=steps.cancel_and_request_refund,
                may_skip=steps.check_order_closed,
            ),
            Step("commit stock", do=steps.commit_stock, undo=steps.return_stock),
            Step("post the sale", do=steps.post_sale, undo=steps.reverse_sale),
        ),
    )
)

# A customer pays again after a decline. The run's key is the new payment's number.
NEW_ATTEMPT = register(
    Saga(
        "orders.new_attempt",
        version=1,
        steps=(
            # First, so that nobody can pay twice.
            Call("cancel the earlier attempt", do=steps.cancel_earlier, record=steps.record_earlier, undo=None),
            Step("record the new attempt", do=steps.record_attempt, undo=None),
            Call(
                "open the payment at the provider",
                do=steps.open_attempt,
                record=steps.record_attempt_opening,
                undo=None,
            ),
        ),
    )
)

# Nobody paid in time, or the customer gave up. The run's key is the order's number and the moment of the request: an
# order whose payment was being processed may be cancelled again later.
CANCEL_UNPAID = register(
    Saga(
        "orders.cancel_unpaid",
        version=1,
        steps=(
            # At the provider first: nobody shall pay for what is not held any more. If it cannot be cancelled there,
            # the order stays open for a while, and expiry asks anew.
            Call(
                "cancel the payment at the provider",
                do=steps.cancel_payment,
                record=steps.record_cancelling,
                undo=steps.forget_cancel,
            ),
            Step("cancel the order, release its stock", do=steps.close_unpaid, undo=None),
        ),
    )
)
