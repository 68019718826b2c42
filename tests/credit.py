"""Store credit for tests: granted, and looked at."""

from typing import Any

from payments import ledger
from payments import services as payments
from payments.models import Account, Posting
from tests.shop import Shop

CUSTOMER = "cust-1"
CARD = {"method": "card", "payment_method": "pm_card_visa", "confirm": True}
DECLINED = {"method": "card", "payment_method": "pm_card_chargeDeclined", "confirm": True}


def grant(shop: Shop, amount_minor: int, *, customer: str = CUSTOMER, by: str = "clara") -> None:
    assert payments.grant_store_credit(
        merchant_id=shop.merchant_id,
        customer=customer,
        currency="usd",
        amount_minor=amount_minor,
        reason="an apology",
        by=by,
    )


def credit(shop: Shop, customer: str = CUSTOMER) -> tuple[int, int]:
    """(free, held)"""
    free = ledger.store_credit(shop.merchant_id, customer, "usd")
    held = ledger.store_credit_held(shop.merchant_id, customer, "usd")
    kept = dict(Account.objects.filter(pk__in=[free.id, held.id]).values_list("pk", "balance_minor"))
    return kept.get(free.id, 0), kept.get(held.id, 0)


def points(shop: Shop, customer: str = CUSTOMER) -> int:
    account = Account.objects.filter(pk=ledger.points(shop.merchant_id, customer).id).first()
    return account.balance_minor if account else 0


def payable(shop: Shop) -> int:
    """What we owe the merchant."""
    account = ledger.merchant_payable(shop.merchant_id, "usd").id
    return -sum(Posting.objects.filter(account_id=account).values_list("amount_minor", flat=True))


def with_credit(amount_minor: int, payment: dict[str, Any] | None = None) -> dict[str, Any]:
    """The payment member of a checkout that spends so much credit; the rest in the browser unless told otherwise."""
    return {**(payment or {"method": "card"}), "store_credit": amount_minor}
