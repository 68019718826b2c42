"""One transaction of each shape, written by the product itself: API, workers and provider, as on any other day.

They are what the drill multiplies. So whatever the product writes about a sale, a refund or a dispute stands in every copy of it,
and no second hand has to know which rows that are.
"""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from typing import Any

from foundation.database import database_now
from payments import services as payments
from payments.models import Payment, Refund
from reconciliation import services as reconciliation
from reconciliation.models import Discrepancy
from reconciliation.types import Action, Kind
from tests.sandbox_process import SandboxProcess
from tests.shop import Shop, open_shop, settle

OPENING_MINOR = 1_000_00  # dollars that the provider held before the books began
# Prices as they are in shops: few, so that many payments of a day are equal in all but their ids.
PRICES = {"usd": (1500, 1999, 4500), "eur": (1290,), "jpy": (980,), "kwd": (12_340,)}
# One sale of 500.00 in each: a statement of its own, whose clearing account can be off by itself.
SMALL_CURRENCIES = (
    *("aed", "aud", "brl", "cad", "chf", "czk", "dkk", "gbp", "hkd", "inr"),
    *("mxn", "myr", "nok", "nzd", "pln", "ron", "sek", "sgd", "thb", "zar"),
)
SMALL_PRICE_MINOR = 50_000
COPIES_IN_STOCK = 10_000_000  # for all the copies of what is sold here
_CARD = {"method": "card", "payment_method": "pm_card_visa", "confirm": True}


@dataclass
class Original:
    """One transaction and what hangs on it. `orders` and `payouts` lead to all of its rows in our books."""

    shape: str
    weight: int  # how often it happens, beside the others
    orders: list[str] = field(default_factory=list)  # numbers
    payouts: list[str] = field(default_factory=list)  # the provider's ids


