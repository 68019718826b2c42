"""The sandbox's objects beside Stripe's published examples, and beside what the SDK's annotations promise."""

import json
import types
import typing
from pathlib import Path

import pytest
import stripe

from payments.sandbox import disputes, payouts
from payments.sandbox.account import Account, Config
from payments.sandbox.store import Store
from tests.sandbox_process import ROOT

FIXTURES = ROOT.parent / "shared" / "data" / "stripe-fixtures.json"
CLASSES = {
    "payment_intent": stripe.PaymentIntent,
    "charge": stripe.Charge,
    "refund": stripe.Refund,
    "balance_transaction": stripe.BalanceTransaction,
    "balance": stripe.Balance,
    "event": stripe.Event,
    "payment_method": stripe.PaymentMethod,
    "dispute": stripe.Dispute,
    "payout": stripe.Payout,
}


@pytest.fixture(scope="module")
def shown(shared_shop, tmp_path_factory):
    """One object of every kind in every state worth comparing, as plain JSON."""
    shop = shared_shop
    paid, cancelled = shop.pay(), shop.v1.payment_intents.cancel(shop.open().id)
    waiting = shop.pay(card="pm_card_authenticationRequired")
    refund = shop.refund(paid, 100)
    declined = shop.open()
    with pytest.raises(stripe.CardError):
        shop.v1.payment_intents.confirm(declined.id, {"payment_method": "pm_card_chargeDeclined"})
    declined = shop.v1.payment_intents.retrieve(declined.id)

    def get(path: str):
        return shop.http("GET", path).json()

    objects = {
        "payment_intent": [get(f"/v1/payment_intents/{i.id}") for i in (paid, cancelled, waiting, declined)],
        "charge": [get(f"/v1/charges/{i.latest_charge}") for i in (paid, declined)],
        "refund": [get(f"/v1/refunds/{refund.id}")],
        "balance_transaction": get("/v1/balance_transactions")["data"],
        "balance": [get("/v1/balance")],
        "event": get("/v1/events?limit=100")["data"],
        "payment_method": [get("/v1/payment_methods/pm_card_visa"), get(f"/v1/payment_methods/{paid.payment_method}")],
    }
    account = Account(Store(tmp_path_factory.mktemp("shapes") / "s.sqlite3"), Config())
    objects["dispute"] = [disputes.build(account, objects["charge"][0])]
    objects["payout"] = [payouts.build(account, amount=100, currency="usd", arrival_date=1)]
    account.store.close()
    return objects


@pytest.mark.parametrize("kind", CLASSES)
def test_fields_and_types_are_those_of_stripes_published_example(shown, kind):
    if not FIXTURES.exists():
        pytest.skip(f"Stripe's published examples are not at {FIXTURES}")
    example = json.loads(Path(FIXTURES).read_text())[kind]
    # Free fields: another kind of object there, other keys there.
    example |= {name: {} for name in ("data", "metadata") if name in example}
    for obj in shown[kind]:
        assert list(differences(example, obj)) == []


def differences(example: typing.Any, ours: typing.Any, path: str = "") -> typing.Iterator[str]:
    """What a reader of the example would miss; null on either side fits (nullability is the other test's matter)."""
    if example is None or ours is None:
        return
    if type(example) is not type(ours):
        yield f"{path}: {type(ours).__name__} instead of {type(example).__name__}"
    elif isinstance(example, dict):
        for name, value in example.items():
            if name not in ours:
                yield f"{path}.{name} is missing"
            else:
                yield from differences(value, ours[name], f"{path}.{name}")
    elif isinstance(example, list) and example and ours:
        yield from differences(example[0], ours[0], f"{path}[0]")


@pytest.mark.parametrize("kind", CLASSES)
def test_what_the_sdk_declares_required_is_there_and_nothing_is_unknown_to_it(shown, kind):
    declared = {name: hint for name, hint in CLASSES[kind].__annotations__.items() if name != "OBJECT_NAME"}
    required = {name for name, hint in declared.items() if not _nullable(hint)}
    assert {"id", "amount", "livemode", "available", "type"} & required  # the annotations were understood
    for obj in shown[kind]:
        assert [name for name in sorted(required) if obj.get(name) is None] == []
        assert [name for name in obj if name not in declared] == []


def _nullable(hint: typing.Any) -> bool:
    return typing.get_origin(hint) in {typing.Union, types.UnionType} and type(None) in typing.get_args(hint)


def test_the_comparison_sees_what_is_wrong():
    example = {"a": 1, "b": {"c": "x"}, "d": [{"e": 1}], "f": None}
    assert list(differences(example, {"a": "1", "b": {}, "d": [{"e": None}], "f": 5})) == [
        ".a: str instead of int",
        ".b.c is missing",
    ]
