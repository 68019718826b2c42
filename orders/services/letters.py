"""E-mail and text messages: what customers and staff are told of an order.

Sent at least once, each under one id that is derived from what it tells of (the Message-ID, a text message's key), so
that the other side can drop the repeat. Everything here belongs outside of transactions. Who left no address, or one
that is none, is not told; nothing else is skipped.
"""

import logging
from collections.abc import Sequence
from datetime import datetime
from email.utils import formataddr, parseaddr
from typing import Any
from urllib.parse import quote

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.mail import EmailMultiAlternatives
from django.core.validators import validate_email
from django.template.loader import render_to_string
from django.urls import reverse

from catalog import selectors as catalog
from foundation import sms
from foundation.money import format_minor
from orders import selectors
from orders.types import OrderView
from payments.events import DisputeOpened, RefundFailed

log = logging.getLogger(__name__)

HOUSE = "Everycent"  # who writes to staff


# --- To customers -----------------------------------------------------------------------------------


def send_receipt(*, number: str) -> None:
    """The order is paid."""
    _post(receipt(selectors.get_order(number)))


def send_shipment(*, number: str) -> None:
    """The order has left the house."""
    _post(shipment(selectors.get_order(number)))


def send_cancellation(*, number: str) -> None:
    """The order, which was paid, is cancelled, and what was paid goes back."""
    _post(cancellation(selectors.get_order(number)))


def send_refund(*, number: str, refund: str, amount_minor: int) -> None:
    """Money is on its way back; does nothing where the payment was for no order."""
    if selectors.is_order(number):
        _post(refund_note(selectors.get_order(number), refund=refund, amount_minor=amount_minor))


def receipt(order: OrderView) -> EmailMultiAlternatives:
    return _about(order, "receipt", key=order.number, subject=f"Your order {order.number}")


def shipment(order: OrderView) -> EmailMultiAlternatives:
    return _about(order, "shipment", key=order.number, subject=f"Your order {order.number} is on its way")


def cancellation(order: OrderView) -> EmailMultiAlternatives:
    """What the customer's bank has given back already, after a dispute, does not come from us as well."""
    paid_minor = sum(payment.captured_minor for payment in order.payments)
    lost_minor = sum(payment.disputed_lost_minor for payment in order.payments)
    return _about(
        order,
        "cancellation",
        key=order.number,
        subject=f"Your order {order.number} is cancelled",
        paid=format_minor(paid_minor, order.currency),
        by_the_bank=format_minor(lost_minor, order.currency) if lost_minor else "",
    )


def refund_note(order: OrderView, *, refund: str, amount_minor: int) -> EmailMultiAlternatives:
    amount = format_minor(amount_minor, order.currency)
    return _about(order, "refund", key=refund, subject=f"Your refund of {amount}", amount=amount, refund=refund)


def _about(order: OrderView, kind: str, *, key: str, subject: str, **more: Any) -> EmailMultiAlternatives:
    return compose(kind, key=key, to=[order.customer.email], subject=subject, context=about(order) | more)


def text_receipt(*, number: str) -> None:
    """The order is paid, as a text message."""
    _text(selectors.get_order(number), "receipt")


def text_shipment(*, number: str) -> None:
    """The order has left the house, as a text message."""
    _text(selectors.get_order(number), "shipment")


def _text(order: OrderView, kind: str) -> None:
    if not order.customer.phone:
        return
    if not sms.is_number(order.customer.phone):
        log.warning("%s: the customer's telephone number is none, no text message is sent", order.number)
        return
    text = render_to_string(f"sms/{kind}.txt", about(order)).strip()
    sms.send(to=order.customer.phone, text=text, key=f"{kind}.{order.number}")


def about(order: OrderView) -> dict[str, Any]:
    """What every letter about an order may speak of; amounts as people read them."""
    return {
        "sender": catalog.get_merchant(order.merchant_id).name,
        "order": order,
        "lines": [
            {
                "title": item.title,
                "quantity": item.quantity,
                "unit_price": format_minor(item.unit_price_minor, order.currency),
                "amount": format_minor(item.amount_minor, order.currency),
            }
            for item in order.items
        ],
        "total": format_minor(order.total_minor, order.currency),
    }


