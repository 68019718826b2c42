"""Closing the loop: each action repairs what it promises, is written down, and is confirmed by the next run."""

from datetime import UTC, datetime, time, timedelta

import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.db.models import Sum

from catalog.models import Merchant
from foundation.database import database_now
from foundation.errors import DomainError
from payments import services as payments
from payments.errors import ContradictsProvider, ProviderUnavailable
from payments.models import JournalEntry, Payment, Posting, Refund
from reconciliation import selectors, services
from reconciliation.errors import ActionInProgress, ActionNotOffered, AlreadyResolved, NoteMissing
from reconciliation.models import Discrepancy, DiscrepancyAction, ProviderTransaction
from reconciliation.types import ACTIONS, Action, ActionInput, ActionResult, Kind
from tests.reconciliation.ledgers import theirs
from tests.shop import settle


def the(kind: str) -> Discrepancy:
    return Discrepancy.objects.get(kind=kind)


def act(item: Discrepancy, action: str, *, note: str = "checked with the bank", **options) -> ActionResult:
    result = services.perform(discrepancy_id=item.pk, action=action, by="clara", note=note, **options)
    settle(webhooks=False)
    return result


def confirmed(books, item: Discrepancy) -> bool:
    """A next run that is clean, and stands behind the resolution."""
    report = books.reconcile()
    item.refresh_from_db()
    assert report.kinds == {}
    assert report.residual == dict.fromkeys(report.residual, 0)
    return (item.state, item.closed_as) == ("resolved", "fixed") and item.verified_by_run_id == report.run_id


def planted(books, kind: str) -> Discrepancy:
    books.plant(kind)
    books.reconcile()
    return the(kind)


def test_every_action_repairs_what_it_promises_and_the_next_run_is_clean(books):
    orders = books.sell(9)
    for order in orders[:4]:
        books.refund(order, 500)
    books.abandon()
    lost_order = books.abandon()
    repairs = {
        Kind.MISSING_IN_STRIPE: Action.POST_CORRECTION,
        Kind.AMOUNT_MISMATCH: Action.POST_CORRECTION,
        Kind.STATUS_MISMATCH: Action.TAKE_PROVIDER_STATUS,
        Kind.MISSING_IN_OUR_SYSTEM: Action.CREATE_MISSING_PAYMENT,
        Kind.DUPLICATE_CHARGE: Action.REFUND_CUSTOMER,
        Kind.MISSING_IN_STRIPE_REFUND: Action.POST_CORRECTION,
        Kind.MISSING_IN_OUR_SYSTEM_REFUND: Action.CREATE_MISSING_REFUND,
        Kind.AMOUNT_MISMATCH_REFUND: Action.POST_CORRECTION,
        Kind.STATUS_MISMATCH_REFUND: Action.TAKE_PROVIDER_STATUS,
        Kind.FEE_VARIANCE: Action.POST_CORRECTION,
    }
    for kind in repairs:
        books.plant(kind)
    assert {kind: counts.new for kind, counts in books.reconcile().kinds.items()} == dict.fromkeys(repairs, 1)
    for kind, action in repairs.items():
        result = act(the(kind), action)
        assert (result.state, result.closed_as) == ("resolved", "fixed"), (kind, result.text)
    report = books.reconcile()
    assert report.kinds == {}
    assert report.residual == {"usd": 0}
    found = Discrepancy.objects.exclude(kind=Kind.REFUND_FAILED_LATE)  # told by the refund whose failure was taken over
    assert set(found.values_list("closed_as", "verified_by_run")) == {("fixed", report.run_id)}
    assert the(Kind.REFUND_FAILED_LATE).state == "open"  # the customer still waits for that money
    assert Posting.objects.aggregate(total=Sum("amount_minor"))["total"] == 0
    assert books.shop.order(lost_order["number"])["status"] == "paid"
    assert DiscrepancyAction.objects.filter(outcome="ok", by="clara", note="checked with the bank").count() == len(
        repairs
    )


def test_disputes_payouts_and_rows_that_nobody_told_of_are_taken_over(books):
    """Each planted in silence, found as its kind, repaired, and the statement closes to the cent before and after."""
    *_, disputed = books.sell(4)
    known = books.sandbox.control("POST", "disputes", {"payment_intent": disputed["payments"][0]["provider_reference"]})
    payments.sync_dispute(known["id"], by="test")
    repairs = {
        Kind.DISPUTE_MISSING: Action.TAKE_PROVIDER_STATUS,
        Kind.DISPUTE_UNEXPECTED: Action.TAKE_PROVIDER_STATUS,
        Kind.UNKNOWN_TYPE: Action.POST_CORRECTION,
        Kind.PAYOUT_DIFFERENCE: Action.TAKE_PROVIDER_STATUS,
    }
    for kind in repairs:
        books.plant(kind)
    report = books.reconcile()
    assert {kind: counts.new for kind, counts in report.kinds.items()} == dict.fromkeys(repairs, 1)
    assert report.statement["usd"].is_proved, report.statement["usd"].proofs
    for kind, action in repairs.items():
        result = act(the(kind), action)
        assert (result.state, result.closed_as) == ("resolved", "fixed"), (kind, result.text)
    report = books.reconcile()
    assert (report.kinds, report.residual) == ({}, {"usd": 0})
    assert report.statement["usd"].is_proved, report.statement["usd"].proofs


