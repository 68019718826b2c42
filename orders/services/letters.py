"""E-mail to customers. Sent at least once under one Message-ID, so that a mail server can drop the repeat."""

from typing import Any

from django.core.mail import EmailMessage
from django.template.loader import render_to_string

from foundation.money import format_minor
from orders import selectors
from orders.types import OrderView


def send_receipt(*, number: str) -> None:
    """Tell the customer that the order is paid; does nothing without an address."""
    order = selectors.get_order(number)
    _send(order, kind="receipt", key=number, subject=f"Your order {number}", context={})


def send_refund(*, number: str, refund: str, amount_minor: int) -> None:
    """Tell the customer that money is on its way back; does nothing without an order or an address."""
    if not selectors.is_order(number):
        return
    order = selectors.get_order(number)
    amount = format_minor(amount_minor, order.currency)
    _send(order, kind="refund", key=refund, subject=f"Your refund of {amount}", context={"amount": amount})


def _send(order: OrderView, *, kind: str, key: str, subject: str, context: dict[str, Any]) -> None:
    if not order.customer.email:
        return
    lines = [(item.quantity, item.title, format_minor(item.amount_minor, order.currency)) for item in order.items]
    body = render_to_string(
        f"emails/{kind}.txt",
        {"order": order, "lines": lines, "total": format_minor(order.total_minor, order.currency), **context},
    )
    message = EmailMessage(
        subject, body, to=[order.customer.email], headers={"Message-ID": f"<{kind}.{key}@everycent.example>"}
    )
    message.send()
