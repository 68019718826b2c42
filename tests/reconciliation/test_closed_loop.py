"""What closes the loop beside the plain corrections: events replayed, two linked, a difference split or given up, an item
that comes back on its day, and a promise that is held to.
"""

from datetime import timedelta
from functools import partial

import pytest
import requests
from django.db import transaction
from django.db.models import F, Sum

from catalog.models import Merchant
from foundation.database import database_now
from foundation.errors import DomainError, InvalidInput
from payments import ledger
from payments import services as payments
from payments.errors import ContradictsProvider
from payments.models import InboxEvent, JournalEntry, Payment, Posting, Refund
from payments.services import links
from reconciliation import offers, selectors, services
from reconciliation.errors import FiguresChanged
from reconciliation.models import Discrepancy
from reconciliation.types import Action, ActionInput, Finding, Kind
from tests.reconciliation.ledgers import MERCHANT, NOON, ours, post_fee, the, theirs
from tests.reconciliation.test_actions import act, confirmed, planted
from tests.reconciliation.test_statements import capture, proofs, provider_holds, sold, was_read
from tests.shop import settle

DAYS = timedelta(days=1)


def of_kind(kind: str) -> Discrepancy:
    return Discrepancy.objects.get(kind=kind)


def on_accounts(kind: str = "correction") -> dict[str, int]:
    """Account → Σ of what entries of a kind posted on it, debit positive."""
    lines = Posting.objects.filter(entry__kind=kind).values_list("account__kind").annotate(Sum("amount_minor"))
    return dict(lines)


def charged_without_us(books, amount: int, **metadata: str) -> str:
    """A charge that somebody made at the dashboard. Returns its id."""
    body = {
        "amount": amount,
        "currency": "usd",
        "confirm": "true",
        "payment_method": "pm_card_visa",
        "payment_method_types[0]": "card",
        **{f"metadata[{name}]": value for name, value in metadata.items()},
    }
    headers = {"Authorization": "Bearer sk_test_sandbox"}
    answer = requests.post(f"{books.sandbox.url}/v1/payment_intents", data=body, headers=headers, timeout=10)
    answer.raise_for_status()
    return str(answer.json()["latest_charge"])


def intent_status(books, intent: str) -> str:
    headers = {"Authorization": "Bearer sk_test_sandbox"}
    answer = requests.get(f"{books.sandbox.url}/v1/payment_intents/{intent}", headers=headers, timeout=10)
    return str(answer.json()["status"])


# --- Events -----------------------------------------------------------------------------------------


def test_events_that_no_webhook_brought_are_fetched_and_worked_on(books):
    """Paid in the browser; the webhook was lost, and so was what follows from it."""
    answer = books.shop.checkout().json()
    payment = answer["payment"]
    requests.post(
        f"{books.sandbox.url}/v1/payment_intents/{payment['provider_reference']}/confirm",
        data={"client_secret": payment["client_secret"], "payment_method": "pm_card_visa"},
        headers={"Authorization": "Bearer pk_test_sandbox"},
        timeout=10,
    ).raise_for_status()
    books.reconcile()
    item = of_kind(Kind.STATUS_MISMATCH)
    assert not InboxEvent.objects.exists()
    result = act(item, Action.REPLAY_EVENT)
    assert (result.state, result.closed_as) == ("resolved", "fixed")
    assert "fetched just now" in result.text
    assert books.shop.order(answer["order"]["number"])["status"] == "paid"
    known = InboxEvent.objects.count()
    assert confirmed(books, item)
    payments.replay_events_about([item.intent], around=item.theirs_at)  # a repeat changes nothing
    settle(webhooks=False)
    assert (InboxEvent.objects.count(), Payment.objects.get().captured_minor) == (known, 1500)


def test_a_charge_of_nobodys_has_events_that_change_nothing(books):
    item = planted(books, Kind.MISSING_IN_OUR_SYSTEM)
    result = act(item, Action.REPLAY_EVENT)
    assert (result.state, "The difference remains" in result.text) == ("open", True)


# --- Linking ----------------------------------------------------------------------------------------


