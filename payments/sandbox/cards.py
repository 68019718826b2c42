"""Stripe's test cards: what each is, and what becomes of a charge on it."""

from dataclasses import dataclass, replace
from typing import Literal

from payments.sandbox.errors import BadCard, NotFound


@dataclass(frozen=True)
class Decline:
    code: str
    decline_code: str
    message: str


GENERIC = Decline("card_declined", "generic_decline", "Your card was declined.")
INSUFFICIENT_FUNDS = Decline("card_declined", "insufficient_funds", "Your card has insufficient funds.")
LOST = Decline("card_declined", "lost_card", "Your card was declined.")
STOLEN = Decline("card_declined", "stolen_card", "Your card was declined.")
VELOCITY = Decline(
    "card_declined", "card_velocity_exceeded", "Your card was declined for making repeated attempts too frequently."
)
FRAUDULENT = Decline("card_declined", "fraudulent", "Your card was declined.")
EXPIRED = Decline("expired_card", "expired_card", "Your card has expired.")
INCORRECT_CVC = Decline("incorrect_cvc", "incorrect_cvc", "Your card's security code is incorrect.")
PROCESSING_ERROR = Decline(
    "processing_error", "processing_error", "An error occurred while processing your card. Try again in a little bit."
)
AUTHENTICATION_REQUIRED = Decline(
    "authentication_required",
    "authentication_required",
    "Your card was declined. This transaction requires authentication.",
)
NOT_A_TEST_CARD = Decline(
    "card_declined",
    "test_mode_live_card",
    "Your card was declined. Your request was in test mode, but used a non test card.",
)

RefundCourse = Literal["succeeds", "pending_first", "fails_later"]


@dataclass(frozen=True)
class Card:
    """`ordinary` cards follow the seeded success rate; the others always do what their name says."""

    name: str
    number: str
    brand: str = "visa"
    decline: Decline | None = None
    authentication: bool = False
    processing: bool = False
    refund: RefundCourse = "succeeds"
    dispute: str = ""  # the reason that its charge is disputed for; "inquiry": its bank only asks

    @property
    def ordinary(self) -> bool:
        special = self.decline or self.authentication or self.processing or self.dispute
        return not special and self.refund == "succeeds"


_CARDS = [
    Card("visa", "4242424242424242"),
    Card("visa_debit", "4000056655665556"),
    Card("mastercard", "5555555555554444", "mastercard"),
    Card("mastercard_debit", "5200828282828210", "mastercard"),
    Card("amex", "378282246310005", "amex"),
    Card("discover", "6011111111111117", "discover"),
    Card("diners", "3056930009020004", "diners"),
    Card("jcb", "3566002020360505", "jcb"),
    Card("unionpay", "6200000000000005", "unionpay"),
    Card("chargeDeclined", "4000000000000002", decline=GENERIC),
    Card("chargeDeclinedInsufficientFunds", "4000000000009995", decline=INSUFFICIENT_FUNDS),
    Card("chargeDeclinedLostCard", "4000000000009987", decline=LOST),
    Card("chargeDeclinedStolenCard", "4000000000009979", decline=STOLEN),
    Card("chargeDeclinedExpiredCard", "4000000000000069", decline=EXPIRED),
    Card("chargeDeclinedIncorrectCvc", "4000000000000127", decline=INCORRECT_CVC),
    Card("chargeDeclinedProcessingError", "4000000000000119", decline=PROCESSING_ERROR),
    Card("chargeDeclinedVelocityLimitExceeded", "4000000000006975", decline=VELOCITY),
    Card("chargeDeclinedFraudulent", "4100000000000019", decline=FRAUDULENT),
    Card("authenticationRequired", "4000002760003184", authentication=True),
    Card("threeDSecure2Required", "4000000000003220", authentication=True),
    Card("threeDSecureRequired", "4000000000003063", authentication=True),
    Card("threeDSecureOptional", "4000000000003055"),
    Card("threeDSecureRequiredChargeDeclined", "4000008400001629", authentication=True, decline=GENERIC),
    Card("authenticationRequiredChargeDeclinedInsufficientFunds", "4000008260003178", authentication=True, decline=INSUFFICIENT_FUNDS),
    Card("pendingRefund", "4000000000007726", refund="pending_first"),
    Card("refundFail", "4000000000005126", refund="fails_later"),
    Card("createDispute", "4000000000000259", dispute="fraudulent"),
    Card("createDisputeProductNotReceived", "4000000000002685", dispute="product_not_received"),
    Card("createDisputeInquiry", "4000000000001976", dispute="inquiry"),
    # Not one of Stripe's: an intent that stays in `processing` for a while and then succeeds.
    Card("processing", "0000000000000000", processing=True),
]  # fmt: skip
# A real number in test mode; the number itself is not kept.
UNKNOWN = Card("unknown", "", decline=NOT_A_TEST_CARD)
_BY_NAME = {card.name: card for card in _CARDS}
_BY_NUMBER = {card.number: card for card in _CARDS}


def by_token(token: str) -> Card | None:
    """`pm_card_visa`, `tok_visa`, `pm_card_visa_chargeDeclined`; None when it is no test token."""
    for prefix in ("pm_card_", "tok_"):
        if token.startswith(prefix):
            name = token.removeprefix(prefix)
            return _BY_NAME.get(name) or _BY_NAME.get(name.removeprefix("visa_"))
    return None


def by_name(name: str) -> Card:
    return UNKNOWN if name == UNKNOWN.name else _BY_NAME[name]


def by_number(number: str) -> Card:
    """Raises BadCard (402) for a number that fails its checksum; an unknown one is declined as Stripe's test mode does."""
    digits = "".join(number.split())
    if not digits.isascii() or not digits.isdigit() or not 12 <= len(digits) <= 19 or not _luhn(digits):
        raise BadCard("Your card number is incorrect.", code="incorrect_number", param="number")
    return _BY_NUMBER.get(digits) or replace(UNKNOWN, number=digits)


def from_token(token: str) -> Card:
    card = by_token(token)
    if card is None:
        raise NotFound("PaymentMethod", token, "payment_method")
    return card


def _luhn(digits: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0
