"""Money goes back once for an item, whoever presses, how often, and whatever breaks in between; and all of what was taken too
much goes back.
"""

from functools import partial
from uuid import uuid4

import pytest
import requests
from django.db import transaction
from django.db.models import Sum

from catalog.models import Merchant
from foundation.database import database_now
from foundation.errors import DomainError, InvalidInput
from foundation.ids import uuid7
from payments import services as payments
from payments.errors import ContradictsProvider
from payments.models import Payment, Posting, Refund
from reconciliation import offers, services
from reconciliation.errors import AlreadyResolved, BooksBusy
from reconciliation.models import Discrepancy, DiscrepancyAction
from reconciliation.services import actions, bulk, repairs
from reconciliation.types import Action, ActionInput, Kind
from tests.races import Killed
from tests.reconciliation.ledgers import NOON
from tests.reconciliation.months import member
from tests.reconciliation.test_actions import act, confirmed, planted, the
from tests.reconciliation.test_closed_loop import charged_without_us
from tests.shop import settle


def overcharged(books) -> Discrepancy:
    """An order of 15.00 for which Stripe took 15.01."""
    books.sell()
    return planted(books, Kind.AMOUNT_MISMATCH)


def press(item: Discrepancy, action: str = Action.REFUND_CUSTOMER, *, by: str = "clara", **options):
    return services.perform(discrepancy_id=item.pk, action=action, by=by, note="checked with the bank", **options)


def refunds() -> list[int]:
    settle(webhooks=False)
    return list(Refund.objects.values_list("amount_minor", flat=True))


def on(account: str) -> int:
    """What stands on an account, credit positive."""
    return -(Posting.objects.filter(account__kind=account).aggregate(total=Sum("amount_minor"))["total"] or 0)


# --- What was taken too much ------------------------------------------------------------------------------


def test_an_overcharge_goes_back_and_both_books_hold_the_same(books):
    item = overcharged(books)
    payable_minor = on("merchant_payable")
    result = act(item, Action.REFUND_CUSTOMER)
    assert (result.state, result.closed_as) == ("resolved", "fixed"), result.text
    assert refunds() == [1]
    payment = Payment.objects.get()
    assert (payment.captured_minor, payment.refunded_minor) == (1501, 1)
    assert on("merchant_payable") == payable_minor  # it was never the merchant's
    assert confirmed(books, item)
    assert payments.check_books(day=database_now().date()).differences == []


def test_an_overcharge_of_an_order_that_went_back_in_full_goes_back_too(books):
    (order,) = books.sell()
    item = planted(books, Kind.AMOUNT_MISMATCH)
    books.refund(order)
    act(item, Action.REFUND_CUSTOMER)
    assert sorted(refunds()) == [1, 1500]
    assert confirmed(books, item)


def test_after_it_the_whole_of_the_order_can_still_go_back(books):
    (order,) = books.sell()
    act(planted(books, Kind.AMOUNT_MISMATCH), Action.REFUND_CUSTOMER)
    books.refund(order)
    assert sorted(refunds()) == [1, 1500]


def test_it_opens_again_where_its_refund_comes_to_nothing_and_the_next_one_settles_it(books):
    item = overcharged(books)
    Merchant.objects.update(refund_approval_above_minor=0)
    act(item, Action.REFUND_CUSTOMER)
    with transaction.atomic():
        payments.reject_refund(number=Refund.objects.get().number, by="carl", why="ask the customer first")
    books.reconcile()
    item.refresh_from_db()
    assert (item.state, item.cycle) == ("open", 2)
    Merchant.objects.update(refund_approval_above_minor=None)
    act(item, Action.REFUND_CUSTOMER)
    assert list(Refund.objects.order_by("created_at").values_list("amount_minor", "status")) == [
        (1, "cancelled"),
        (1, "succeeded"),
    ]
    assert Payment.objects.get().captured_minor == 1501
    assert confirmed(books, item)


def test_where_stripe_took_less_nothing_goes_back(books):
    item = overcharged(books)
    Payment.objects.update(captured_minor=1600)
    books.reconcile()
    for given in (ActionInput(), ActionInput(amount_minor=100)):
        with pytest.raises(InvalidInput, match="did not take too much"):
            act(item, Action.REFUND_CUSTOMER, given=given)
    assert refunds() == []


# --- What was taken in another currency -------------------------------------------------------------------


