"""What orders refuse."""

from collections.abc import Mapping
from typing import Any, ClassVar

from foundation.errors import DomainError, InvalidInput
from orders import examples
from payments.examples import PAYMENT_NUMBER


class ProductNotFound(InvalidInput):
    """There is no such product for sale: check its id, and that it is published."""

    code = "product_not_found"
    shown: ClassVar[Mapping[str, Any]] = {"param": "items[0].product"}


class CurrencyMixed(InvalidInput):
    """One order has one currency: put products of one currency into it."""

    code = "currency_mixed"
    shown: ClassVar[Mapping[str, Any]] = {"param": "items"}


class NothingToPay(InvalidInput):
    """The total of an order must be above 0."""

    shown: ClassVar[Mapping[str, Any]] = {"param": "items"}


class OrderAlreadyPaid(DomainError):
    """The order is paid: the member `payment` names the payment that paid it."""

    code = "order_already_paid"
    status = 409
    shown: ClassVar[Mapping[str, Any]] = {"payment": PAYMENT_NUMBER}


class OrderNotOpen(DomainError):
    """The order is not open for payment any more: start a new checkout."""

    code = "illegal_transition"
    status = 409


class PaymentStillProcessing(DomainError):
    """The provider is still working on an earlier attempt: try again when it has ended."""

    code = "payment_in_progress"
    status = 409
    retry_after_s = 5


class PaymentContradicts(DomainError):
    """What the provider took for an earlier attempt is not what was asked for: our staff looks at it. Check out anew."""

    code = "payment_in_progress"
    status = 409


class CardDeclined(DomainError):
    """The card was declined. The order stands, its stock is reserved: pay it by a new attempt with another card."""

    code = "card_declined"
    status = 402
    shown: ClassVar[Mapping[str, Any]] = examples.DECLINED


class PaymentNotOpened(DomainError):
    """The payment provider refused to open the payment. The order stands: mend what it refused, then start a new attempt."""

    code = "provider_error"
    status = 424
    shown: ClassVar[Mapping[str, Any]] = examples.NOT_OPENED


class OrderDisputed(DomainError):
    """The customer's bank takes back what was paid (member `payment`), or has: whatever leaves the house now is not paid
    for. Wait for the end of the dispute, or have staff ship it with a reason.
    """

    code = "payment_disputed"
    status = 409
    shown: ClassVar[Mapping[str, Any]] = {"payment": PAYMENT_NUMBER}
