"""One transaction of each shape, written by the product itself: API, workers and provider, as on any other day.

They are what the drill multiplies. So whatever the product writes about a sale, a refund or a dispute stands in every copy of it,
and no second hand has to know which rows that are.
"""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from typing import Any

from foundation.database import database_now
from payments import services as payments
from payments.models import Payment
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
                self.shop.stock(_book(currency, price), 1000, price=price, currency=currency)
        for currency in SMALL_CURRENCIES[:currencies]:
            self.shop.stock(_book(currency), 1000, price=SMALL_PRICE_MINOR, currency=currency)
        self._payouts()
        self._sales()
        for currency in SMALL_CURRENCIES[:currencies]:
            self._add(f"sale in {currency}", 0, [self._sell(_book(currency))])
        self._refunds()
        self._disputes()
        self._unpaid()
        settle(webhooks=False)

    # --- Shapes ---------------------------------------------------------------------------------------

    def _sales(self) -> None:
        for currency, prices in PRICES.items():
            for price in prices:
                self._add("sale", 20, [self._sell(_book(currency, price))])
        self._add("sale of several", 6, [self._sell(quantity=3)])
        self._add("sale at the second try", 3, [self._sell_at_the_second_try()])

    def _refunds(self) -> None:
        self._add("refunded in part", 6, [self._refunded(500)])
        self._add("refunded twice", 1, [self._refunded(500, 300)])
        self._add("refunded", 3, [self._refunded(None)])
        order = self._refunded(700)
        (refund,) = self._objects("refunds", payment_intent=self._intent(order))
        self.sandbox.control("POST", "refunds/outcome", {"refund": refund, "status": "failed"})
        payments.sync_refund(refund, by="drill")
        settle(webhooks=False)
        told = Discrepancy.objects.get(kind=Kind.REFUND_FAILED_LATE)  # in clean books that has been dealt with
        reconciliation.perform(discrepancy_id=told.pk, action=Action.ACCEPT, by="drill", note="paid back in the shop")
        self._add("refund that failed late", 1, [order])

    def _disputes(self) -> None:
        for status in ("needs_response", "won", "lost"):
            order = self._sell()
            dispute = self.sandbox.control("POST", "disputes", {"payment_intent": self._intent(order)})["id"]
            payments.sync_dispute(dispute, by="drill")
            if status != "needs_response":
                self.sandbox.control("POST", "disputes/outcome", {"dispute": dispute, "status": status})
                payments.sync_dispute(dispute, by="drill")
            shape = "disputed" if status == "needs_response" else f"dispute {status}"
            self._add(shape, 1, [order])

    def _payouts(self) -> None:
        """Three sales, and the payout that takes them to the bank. The first ones: a payout takes all that is there."""
        for status in ("in_transit", "paid", "failed"):
            orders = [self._sell() for _ in range(3)]
            asked = {"currency": "usd", "include_pending": True}
            (payout,) = self.sandbox.control("POST", "payouts", asked)["payouts"]
            payments.sync_payout(payout["id"], by="drill")
            for outcome in {"in_transit": (), "paid": ("paid",), "failed": ("paid", "failed")}[status]:
                self.sandbox.control("POST", "payouts/outcome", {"payout": payout["id"], "status": outcome})
                payments.sync_payout(payout["id"], by="drill")
            shape = {"in_transit": "payout under way", "paid": "paid out", "failed": "payout that came back"}[status]
            self._add(shape, 1, orders, [payout["id"]])

    def _unpaid(self) -> None:
        self._add("open order", 2, [str(self.shop.checkout(_book("usd", 1500)).json()["order"]["number"])])
        order = str(self.shop.checkout(_book("usd", 1500)).json()["order"]["number"])
        self.shop.post(f"/orders/{order}/cancel", key=order)
        settle(webhooks=False)
        answer = self.shop.post(f"/orders/{order}/cancel", key=order)  # workers cancel at the provider first
        assert answer.json()["status"] == "cancelled", answer.json()
        self._add("cancelled order", 2, [order])

    # --- What people do -------------------------------------------------------------------------------

    def _sell(self, product: str = "", quantity: int = 1) -> str:
        answer = self.shop.checkout(product or _book("usd", 1500), quantity, payment=_CARD)
        assert answer.status_code == 201, answer.json()
        settle(webhooks=False)
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
        settle(webhooks=False)
        return order

    def _refunded(self, *amounts: int | None) -> str:
        order = self._sell()
        (payment,) = Payment.objects.filter(reference=order)
        for amount in amounts:
            body: dict[str, Any] = {"reason": "came damaged", **({"amount": amount} if amount else {})}
            answer = self.shop.post(f"/payments/{payment.number}/refunds", body)
            assert answer.status_code == 201, answer.json()
            settle(webhooks=False)
        return order

    # --- Helpers --------------------------------------------------------------------------------------

    def _add(self, shape: str, weight: int, orders: list[str], payouts: list[str] | None = None) -> None:
        self.made.append(Original(shape, weight, orders, payouts or []))

    def _at(self, moment: datetime) -> None:
        """The provider's objects are made at that moment from now on."""
        ahead_s = self.sandbox.control("GET", "clock")["advanced_s"]
        wanted_s = int((moment - database_now()).total_seconds())
        self.sandbox.control("POST", "clock", {"advance_s": wanted_s - ahead_s})

    @staticmethod
    def _intent(order: str) -> str:
        return str(Payment.objects.get(reference=order).provider_reference)

    @staticmethod
    def _objects(resource: str, **filters: str) -> list[str]:
        from payments.providers import stripe as provider

        return [str(one["id"]) for one in provider._listing(resource, filters)]


def _book(currency: str, price: int = SMALL_PRICE_MINOR) -> str:
    return f"book-{currency}-{price}"