def refused(item: Discrepancy) -> str:
    """Why nothing of it goes back, in one voice: it is not on the item's page, and a preview says what the action says."""
    assert Action.REFUND_CUSTOMER not in {info.name for info in offers.offered_actions(item)}
    plan = services.plan_bulk(
        bulk_id=uuid7(), action=Action.REFUND_CUSTOMER, discrepancies=[item.pk], by="clara", scope="a test"
    )
    with pytest.raises(InvalidInput) as error:
        act(item, Action.REFUND_CUSTOMER)
    assert refunds() == []
    row = plan.rows.get()
    assert (row.state, row.result) == ("refused", error.value.detail)
    return row.result


def test_a_sale_in_another_currency_is_accepted_and_not_given_back(books):
    """15.00 USD in our books, 15.00 EUR in Stripe's: nothing converts one into the other."""
    books.sell()
    item = planted(books, Kind.CURRENCY_MISMATCH)
    assert (item.ours_status, item.difference_minor) == ("succeeded", None)
    assert "accept the difference" in refused(item)
    assert act(item, Action.ACCEPT).closed_as == "accepted"
    report = books.reconcile()
    assert (report.kinds, report.residual) == ({}, {"eur": 0, "usd": 0})


def test_another_currency_for_an_attempt_that_came_to_nothing_goes_back_as_soon_as_our_payment_has_heard(books):
    books.abandon()
    books.plant(Kind.STATUS_MISMATCH)
    Payment.objects.update(currency="eur")  # as if Stripe had taken dollars for euros
    books.reconcile()
    item = the(Kind.CURRENCY_MISMATCH)
    assert item.ours_status == "pending"
    assert "read it at the provider" in refused(item)
    with pytest.raises(
        ContradictsProvider
    ):  # what "Read at the provider" does: it is noted, and nothing is marked paid
        payments.take_provider_status(item.payment_number, by="clara")
    settle(webhooks=False)
    item.refresh_from_db()
    assert Action.REFUND_CUSTOMER in {info.name for info in offers.offered_actions(item)}
    assert offers.why_not(item, Action.REFUND_CUSTOMER) == ""
    assert act(item, Action.REFUND_CUSTOMER).closed_as == "fixed"
    assert list(Refund.objects.values_list("currency", "amount_minor", "status")) == [("usd", 1500, "succeeded")]
    assert confirmed(books, item)


@pytest.mark.parametrize("kind", [Kind.AMOUNT_MISMATCH, Kind.DUPLICATE_CHARGE])
def test_less_than_all_of_it_does_not_go_back_and_closes_nothing(books, kind):
    books.sell(2)
    books.plant(kind, 2)  # of overcharges: one of 1 cent, one of 2
    books.reconcile()
    item = Discrepancy.objects.order_by("difference_minor").last()
    assert item
    with pytest.raises(InvalidInput, match="All of it goes back"):
        act(item, Action.REFUND_CUSTOMER, given=ActionInput(amount_minor=1))
    item.refresh_from_db()
    assert (item.state, refunds()) == ("open", [])
    act(item, Action.REFUND_CUSTOMER, given=ActionInput(amount_minor=item.difference_minor))
    assert confirmed_alone(books, item)


def confirmed_alone(books, item: Discrepancy) -> bool:
    books.reconcile()
    item.refresh_from_db()
    return item.closed_as == "fixed" and item.verified_at is not None


# --- Pressed again ----------------------------------------------------------------------------------------


def busy_at_the_end(item: Discrepancy, monkeypatch) -> None:
    """The refund was asked for, and then a run stores its results for too long."""

    def busy(*_: object) -> None:
        raise BooksBusy

    with monkeypatch.context() as patch:
        patch.setattr(actions, "_finish", busy)
        with pytest.raises(BooksBusy):
            press(item, key="one press")


def dies_at_the_end(item: Discrepancy, monkeypatch) -> None:
    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(actions, "_finish", die)
        with pytest.raises(Killed):
            press(item, key="one press", by="mia")
    DiscrepancyAction.objects.update(lease_until=NOON)


@pytest.mark.parametrize("kind", [Kind.AMOUNT_MISMATCH, Kind.DUPLICATE_CHARGE])
@pytest.mark.parametrize("interrupted", [busy_at_the_end, dies_at_the_end])
@pytest.mark.parametrize("again", [{"key": "one press"}, {"key": "another page", "by": "nils"}])
def test_what_was_interrupted_is_given_back_once_and_closed_by_the_next_press(
    books, monkeypatch, kind, interrupted, again
):
    books.sell()
    item = planted(books, kind)
    interrupted(item, monkeypatch)
    result = press(item, **again)
    assert (result.state, result.closed_as) == ("resolved", "fixed"), result.text
    assert len(refunds()) == 1
    assert confirmed(books, item)