@dataclass
class Trade:
    """A shop that trades on a day that is over, far from midnight, with a provider that tells no news by itself."""

    sandbox: SandboxProcess
    day: date
    shop: Shop = field(init=False)
    made: list[Original] = field(default_factory=list)
    began_at: datetime = field(init=False)

    def open(self, *, currencies: int) -> None:
        """Trade in every shape, and in so many of the small currencies."""
        self.sandbox.control("POST", "webhooks", {"mode": "drop"})
        self._at(datetime.combine(self.day, time(12), UTC))
        reconciliation.start_books(
            starts_on=self.day, balances={"usd": OPENING_MINOR}, by="drill", note="what the provider held before"
        )
        self.shop = open_shop()
        self.began_at = database_now()
        for currency, prices in PRICES.items():
            for price in prices:
                self.shop.stock(_book(currency, price), COPIES_IN_STOCK, price=price, currency=currency)
        for currency in SMALL_CURRENCIES[:currencies]:
            self.shop.stock(_book(currency), COPIES_IN_STOCK, price=SMALL_PRICE_MINOR, currency=currency)
        self._payouts()
        self._sales()
        for currency in SMALL_CURRENCIES[:currencies]:
            self._add(f"sale in {currency}", 0, self._sell(_book(currency)))
        refunded = [self._sell() for _ in range(4)]
        disputed = [self._sell() for _ in range(3)]
        settle(webhooks=False)
        self._refunds(*refunded)
        self._disputes(*disputed)
        self._unpaid()

    # --- Shapes ---------------------------------------------------------------------------------------

    def _sales(self) -> None:
        for currency, prices in PRICES.items():
            for price in prices:
                self._add("sale", 20, self._sell(_book(currency, price)))
        self._add("sale of several", 6, self._sell(quantity=3))
        self._add("sale at the second try", 3, self._sell_at_the_second_try())

    def _refunds(self, in_part: str, twice: str, whole: str, failed: str) -> None:
        for order, amounts in ((in_part, (500,)), (twice, (500, 300)), (whole, (None,)), (failed, (700,))):
            for amount in amounts:
                self._refund(order, amount)
        settle(webhooks=False)
        (refund,) = Refund.objects.filter(payment__reference=failed).values_list("provider_reference", flat=True)
        self.sandbox.control("POST", "refunds/outcome", {"refund": refund, "status": "failed"})
        payments.sync_refund(str(refund), by="drill")
        settle(webhooks=False)
        told = Discrepancy.objects.get(kind=Kind.REFUND_FAILED_LATE)  # in clean books that has been dealt with
        reconciliation.perform(discrepancy_id=told.pk, action=Action.ACCEPT, by="drill", note="paid back in the shop")
        self._add("refunded in part", 6, in_part)
        self._add("refunded twice", 1, twice)
        self._add("refunded", 3, whole)
        self._add("refund that failed late", 1, failed)

    def _disputes(self, *orders: str) -> None:
        for order, status in zip(orders, ("needs_response", "won", "lost"), strict=True):
            dispute = self.sandbox.control("POST", "disputes", {"payment_intent": self._intent(order)})["id"]
            payments.sync_dispute(dispute, by="drill")
            if status != "needs_response":
                self.sandbox.control("POST", "disputes/outcome", {"dispute": dispute, "status": status})
                payments.sync_dispute(dispute, by="drill")
            self._add("disputed" if status == "needs_response" else f"dispute {status}", 1, order)

    def _payouts(self) -> None:
        """A sale, and the payout that takes it to the bank. The first ones: a payout takes all that is there."""
        outcomes = {"payout under way": (), "paid out": ("paid",), "payout that came back": ("paid", "failed")}
        for shape, statuses in outcomes.items():
            order = self._sell()
            asked = {"currency": "usd", "include_pending": True}
            (payout,) = self.sandbox.control("POST", "payouts", asked)["payouts"]
            payments.sync_payout(payout["id"], by="drill")
            for status in statuses:
                self.sandbox.control("POST", "payouts/outcome", {"payout": payout["id"], "status": status})
                payments.sync_payout(payout["id"], by="drill")
            self._add(shape, 1, order, payout["id"])

    def _unpaid(self) -> None:
        still_open, cancelled = (
            str(self.shop.checkout(_book("usd", 1500)).json()["order"]["number"]) for _ in range(2)
        )
        self.shop.post(f"/orders/{cancelled}/cancel", key=cancelled)
        settle(webhooks=False)
        answer = self.shop.post(f"/orders/{cancelled}/cancel", key=cancelled)  # workers cancel at the provider first
        assert answer.json()["status"] == "cancelled", answer.json()
        self._add("open order", 2, still_open)
        self._add("cancelled order", 2, cancelled)

    # --- What people do -------------------------------------------------------------------------------

    def _sell(self, product: str = "", quantity: int = 1) -> str:
        answer = self.shop.checkout(product or _book("usd", 1500), quantity, payment=_CARD)
        assert answer.status_code == 201, answer.json()
        return str(answer.json()["order"]["number"])

    def _sell_at_the_second_try(self) -> str:
        declined = {**_CARD, "payment_method": "pm_card_chargeDeclined"}
        answer = self.shop.checkout(_book("usd", 1500), payment=declined)
        assert answer.status_code == 402, answer.json()
        order = str(answer.json()["order"]["number"])
        answer = self.shop.storefront.post(
            f"/api/v1/orders/{order}/payments", _CARD, format="json", headers={"Idempotency-Key": order}
        )
        assert answer.status_code == 201, answer.json()
        return order

    def _refund(self, order: str, amount: int | None) -> None:
        """None: all of it."""
        (payment,) = Payment.objects.filter(reference=order)
        body: dict[str, Any] = {"reason": "came damaged", **({"amount": amount} if amount else {})}
        answer = self.shop.post(f"/payments/{payment.number}/refunds", body)
        assert answer.status_code == 201, answer.json()

    # --- Helpers --------------------------------------------------------------------------------------

    def _add(self, shape: str, weight: int, order: str, *payouts: str) -> None:
        self.made.append(Original(shape, weight, [order], list(payouts)))

    def _at(self, moment: datetime) -> None:
        """The provider's objects are made at that moment from now on."""
        ahead_s = self.sandbox.control("GET", "clock")["advanced_s"]
        wanted_s = int((moment - database_now()).total_seconds())
        self.sandbox.control("POST", "clock", {"advance_s": wanted_s - ahead_s})

    @staticmethod
    def _intent(order: str) -> str:
        return str(Payment.objects.get(reference=order).provider_reference)


def _book(currency: str, price: int = SMALL_PRICE_MINOR) -> str:
    return f"book-{currency}-{price}"
