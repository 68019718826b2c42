"""Money followed from an order to the bank and back: what belongs to an order, and where its chain is broken."""

import pytest
from django.db.models.functions import Now

from reconciliation import services
from reconciliation.bank.walk import Link, follow
from reconciliation.models import Link as Together
from tests.reconciliation.ledgers import booked, both, our_payout, our_refund, ours, theirs
from tests.reconciliation.test_bank_legs import came_back, line, number_of, paid, statement
from tests.reconciliation.test_rules import named, nameless

pytestmark = pytest.mark.django_db(transaction=True)


def told(text: str) -> list[tuple[str, str, str]]:
    """Of each booking: which movement of ours, which object of theirs, and where it ends."""
    return [_legs(link) for link in follow(text).links]


def _legs(link: Link) -> tuple[str, str, str]:
    mine = link.ours.number if link.ours else ""
    return mine, link.booking.object if link.booking else "", link.break_.says if link.break_ else "whole"


def ends(text: str) -> tuple[str, str]:
    """How the one chain of a payout ends, and at which leg."""
    (link,) = follow(text).links
    return (link.break_.how, link.break_.leg) if link.break_ else ("whole", "")


def test_a_refund_that_was_made_at_stripes_is_found_from_the_order(reconcile):
    payment = both("ch_1")
    theirs("re_9", -400, charge="ch_1", payment_intent="pi_1")
    reconcile()
    expected = [(payment.number, "ch_1"), ("", "re_9")]
    for text in (payment.number, "ch_1", "pi_1", "re_9"):
        assert [one[:2] for one in told(text)] == expected, text
    assert told("re_9")[1][2] == "our books do not hold it"


def test_a_charge_that_nobody_knows_is_found_by_its_intent_and_with_its_refund(reconcile):
    theirs("ch_9", payment_intent="pi_9")
    theirs("re_9", -400, charge="ch_9", payment_intent="pi_9")
    reconcile()
    for text in ("pi_9", "ch_9"):
        assert told(text) == [("", "ch_9", "our books do not hold it"), ("", "re_9", "our books do not hold it")], text


def test_what_a_rule_put_together_is_one_chain_from_either_side(reconcile):
    by_metadata, by_amount = ours("ch_1"), ours("ch_2", 700)
    named(by_metadata, "ch_9")
    row = nameless(700)
    reconcile()
    for payment, theirs_ in ((by_metadata, "ch_9"), (by_amount, row)):
        for text in (payment.number, theirs_):
            assert told(text) == [(payment.number, theirs_, "not paid out yet")], text


def test_what_a_person_put_together_is_one_chain_until_they_take_it_back(reconcile):
    payment = ours("ch_1")
    theirs("ch_9", 1490)  # linked, and still another amount: no match
    link = Together.objects.create(
        object_kind="charge", source="ch_9", ours_id=payment.pk, ours_source="ch_1", by="clara", why="the slip"
    )
    reconcile()
    assert told(payment.number) == told("ch_9") == [(payment.number, "ch_9", "not paid out yet")]
    Together.objects.filter(pk=link.pk).update(ended_at=Now(), ended_by="clara", ended_why="another one's slip")
    assert [one[:2] for one in told("ch_9")] == [("", "ch_9"), (payment.number, "")]


def test_what_a_rule_put_together_is_known_in_a_payout_as_well(reconcile):
    payment = ours("ch_1")
    transaction = named(payment, "ch_9")
    reconcile()
    payout = our_payout("po_1", 1426)
    payout.transactions.create(
        id=transaction,
        type="charge",
        reporting_category="charge",
        source="ch_9",
        amount_minor=1500,
        fee_minor=74,
        net_minor=1426,
        currency="usd",
        booked_at=payout.provider_created_at,
    )
    assert [one[:2] for one in told("po_1")] == [(payment.number, "ch_9")]


def test_a_movement_that_stripe_does_not_hold_says_so(reconcile):
    payment = ours("ch_1")
    our_refund(payment, "re_1", 300)
    reconcile()
    says = "Stripe's books, as read so far, do not hold it"
    assert [one[1:] for one in told(payment.number)] == [("", says), ("", says)]


def test_a_payout_that_our_books_do_not_hold_is_broken():
    transaction = booked("po_9", -5000, "payout")
    for text in ("po_9", transaction):
        assert ends(text) == ("broken", "payout"), text
    paid("po_9")
    assert follow(transaction).payout == follow("po_9").payout


def test_a_payout_that_came_back_is_not_at_its_end():
    payout = paid("po_1")
    statement(line("B-1"))
    services.match_bank_lines(by="test")
    assert ends("po_1") == ("whole", "")
    came_back(payout)
    assert ends("po_1")[1] == "bank"  # its return has not come
    statement(line("B-2", -5000))
    services.link_bank_line(line=number_of("B-2"), payout=payout.number, by="clara", why="the letter")
    assert len(follow("po_1").lines) == 2
    assert ends("po_1") == ("waits", "payout")


@pytest.mark.parametrize(("amount", "how"), [(5000, "waits"), (4990, "broken")])
def test_money_that_is_there_before_stripe_says_so_waits_for_stripe(amount, how):
    payout = our_payout("po_1", 5000, status="in_transit")
    statement(line("B-1", amount))
    services.link_bank_line(line=number_of("B-1"), payout=payout.number, by="clara", why="the letter")
    assert ends("po_1") == (how, "bank")
