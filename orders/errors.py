"""What orders refuse."""

from foundation.errors import DomainError, InvalidInput


class ProductNotFound(InvalidInput):
    """There is no such product for sale: check its id, and that it is published."""

    code = "product_not_found"


class CurrencyMixed(InvalidInput):
    """One order has one currency: put products of one currency into it."""

    code = "currency_mixed"


class NothingToPay(InvalidInput):
    """The total of an order must be above 0."""


class OrderAlreadyPaid(DomainError):
    """The order is paid: the member `payment` names the payment that paid it."""

    code = "order_already_paid"
    status = 409


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