def test_control_without_its_one_id_and_its_entry_it_is_given_back_twice(books, monkeypatch):
    monkeypatch.setattr(repairs, "_refund_id", lambda item: uuid7())
    monkeypatch.setattr(payments, "record_overcharge", lambda **_: None)
    item = overcharged(books)
    busy_at_the_end(item, monkeypatch)
    press(item, key="one press")
    assert refunds() == [1, 1]


def test_of_two_who_refund_at_once_one_does(books, race):
    item = overcharged(books)
    race.stop("reconciliation.services.actions._begin")
    for name in ("mia", "nils"):
        race.actor(name, partial(press, item, by=name, key=name))
    answers = race.play("mia nils mia nils")
    assert isinstance(answers["nils"], AlreadyResolved)
    assert refunds() == [1]


def test_many_at_once_by_two_people_go_back_once_each(books):
    books.sell(3)
    books.plant(Kind.AMOUNT_MISMATCH, 3)
    books.reconcile()
    items = list(Discrepancy.objects.values_list("pk", flat=True))
    plans = [
        services.plan_bulk(bulk_id=uuid4(), action=Action.REFUND_CUSTOMER, discrepancies=items, by=who, scope="all")
        for who in ("mia", "nils")
    ]
    for plan in plans:
        bulk.carry_out(bulk_id=plan.pk, by=plan.planned_by, note="overcharged")
    bulk.work_on_bulk()
    assert sorted(refunds()) == [1, 2, 3]
    assert set(Discrepancy.objects.values_list("state", "closed_as")) == {("resolved", "fixed")}


def test_a_refund_that_came_back_and_was_interrupted_is_made_again_once(books, monkeypatch):
    (order,) = books.sell()
    books.refund(order, 500)
    act(planted(books, Kind.STATUS_MISMATCH_REFUND), Action.TAKE_PROVIDER_STATUS)
    late = the(Kind.REFUND_FAILED_LATE)
    busy_at_the_end(late, monkeypatch)
    assert press(late, key="another page", by="nils").closed_as == "fixed"
    assert refunds() == [500, 500]  # the one that came back, and the one in its place


def test_what_went_back_before_counts_towards_the_limit(books, settings):
    settings.SETTLE_ALONE_MINOR = {"clerk": {"usd": 500}}
    member("clara", "clerk")
    item = overcharged(books)
    assert not press(item, given=ActionInput(amount_minor=500)).waits
    assert refunds() == [500]
    Payment.objects.update(captured_minor=1500)  # it is off by a cent again
    books.reconcile()
    item.refresh_from_db()
    assert (item.state, item.cycle) == ("open", 2)
    assert press(item, given=ActionInput(amount_minor=500)).waits
    assert (refunds(), item.actions.get(outcome="waiting").amount_minor) == ([500], 1000)


# --- What somebody else did meanwhile ---------------------------------------------------------------------


def race_of(books, race, item: Discrepancy, *acts: tuple[str, str, ActionInput]) -> dict[str, object]:
    """Each has the page open; the first one acts, then the second one."""
    race.stop("reconciliation.services.actions._begin")
    for name, action, given in acts:
        race.actor(name, partial(press, item, action, by=name, key=name, given=given))
    first, second = (name for name, *_ in acts)
    answers: dict[str, object] = race.play(f"{first} {second} {first} {second}")
    settle(webhooks=False)
    return answers


def test_a_charge_that_became_a_payment_is_not_given_back(books, race):
    order = books.abandon()
    item = planted(books, Kind.MISSING_IN_OUR_SYSTEM)
    answers = race_of(
        books,
        race,
        item,
        ("mia", Action.CREATE_MISSING_PAYMENT, ActionInput()),
        ("nils", Action.REFUND_CUSTOMER, ActionInput()),
    )
    assert isinstance(answers["nils"], AlreadyResolved)
    assert (books.shop.order(order["number"])["status"], refunds()) == ("paid", [])