def test_two_that_are_the_same_money_are_linked_and_both_items_close(books):
    """Stripe lost our charge, and somebody charged the same amount again: one sale, under another name."""
    books.sell()
    lost = planted(books, Kind.MISSING_IN_STRIPE)
    charge = charged_without_us(books, 1500)
    books.reconcile()
    item = of_kind(Kind.MISSING_IN_OUR_SYSTEM)
    number = lost.payment_number
    lost_intent = Payment.objects.get().provider_reference or ""
    assert item.source == charge
    assert [one.payment_number for one in offers.candidate_movements(item)] == [number]
    result = act(item, Action.LINK, given=ActionInput(number=number))
    assert (result.state, result.closed_as) == ("resolved", "fixed"), result.text
    payment = Payment.objects.get()
    assert (payment.charge_reference, payment.captured_minor) == (charge, 1500)
    lost.refresh_from_db()
    assert (lost.state, lost.closed_as) == ("resolved", "auto")
    # one fee of 0.74: what the lost charge cost was taken back, what the other one cost was posted
    assert Posting.objects.filter(account__kind="fees").aggregate(total=Sum("amount_minor"))["total"] == 74
    assert intent_status(books, lost_intent) == "canceled"  # nobody can pay the same order once more
    assert confirmed(books, item)
    assert act_again_changes_nothing(item, number)


def act_again_changes_nothing(item: Discrepancy, number: str) -> bool:
    before = JournalEntry.objects.count()
    payments.link_charge(payment=number, charge=item.source, by="clara", why="once more")
    return JournalEntry.objects.count() == before


def test_what_is_not_the_same_money_is_not_linked(books):
    paid, other = books.sell(2)
    charged_without_us(books, 2500)
    books.reconcile()
    item = of_kind(Kind.MISSING_IN_OUR_SYSTEM)
    with pytest.raises(ContradictsProvider, match="not the same money"):
        act(item, Action.LINK, given=ActionInput(number=paid["payments"][0]["number"]))
    charged_without_us(books, 1500)
    books.reconcile()
    same = Discrepancy.objects.get(kind=Kind.MISSING_IN_OUR_SYSTEM, theirs_amount_minor=1500)
    with pytest.raises(ContradictsProvider, match="two charges are not one payment"):
        act(same, Action.LINK, given=ActionInput(number=other["payments"][0]["number"]))
    with pytest.raises(DomainError, match="Say which"):
        act(same, Action.LINK)
    assert set(Discrepancy.objects.values_list("state", flat=True)) == {"open"}


def two_link_one_payment(books, race) -> tuple[str, dict[str, object]]:
    """Two charges of nobody's, and one payment that Stripe lost: mia and nils each take another one for it."""
    books.sell()
    number = planted(books, Kind.MISSING_IN_STRIPE).payment_number
    charges = [charged_without_us(books, 1500) for _ in range(2)]
    books.reconcile()
    race.stop("payments.services.links._link")
    for name, charge in zip(("mia", "nils"), charges, strict=True):
        race.actor(name, partial(act, the(charge), Action.LINK, given=ActionInput(number=number)))
    return number, race.play("mia nils mia nils")


def test_of_two_who_link_two_charges_with_one_payment_one_does(books, race):
    _, answers = two_link_one_payment(books, race)
    assert isinstance(answers["nils"], ContradictsProvider)
    assert set(Discrepancy.objects.filter(kind=Kind.MISSING_IN_OUR_SYSTEM).values_list("state", flat=True)) == {
        "open", "resolved",
    }  # fmt: skip
    books.reconcile()
    assert Discrepancy.objects.filter(state="open").count() == 1


def test_control_without_a_second_look_the_last_one_takes_the_payment_from_the_first(books, race, monkeypatch):
    monkeypatch.setattr(links, "_must_still_name", lambda reference, named: None)
    two_link_one_payment(books, race)
    assert set(Discrepancy.objects.filter(kind=Kind.MISSING_IN_OUR_SYSTEM).values_list("state", flat=True)) == {
        "resolved"
    }


# --- On the books -----------------------------------------------------------------------------------


def test_a_difference_is_split_written_off_or_posted_where_it_belongs(books):
    """The sandbox takes 1, 2, 3 and 4 cents too much: 2 are a loss, 3 are one of fees and two of rounding, 4 are fees."""
    books.sell(4)
    books.plant(Kind.AMOUNT_MISMATCH, 4)
    books.reconcile()
    items = {item.difference_minor or 0: item for item in Discrepancy.objects.all()}
    assert sorted(items) == [1, 2, 3, 4]
    act(items[2], Action.WRITE_OFF)
    with pytest.raises(InvalidInput, match=r"add up to \$0\.04, the difference is \$0\.03"):
        act(items[3], Action.SPLIT, given=ActionInput(parts=(("fees", 2), ("rounding", 2))))
    with pytest.raises(DomainError, match="at least two parts"):
        act(items[3], Action.SPLIT, given=ActionInput(parts=(("fees", 3),)))
    act(items[3], Action.SPLIT, given=ActionInput(parts=(("fees", 1), ("rounding", 2))))
    act(items[4], Action.POST_CORRECTION, given=ActionInput(account="fees"))
    with pytest.raises(InvalidInput, match="merchant_payable is no account"):
        act(items[1], Action.POST_CORRECTION, given=ActionInput(account="merchant_payable"))
    act(items[1], Action.POST_CORRECTION)
    # 1 + 2 + 3 + 4 = 10 more at Stripe; of it 4 + 1 as fees, 2 as rounding, 1 + 2 as write-offs
    assert on_accounts() == {"provider_clearing": 10, "fees": -5, "rounding": -2, "write_offs": -3}
    assert confirmed(books, items[1])
    assert set(Discrepancy.objects.values_list("closed_as", "verified_by_run").distinct()) == {
        ("fixed", Discrepancy.objects.get(pk=items[1].pk).verified_by_run_id)
    }


