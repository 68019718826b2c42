"""What payments refuse, and how the provider's answers are told apart."""

from collections.abc import Mapping
from typing import Any, ClassVar

from foundation.errors import DomainError, InvalidInput


class PaymentInProgress(DomainError):
    """Another attempt for this order is still open: let it end, or cancel it, before starting a new one."""

    code = "payment_in_progress"
    status = 409


class PaymentNotRefundable(DomainError):
    """Only a payment that has succeeded can be refunded."""

    code = "payment_not_refundable"
    status = 409


class RefundExceedsCaptured(DomainError):
    """The refunds of this payment would exceed what was captured: ask for less."""

    code = "refund_exceeds_captured"
    status = 409


class PaymentDisputed(DomainError):
    """The payment is disputed: a refund now could pay the customer twice. Wait until the dispute is closed."""

    code = "payment_disputed"
    status = 409


class SecondPersonNeeded(DomainError):
    """Nobody approves what they asked for themselves: a second person has to."""

    code = "second_person_needed"
    status = 403


class RefundWindowClosed(DomainError):
    """The merchant's refund window for this payment has closed: staff can still refund with a reason."""

    code = "refund_window_closed"
    status = 409


class AccountOverdrawn(DomainError):
    """A customer's account would fall below zero."""

    code = "account_overdrawn"
    status = 409


class BooksNotSettled(DomainError):
    """Transactions under way may still post before that moment: try again in a minute."""

    code = "books_not_settled"
    status = 503
    retry_after_s = 60


class EntryNotReversible(DomainError):
    """This entry follows from a payment, a refund or an order: what takes that back takes the entry back."""

    code = "entry_not_reversible"
    status = 409


class StoreCreditInsufficient(DomainError):
    """The customer has less store credit than that: the member `available` says how much there is."""

    code = "insufficient_store_credit"
    status = 409
    shown: ClassVar[Mapping[str, Any]] = {"param": "store_credit", "available": 300}


class StoreCreditExceedsTotal(InvalidInput):
    """The order costs less than that: store credit covers at most its total."""

    shown: ClassVar[Mapping[str, Any]] = {"param": "payment.store_credit"}


class SignatureInvalid(DomainError):
    """The webhook's signature does not match: check the endpoint's signing secret and this host's clock."""

    code = "signature_invalid"
    status = 400


class ProviderUnavailable(DomainError):
    """The payment provider does not answer: send the request again in a moment, with the same Idempotency-Key."""

    code = "provider_unavailable"
    status = 503
    retry_after_s = 5


class ContradictsProvider(DomainError):
    """The provider reports another amount, currency or mode than ours: nothing was changed."""

    code = "contradicts_provider"
    status = 409


class ProviderRefused(Exception):
    """The provider will never do it: a definite refusal."""

    def __init__(self, code: str, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(f"{code}: {message}")


class ProviderUnsure(Exception):
    """Nobody can say whether it happened: a timeout, a reset, a 500. `final` if the provider replays that answer."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        self.final = final
        super().__init__(reason)


class ProviderBusy(Exception):
    """The provider did not even begin (429, 409): the same request may simply be sent again."""
