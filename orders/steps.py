"""The steps of `orders.sagas`: each unpacks its context and makes one call."""

from durability.types import Context, Outcome, Succeeded
from orders import services
from orders.types import PaymentWish
from payments import services as payments


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
    asked = context.payload
    wish = PaymentWish(
        method=asked["method"],
        payment_method=asked["payment_method"],
        confirm=asked["confirm"],
        store_credit_minor=asked.get("store_credit", 0),  # a run of an earlier release has none
    )
    services.record_attempt(number=asked["order"], payment=context.key, wish=wish)


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


def check_order_closed(context: Context) -> None:
    services.check_order_closed(number=context.payload["order"], payment=context.key)


def commit_stock(context: Context) -> None:
    services.commit_stock(number=context.payload["order"], by="payment-success")


def return_stock(context: Context) -> None:
    services.return_stock(number=context.payload["order"], by="payment-success")


def post_sale(context: Context) -> None:
    payments.post_sale(context.key, by="payment-success")


def reverse_sale(context: Context) -> None:
    payments.reverse_sale(context.key, by="payment-success")