def test_a_row_that_nobody_told_of_is_split(books):
    books.sell()
    item = planted(books, Kind.UNKNOWN_TYPE)
    assert item.difference_minor == -5
    act(item, Action.SPLIT, given=ActionInput(parts=(("fees", -3), ("write_offs", -2))))
    assert on_accounts("provider_booking") == {"provider_clearing": -5, "fees": 3, "write_offs": 2}
    assert confirmed(books, item)


@pytest.mark.parametrize(
    "parts",
    [
        (("fees", -1_000_005), ("write_offs", 1_000_000)),
        (("fees", -6), ("write_offs", 1)),
        (("fees", 1), ("fees", -2), ("write_offs", -4)),
    ],
)
def test_no_part_goes_the_other_way(books, parts):
    """Else ten thousand dollars pass between two accounts of ours, beside a difference of five cents."""
    books.sell()
    item = planted(books, Kind.UNKNOWN_TYPE)
    assert item.difference_minor == -5
    with pytest.raises(InvalidInput, match="the same way as the difference"):
        act(item, Action.SPLIT, given=ActionInput(parts=parts))
    assert on_accounts("provider_booking") == {}


def test_a_residual_is_written_off_as_it_is_though_a_payment_is_half_created(books, race):
    """The payment is attached to its order; its item is not closed yet."""
    books.sell()
    books.abandon()
    item = planted(books, Kind.MISSING_IN_OUR_SYSTEM)
    with transaction.atomic():
        ledger.post(
            key="mistake:1",
            kind="opening",
            debit=ledger.clearing("usd"),
            credit=ledger.write_offs("usd"),
            amount_minor=300,
            by="test",
        )
    books.reconcile()
    residual = of_kind(Kind.STATEMENT_RESIDUAL)
    race.stop("reconciliation.services.actions._finish", actor="mia")
    race.actor("mia", partial(act, item, Action.CREATE_MISSING_PAYMENT))
    race.turn("mia")
    assert act(residual, Action.WRITE_OFF).closed_as == "fixed"
    race.finish()
    assert on_accounts("write_off") == {"provider_clearing": -300, "write_offs": 300}
    assert confirmed(books, residual)


def test_a_residual_that_grew_is_not_written_off(reconcile, transactional_db):
    was_read(NOON - timedelta(hours=12), NOON)
    post_fee(theirs("ch_1"), 74, ours("ch_1"))
    reconcile()
    item = the("usd:clearing")
    with transaction.atomic():
        ledger.post(
            key="mistake:1",
            kind="opening",
            debit=ledger.write_offs("usd"),
            credit=ledger.clearing("usd"),
            amount_minor=900_000,
            by="test",
        )
    with pytest.raises(FiguresChanged):
        act(item, Action.WRITE_OFF)
    item.refresh_from_db()
    assert (item.state, item.difference_minor, on_accounts("write_off")) == ("open", 901_500, {})
    assert act(item, Action.WRITE_OFF).closed_as == "fixed"


def test_a_residual_of_our_ledger_is_written_off_and_the_days_statement_closes(reconcile, transactional_db):
    """The payment says that 15.00 were captured; its entry is missing, and nobody finds out why."""
    was_read(NOON - timedelta(hours=12), NOON)
    post_fee(theirs("ch_1"), 74, ours("ch_1"))
    reconcile()
    item = the("usd:clearing")
    assert item.difference_minor == 1500
    result = act(item, Action.WRITE_OFF)
    assert (result.state, result.closed_as) == ("resolved", "fixed"), result.text
    assert on_accounts("write_off") == {"provider_clearing": 1500, "write_offs": -1500}
    report = reconcile()
    item.refresh_from_db()
    assert (report.residual, item.verified_by_run_id) == ({"usd": 0}, report.run_id)
    assert proofs()["clearing"].residual_minor == 0
    capture(Payment.objects.get())  # somebody found it: now the write-off is too much, and the next run says so
    assert reconcile().residual == {"usd": -1500}
    item.refresh_from_db()
    assert (item.state, item.cycle) == ("open", 2)


