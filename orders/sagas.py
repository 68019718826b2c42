"""What happens to a sale, from top to bottom.

Each recipe is a list of steps. A `Step` commits its effect together with the saga's progress; a `Call` goes to the
provider under one stable number, outside of any transaction. A definite failure undoes the steps in reverse.
"""

from durability.registry import register
from durability.types import Call, Context, Outcome, Saga, Step, Succeeded
from orders import services
from orders.types import PaymentWish
from payments import services as payments

# --- Steps ------------------------------------------------------------------------------------------


def open_payment(context: Context) -> Outcome:
    return payments.open_at_provider(context.payload["payment"])


def record_opening(context: Context, outcome: Outcome) -> None:
    payments.record_opening(context.payload["payment"], outcome)


def undo_checkout(context: Context) -> None:
    services.undo_checkout(number=context.key, by="checkout")


def cancel_earlier(context: Context) -> Outcome:
    earlier = context.payload["earlier"]
    return payments.cancel_at_provider(earlier) if earlier else Succeeded()


def record_earlier(context: Context, outcome: Outcome) -> None:
    if context.payload["earlier"]:
        payments.record_cancelling(context.payload["earlier"], outcome, by="a newer attempt")


def record_attempt(context: Context) -> None:
    wish = PaymentWish(context.payload["method"], context.payload["payment_method"], confirm=context.payload["confirm"])
    services.record_attempt(number=context.payload["order"], payment=context.key, wish=wish)


def open_attempt(context: Context) -> Outcome:
    return payments.open_at_provider(context.key)


def record_attempt_opening(context: Context, outcome: Outcome) -> None:
    payments.record_opening(context.key, outcome)


def cancel_payment(context: Context) -> Outcome:
    payment = context.payload["payment"]
    return payments.cancel_at_provider(payment) if payment else Succeeded()


def record_cancelling(context: Context, outcome: Outcome) -> None:
    if context.payload["payment"]:
        payments.record_cancelling(context.payload["payment"], outcome, by=context.payload["by"])


def forget_cancel(context: Context) -> None:
    services.forget_cancel(number=context.payload["order"])


def close_unpaid(context: Context) -> None:
    payload = context.payload
    services.close_unpaid(number=payload["order"], by=payload["by"], why=payload.get("why", ""))


def mark_paid(context: Context) -> None:
    services.mark_paid(number=context.payload["order"], payment=context.key, by="payment-success")


def cancel_and_request_refund(context: Context) -> None:
    services.cancel_and_request_refund(number=context.payload["order"], payment=context.key, by="payment-success")


def commit_stock(context: Context) -> None:
    services.commit_stock(number=context.payload["order"], by="payment-success")


def return_stock(context: Context) -> None:
    services.return_stock(number=context.payload["order"], by="payment-success")


def post_sale(context: Context) -> None:
    payments.post_sale(context.key, by="payment-success")


def reverse_sale(context: Context) -> None:
    payments.reverse_sale(context.key, by="payment-success")


# --- Recipes ----------------------------------------------------------------------------------------

# The run's key is the order's number.
CHECKOUT = register(
    Saga(
        "orders.checkout",
        version=1,
        steps=(
            Step("place the order", do=None, undo=undo_checkout),  # done in the transaction that takes the key
            Call("open the payment at the provider", do=open_payment, record=record_opening, undo=None),
        ),
    )
)

# The run's key is the new payment's number.
NEW_ATTEMPT = register(
    Saga(
        "orders.new_attempt",
        version=1,
        steps=(
            Call("cancel the earlier attempt at the provider", do=cancel_earlier, record=record_earlier, undo=None),
            Step("record the new attempt", do=record_attempt, undo=None),
            Call("open the payment at the provider", do=open_attempt, record=record_attempt_opening, undo=None),
        ),
    )
)

# The run's key is the payment's number.
PAYMENT_SUCCESS = register(
    Saga(
        "orders.payment_success",
        version=1,
        steps=(
            Step("mark order paid", do=mark_paid, undo=cancel_and_request_refund),
            Step("commit stock", do=commit_stock, undo=return_stock),
            Step("post the sale", do=post_sale, undo=reverse_sale),
        ),
    )
)

# The run's key is the order's number and the moment of the request: an order whose payment was being processed may
# be cancelled again later.
CANCEL_UNPAID = register(
    Saga(
        "orders.cancel_unpaid",
        version=1,
        steps=(
            Call(
                "cancel the payment at the provider",
                do=cancel_payment,
                record=record_cancelling,
                undo=forget_cancel,
            ),
            Step("cancel the order, release its stock", do=close_unpaid, undo=None),
        ),
    )
)