# --- To staff ---------------------------------------------------------------------------------------


def warn_of_failed_refund(*, event: RefundFailed) -> None:
    """A refund failed: a person must find another way to give the money back."""
    _post(failed_refund(event))


def warn_of_dispute(*, event: DisputeOpened) -> None:
    """A customer's bank wants money back, or an answer: a person must give it, by a date."""
    _post(dispute(event))


def failed_refund(event: RefundFailed) -> EmailMultiAlternatives:
    amount = format_minor(event.amount_minor, event.currency)
    what = "came back after it had succeeded" if event.late else "failed"
    return _to_staff(
        "staff_refund",
        key=event.refund,
        headline=f"A refund of {amount} {'came back' if event.late else 'failed'}",
        says=f"The refund {what}: the customer has not got the money, and we owe it. Refund it anew, or agree on another "
        "way with the customer.",
        facts=[("Refund", event.refund), ("Payment", event.payment), ("For", event.reference), ("Amount", amount)],
        page="payments_refund",
        find=event.refund,
    )


def dispute(event: DisputeOpened) -> EmailMultiAlternatives:
    amount = format_minor(event.amount_minor, event.currency)
    due = (
        f"{datetime.fromisoformat(event.evidence_due_at):%d %B %Y, %H:%M} UTC" if event.evidence_due_at else "not said"
    )
    if event.inquiry:
        headline, says = (
            f"A bank asks about {amount}",
            "The customer's bank asks about a payment; no money was taken yet.",
        )
    else:
        headline, says = f"A payment of {amount} is disputed", "The customer's bank takes the money of a payment back."
    return _to_staff(
        "staff_inquiry" if event.inquiry else "staff_dispute",
        key=f"{event.dispute}.{event.evidence_due_at[:10]}",  # an appeal opens it again, with another date
        headline=headline,
        says=f"{says} Answer at the provider before evidence is due: who is silent has lost.",
        facts=[
            ("Evidence due", due),
            ("Reason", event.reason.replace("_", " ")),
            ("Dispute", event.dispute),
            ("Payment", event.payment),
            ("For", event.reference),
            ("Amount", amount),
        ],
        page="payments_dispute",
        find=event.dispute,
    )


def _to_staff(
    kind: str, *, key: str, headline: str, says: str, facts: Sequence[tuple[str, str]], page: str, find: str
) -> EmailMultiAlternatives:
    address = f"{reverse(f'admin:{page}_changelist')}?q={quote(find)}"
    link = f"{settings.PUBLIC_URL.rstrip('/')}{address}" if settings.PUBLIC_URL else ""
    context = {"sender": HOUSE, "headline": headline, "says": says, "facts": facts, "link": link}
    return compose(kind, key=key, to=settings.STAFF_EMAILS, subject=headline, context=context, template="staff")


# --- Any letter -------------------------------------------------------------------------------------


def compose(
    kind: str, *, key: str, to: Sequence[str], subject: str, context: dict[str, Any], template: str = ""
) -> EmailMultiAlternatives:
    """A letter as text and as HTML. `kind` and `key` together are its identity: sent again, it has the same Message-ID."""
    _, address = parseaddr(settings.DEFAULT_FROM_EMAIL)
    sender = " ".join(context["sender"].split())  # a name with a line break would be a header of its own
    context = {**context, "subject": subject}
    message = EmailMultiAlternatives(
        subject,
        render_to_string(f"emails/{template or kind}.txt", context),
        from_email=formataddr((sender, address)),
        to=list(to),
        headers={
            "Message-ID": f"<{kind}.{key}@{address.rpartition('@')[2]}>",
            "Auto-Submitted": "auto-generated",  # nobody's absence assistant answers
        },
    )
    message.attach_alternative(render_to_string(f"emails/{template or kind}.html", context), "text/html")
    return message


def _post(message: EmailMultiAlternatives) -> None:
    message.to = [address for address in message.to if _is_address(address, of=str(message.subject))]
    if message.to:
        message.send()


def _is_address(address: str, *, of: str) -> bool:
    if not address:
        return False
    try:
        validate_email(address)
    except ValidationError:
        log.warning("%s: the e-mail address is none, no mail is sent", of)
        return False
    return True