def test_an_accepted_item_is_not_corrected(books, race):
    item = overcharged(books)
    answers = race_of(
        books, race, item, ("mia", Action.ACCEPT, ActionInput()), ("nils", Action.POST_CORRECTION, ActionInput())
    )
    assert isinstance(answers["nils"], AlreadyResolved)
    assert not Posting.objects.filter(entry__kind="correction").exists()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Action.CREATE_MISSING_PAYMENT, Action.REFUND_CUSTOMER),
        (Action.REFUND_CUSTOMER, Action.CREATE_MISSING_PAYMENT),
    ],
)
def test_what_was_half_done_is_not_done_the_other_way(books, monkeypatch, first, second):
    """The charge was taken in, or given back, and the process died before the item was closed."""
    order = books.abandon()
    item = planted(books, Kind.MISSING_IN_OUR_SYSTEM)

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(actions, "_finish", die)
        with pytest.raises(Killed):
            press(item, first, by="mia")
    DiscrepancyAction.objects.update(lease_until=NOON)
    settle(webhooks=False)
    with pytest.raises(ContradictsProvider, match="by now"):
        press(item, second, by="nils")
    is_sold = books.shop.order(order["number"])["status"] == "paid"
    assert (is_sold, len(refunds())) == ((True, 0) if first == Action.CREATE_MISSING_PAYMENT else (False, 1))


def test_who_attaches_second_hears_that_it_is_another_orders(books, race):
    orders = [books.abandon()["number"] for _ in range(2)]
    charged_without_us(books, 1500)
    books.reconcile()
    item = the(Kind.MISSING_IN_OUR_SYSTEM)
    answers = race_of(
        books,
        race,
        item,
        *(
            (name, Action.CREATE_MISSING_PAYMENT, ActionInput(order_number=order))
            for name, order in zip(("mia", "nils"), orders, strict=True)
        ),
    )
    assert isinstance(answers["nils"], DomainError)
    assert [books.shop.order(number)["status"] for number in orders] == ["paid", "pending"]


def test_who_is_overtaken_gives_nothing_back(books, race):
    """mia's process stands still for longer than its lease; nils writes the difference off; mia's goes on."""
    item = overcharged(books)
    race.stop("reconciliation.services.repairs.import_sources", actor="mia")
    race.actor("mia", partial(press, item, by="mia", key="mia"))
    race.turn("mia")
    DiscrepancyAction.objects.filter(outcome="started").update(lease_until=NOON)
    assert press(item, Action.WRITE_OFF, by="nils").closed_as == "fixed"
    answers = race.finish()
    assert getattr(answers["mia"], "code", "") == "action_taken_over"
    assert refunds() == []


# --- What went back at Stripe's dashboard -----------------------------------------------------------------


def refund_at_dashboard(books, charge: str, **amount: int) -> None:
    requests.post(
        f"{books.sandbox.url}/v1/refunds",
        data={"charge": charge, **amount},
        headers={"Authorization": "Bearer sk_test_sandbox"},
        timeout=10,
    ).raise_for_status()
    books.reconcile()


@pytest.mark.parametrize(("amount", "asked_for"), [({}, []), ({"amount": 500}, [1000])])
def test_a_charge_of_which_some_went_back_pays_no_order_and_the_rest_goes_back(books, amount, asked_for):
    order = books.abandon()
    item = planted(books, Kind.MISSING_IN_OUR_SYSTEM)
    refund_at_dashboard(books, item.source, **amount)
    with pytest.raises(ContradictsProvider, match="went back already"):
        act(item, Action.CREATE_MISSING_PAYMENT)
    assert books.shop.order(order["number"])["status"] == "pending"
    assert act(item, Action.REFUND_CUSTOMER).closed_as == "fixed"
    assert list(Refund.objects.filter(made_elsewhere=False).values_list("amount_minor", "status")) == [
        (minor, "succeeded") for minor in asked_for
    ]
    payment = Payment.objects.get(reference=item.number)
    assert (payment.captured_minor, payment.refunded_minor) == (1500, 1500)
    assert confirmed_alone(books, item)
    assert not Discrepancy.objects.exclude(state="resolved").exists()


def test_a_disputed_charge_pays_no_order(books):
    order = books.abandon()
    item = planted(books, Kind.MISSING_IN_OUR_SYSTEM)
    books.sandbox.control("POST", "disputes", {"payment_intent": item.intent})
    with pytest.raises(ContradictsProvider, match="is disputed"):
        act(item, Action.CREATE_MISSING_PAYMENT)
    assert books.shop.order(order["number"])["status"] == "pending"