def test_what_stripe_says_that_it_holds_is_not_written_off(reconcile, transactional_db):
    was_read(NOON - timedelta(hours=12), NOON)
    provider_holds(1426 + 300, sold("ch_1"))
    reconcile()
    item = the("usd:balance")
    with pytest.raises(InvalidInput, match="do not add up"):
        act(item, Action.WRITE_OFF)
    assert Action.WRITE_OFF not in {info.name for info in offers.offered_actions(item)}
    assert "do not add up" in offers.why_not(item, Action.WRITE_OFF)


# --- Verified by the next run -----------------------------------------------------------------------


def test_a_refund_that_comes_to_nothing_opens_its_item_again_until_one_arrives(books):
    books.sell()
    item = planted(books, Kind.DUPLICATE_CHARGE)
    Merchant.objects.update(refund_approval_above_minor=1000)
    assert act(item, Action.REFUND_CUSTOMER).closed_as == "fixed"
    refund = Refund.objects.get()
    assert refund.status == "awaiting_approval"
    books.reconcile()
    item.refresh_from_db()
    assert (item.state, item.verified_at) == ("resolved", None)  # both books agree, and the customer waits
    with transaction.atomic():
        payments.reject_refund(number=refund.number, by="carl", why="ask the customer first")
    report = books.reconcile()
    item.refresh_from_db()
    assert (item.state, item.cycle, report.kinds[Kind.DUPLICATE_CHARGE].new) == ("open", 2, 1)
    books.reconcile()
    item.refresh_from_db()
    assert item.state == "open"  # that both sides agree proves nothing
    assert act(item, Action.REQUERY).state == "open"
    Merchant.objects.update(refund_approval_above_minor=None)
    act(item, Action.REFUND_CUSTOMER)
    assert confirmed(books, item)


def told(kind: str, source: str, *, object_kind: str = "charge") -> Discrepancy:
    services.open_discrepancy(
        Finding(
            kind=kind,
            object_kind=object_kind,
            source=source,
            order_reference="",
            merchant_id=MERCHANT,
            ours_amount_minor=1500,
            ours_currency="usd",
            ours_status="pending",
            theirs_amount_minor=1600,
            theirs_currency="usd",
            theirs_status="succeeded",
            difference_minor=None,
        )
    )
    return the(source)


def test_asking_again_does_not_close_what_only_news_can_tell(transactional_db, sandbox):
    item = told(Kind.AMOUNT_MISMATCH, "pi_without_a_charge")
    result = act(item, Action.REQUERY)
    assert (result.state, "stays open" in result.text) == ("open", True)


def test_what_was_ignored_comes_back_on_its_day_whether_or_not_a_run_judges_it(reconcile, transactional_db):
    item = told(Kind.OVER_REFUNDED, "re_1", object_kind="refund")
    today = database_now().date()
    with pytest.raises(InvalidInput):
        act(item, Action.IGNORE_UNTIL, given=ActionInput(until=today))
    act(item, Action.IGNORE_UNTIL, given=ActionInput(until=today + DAYS))
    assert services.wake_ignored() == 0
    Discrepancy.objects.update(ignored_until=F("ignored_until") - DAYS)
    assert services.wake_ignored() == 1
    assert services.wake_ignored() == 0
    item.refresh_from_db()
    assert (item.state, item.ignored_until) == ("open", None)
    assert [row.to_state for row in item.history.order_by("id")] == ["open", "ignored", "open"]


# --- Chosen by a person -----------------------------------------------------------------------------


def test_orders_that_ask_for_just_that_amount_are_candidates_for_a_stray_charge(books):
    item = planted(books, Kind.MISSING_IN_OUR_SYSTEM)  # 25.00, and its metadata name no order
    assert item.order_reference == ""
    books.shop.stock("atlas", 5, price=2500)
    books.abandon()
    wanted = books.shop.checkout("atlas").json()["order"]["number"]
    Discrepancy.objects.update(theirs_at=database_now())  # the sandbox's day is yesterday, our orders are of today
    item.refresh_from_db()
    assert [order.number for order in offers.candidate_orders(item)] == [wanted]
    page = selectors.discrepancy_page(item.pk)
    assert [order.number for order in page.candidates] == [wanted]
    act(item, Action.CREATE_MISSING_PAYMENT, given=ActionInput(order_number=wanted))
    assert books.shop.order(wanted)["status"] == "paid"
    assert confirmed(books, item)