def test_what_another_installation_took_is_told_apart_and_explained(books):
    books.sell()
    books.plant(Kind.FOREIGN_INSTANCE)
    report = books.reconcile()
    assert {kind: counts.new for kind, counts in report.kinds.items()} == {Kind.FOREIGN_INSTANCE: 1}
    assert act(the(Kind.FOREIGN_INSTANCE), Action.ACCEPT).closed_as == "accepted"
    report = books.reconcile()
    assert (report.kinds, report.residual) == ({}, {"usd": 0})  # accepted, it still explains itself


def test_what_is_missing_at_stripe_cost_nothing(books):
    """Its fee was posted when the money seemed to move: the correction takes it back."""
    books.sell(2)
    item = planted(books, Kind.MISSING_IN_STRIPE)
    act(item, Action.POST_CORRECTION)
    assert Posting.objects.filter(account__kind="fees").aggregate(total=Sum("amount_minor"))["total"] == 74
    assert confirmed(books, item)


def test_a_missing_payment_is_attached_to_its_order_and_the_sale_carried_out(books):
    order = books.abandon()
    item = planted(books, Kind.MISSING_IN_OUR_SYSTEM)
    assert item.order_reference == order["number"]
    result = act(item, Action.CREATE_MISSING_PAYMENT)
    assert order["number"] in result.text
    assert books.shop.order(order["number"])["status"] == "paid"
    assert books.shop.level() == (99, 0)
    assert confirmed(books, item)


def test_a_stray_charge_without_an_order_needs_one_from_a_person(books):
    item = planted(books, Kind.MISSING_IN_OUR_SYSTEM)
    assert item.order_reference == ""
    with pytest.raises(DomainError) as refusal:
        act(item, Action.CREATE_MISSING_PAYMENT)
    assert refusal.value.param == "order_number"
    order = books.abandon()  # of 15.00, the charge is 25.00
    with pytest.raises(ContradictsProvider):
        act(item, Action.CREATE_MISSING_PAYMENT, given=ActionInput(order_number=order["number"]))
    assert [(action.outcome, action.by) for action in item.actions.all()] == [("failed", "clara")] * 2
    act(item, Action.REFUND_CUSTOMER, given=ActionInput(order_number=order["number"]))
    assert books.shop.order(order["number"])["status"] == "pending"  # no order heard of it
    refund = Refund.objects.get()
    assert (refund.status, refund.amount_minor, refund.requested_by) == ("succeeded", 2500, "clara")
    assert confirmed(books, item)


def test_a_discrepancys_refund_above_the_limit_waits_for_a_second_person(books):
    books.sell()
    item = planted(books, Kind.DUPLICATE_CHARGE)
    Merchant.objects.update(refund_approval_above_minor=1000)
    act(item, Action.REFUND_CUSTOMER)
    refund = Refund.objects.get()
    assert (refund.status, refund.amount_minor) == ("awaiting_approval", 1500)


@pytest.mark.guard(15)
def test_a_double_click_refunds_once(books):
    books.sell()
    item = planted(books, Kind.DUPLICATE_CHARGE)
    first = act(item, Action.REFUND_CUSTOMER)
    again = act(item, Action.REFUND_CUSTOMER)
    assert not first.replayed
    assert again.replayed
    assert again.text == first.text
    assert Refund.objects.count() == 1
    assert item.actions.count() == 1


def its_process_had_died() -> None:
    """Before it wrote the end of the action."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("ALTER TABLE reconciliation_discrepancyaction DISABLE TRIGGER USER")
        cursor.execute(
            "UPDATE reconciliation_discrepancyaction SET outcome = 'started', lease_until = now() - interval '1 s'"
        )
        cursor.execute("ALTER TABLE reconciliation_discrepancyaction ENABLE TRIGGER USER")


def test_the_same_press_completes_what_a_dead_process_did_though_the_item_is_closed_by_now(books):
    books.sell()
    item = planted(books, Kind.AMOUNT_MISMATCH)
    act(item, Action.POST_CORRECTION)
    entries = JournalEntry.objects.count()
    its_process_had_died()
    with pytest.raises(AlreadyResolved):  # another press is another action
        act(item, Action.WRITE_OFF)
    assert not act(item, Action.POST_CORRECTION).replayed
    assert item.actions.get().outcome == "ok"
    assert JournalEntry.objects.count() == entries


def test_a_refund_that_was_requested_before_a_crash_is_not_requested_again(books):
    books.sell()
    item = planted(books, Kind.DUPLICATE_CHARGE)
    act(item, Action.REFUND_CUSTOMER, given=ActionInput(amount_minor=1500))
    its_process_had_died()
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE reconciliation_discrepancy SET state = 'open', closed_as = '', resolved_at = NULL, resolved_by = ''"
        )
    result = act(item, Action.REFUND_CUSTOMER, given=ActionInput(amount_minor=1500))
    assert (result.state, result.closed_as) == ("resolved", "fixed")
    assert Refund.objects.count() == 1


def test_a_second_person_has_to_wait_while_an_action_runs(books):
    books.sell()
    item = planted(books, Kind.AMOUNT_MISMATCH)
    running = DiscrepancyAction.objects.create(
        discrepancy=item, action="requery", key="another press", note="looking", by="carl",
        lease_until=database_now() + timedelta(minutes=1),
    )  # fmt: skip
    with pytest.raises(ActionInProgress):
        act(item, Action.POST_CORRECTION)
    DiscrepancyAction.objects.filter(pk=running.pk).update(lease_until=database_now())
    assert act(item, Action.POST_CORRECTION).closed_as == "fixed"  # carl's process had died
    running.refresh_from_db()
    assert running.outcome == "failed"


def test_asking_again_closes_what_has_healed(books):
    books.sell()
    books.plant(Kind.AMOUNT_MISMATCH)
    books.reconcile()
    item = the(Kind.AMOUNT_MISMATCH)
    assert act(item, Action.REQUERY).state == "open"  # it is still so
    Payment.objects.update(captured_minor=item.theirs_amount_minor)  # somebody found our error
    result = act(item, Action.REQUERY)
    assert (result.state, result.closed_as) == ("resolved", "auto")


def test_what_was_fixed_and_is_seen_again_is_opened_again(books):
    books.sell()
    item = planted(books, Kind.AMOUNT_MISMATCH)
    act(item, Action.POST_CORRECTION)
    Payment.objects.update(corrected_minor=0)
    report = books.reconcile()
    assert report.kinds[Kind.AMOUNT_MISMATCH].new == 1
    item.refresh_from_db()
    assert (item.state, item.cycle, item.closed_as) == ("open", 2, "")
    assert [row.to_state for row in item.history.order_by("id")] == ["open", "resolved", "open"]


def test_an_accepted_difference_stays_closed_until_its_figures_change(books):
    books.sell()
    item = planted(books, Kind.AMOUNT_MISMATCH)
    assert act(item, Action.ACCEPT).closed_as == "accepted"
    assert books.reconcile().kinds == {}
    with pytest.raises(AlreadyResolved):
        act(item, Action.POST_CORRECTION)
    Payment.objects.update(captured_minor=1)
    assert books.reconcile().kinds[Kind.AMOUNT_MISMATCH].new == 1


def test_fraud_is_marked_on_the_payment_and_closes_the_item(books):
    books.sell()
    item = planted(books, Kind.MISSING_IN_STRIPE)
    assert act(item, Action.MARK_FRAUD).closed_as == "accepted"
    assert Payment.objects.get().fraud_marked_at
    assert books.reconcile().kinds == {}


def test_claiming_assigning_and_ignoring_move_the_item(books):
    books.sell()
    item = planted(books, Kind.AMOUNT_MISMATCH)
    act(item, Action.CLAIM)
    act(item, Action.ASSIGN, given=ActionInput(owner="carl"))
    item.refresh_from_db()
    assert (item.state, item.owner) == ("investigating", "carl")
    act(item, Action.RELEASE)
    until = database_now().date() + timedelta(days=1)
    act(item, Action.IGNORE_UNTIL, given=ActionInput(until=until))
    assert sum(selectors.open_counts().values()) == 0
    assert books.reconcile().kinds == {}
    Discrepancy.objects.update(ignored_until=database_now().date())
    assert books.reconcile().kinds[Kind.AMOUNT_MISMATCH].new == 1


def test_a_provider_that_does_not_answer_is_a_recorded_failure(books):
    books.sell()
    item = planted(books, Kind.AMOUNT_MISMATCH)
    books.sandbox.control(
        "POST", "faults", {"match": "GET /v1/balance_transactions", "kind": "error_500", "times": 1}
    )  # fmt: skip
    with pytest.raises(ProviderUnavailable):
        act(item, Action.REQUERY)
    assert item.actions.get().outcome == "failed"
    assert act(item, Action.REQUERY).state == "open"


def test_refusals(books):
    books.sell()
    item = planted(books, Kind.AMOUNT_MISMATCH)
    with pytest.raises(NoteMissing):
        act(item, Action.ACCEPT, note="  ")
    with pytest.raises(ActionNotOffered):
        act(item, Action.TAKE_PROVIDER_STATUS)
    with pytest.raises(DomainError, match="Say until when"):
        act(item, Action.IGNORE_UNTIL)
    assert not item.actions.exists()


def test_an_action_is_written_once_and_never_changed(books):
    books.sell()
    item = planted(books, Kind.AMOUNT_MISMATCH)
    act(item, Action.ACCEPT)
    with pytest.raises(DatabaseError), transaction.atomic():
        DiscrepancyAction.objects.update(note="another reason")
    with pytest.raises(DatabaseError), transaction.atomic():
        item.actions.all().delete()
    with pytest.raises(IntegrityError), transaction.atomic():
        Discrepancy.objects.update(closed_as="")


def test_a_page_shows_both_sides_the_order_what_was_done_and_what_can_be_done(books):
    order, *_ = books.sell(1)
    item = planted(books, Kind.AMOUNT_MISMATCH)
    act(item, Action.CLAIM, note="mine")
    page = selectors.discrepancy_page(item.pk)
    assert page.order
    assert page.payment
    assert page.order.number == order["number"]
    assert page.payment.number == order["payments"][0]["number"]
    assert page.item.ours_amount_minor == 1500
    assert [row.amount_minor for row in page.transactions] == [page.item.theirs_amount_minor]
    assert [(action.action, action.note) for action in page.actions] == [("claim", "mine")]
    assert [row.to_state for row in page.history] == ["open", "investigating"]
    offered = {info.name for info in page.offered}
    assert offered == {info.name for info in ACTIONS[item.kind]} - {Action.CLAIM}


# --- What Stripe cannot be asked about ----------------------------------------------------------------


def row_of_a_file(books, source: str = "r-1", amount: int = 9_900, **fields) -> ProviderTransaction:
    """As a statement file tells of it that names no object: the row stands under its own id."""
    at = datetime.combine(books.day, time(13), UTC)
    names = {"payment_intent": "", "charge": "", "fee_minor": 0, "net_minor": amount, "status": ""}
    return ProviderTransaction.objects.get(pk=theirs(source, amount, at=at, **{"id": source, **names, **fields}))


def test_of_a_row_that_names_no_object_stripe_is_not_asked_and_it_stays(books):
    books.sell()
    row = row_of_a_file(books, status="available")
    books.reconcile(from_files=True)
    for action in (Action.REQUERY, Action.REPLAY_EVENT):
        result = act(the(Kind.MISSING_IN_OUR_SYSTEM), action)
        assert (result.state, result.closed_as) == ("open", "")
        if action == Action.REQUERY:
            assert result.text.startswith("Stripe cannot be asked about r-1")
    row.refresh_from_db()
    assert row.withdrawn_at is None


def test_what_a_file_alone_told_of_an_object_stays_where_stripe_knows_nothing_of_it(books):
    books.sell()
    row = row_of_a_file(books, "ch_ofafile")
    books.reconcile(from_files=True)
    assert act(the(Kind.MISSING_IN_OUR_SYSTEM), Action.REQUERY).state == "open"
    row.refresh_from_db()
    assert row.withdrawn_at is None
    ProviderTransaction.objects.update(status="available")  # the API told of it once, and does no longer
    assert act(the(Kind.MISSING_IN_OUR_SYSTEM), Action.REQUERY).closed_as == "auto"


def test_what_stripe_tells_of_an_object_takes_the_place_of_what_a_file_told(books):
    books.sell()
    charge = Payment.objects.get().charge_reference or ""
    books.reconcile()
    row = row_of_a_file(books, charge, id="r-2")
    books.reconcile(from_files=True)
    assert act(the(Kind.AMOUNT_MISMATCH), Action.REQUERY).closed_as == "auto"
    row.refresh_from_db()
    assert row.withdrawn_at is not None


def test_a_correction_of_a_linked_row_is_posted_and_the_row_stays(books):
    books.sell()
    lost = planted(books, Kind.MISSING_IN_STRIPE)
    row = row_of_a_file(books, amount=1600)
    books.reconcile(from_files=True)
    act(the(Kind.MISSING_IN_OUR_SYSTEM), Action.LINK, given=ActionInput(number=lost.payment_number))
    result = act(the(Kind.AMOUNT_MISMATCH), Action.POST_CORRECTION)
    assert (result.state, result.closed_as) == ("resolved", "fixed"), result.text
    row.refresh_from_db()
    assert row.withdrawn_at is None
    assert Payment.objects.get().corrected_minor == 100
