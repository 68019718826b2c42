"""Our books and the provider's, made through the real services and the real SDK, then pulled apart."""

import io

from payments import services as payments
from payments.models import Payout
from reconciliation import services
from reconciliation.bank import walk
from reconciliation.models import Discrepancy, ProviderTransaction, ReconciliationRun
from reconciliation.services import perform
from reconciliation.types import Action, Kind

PLANTED = [
    Kind.MISSING_IN_STRIPE,
    Kind.MISSING_IN_OUR_SYSTEM,
    Kind.AMOUNT_MISMATCH,
    Kind.STATUS_MISMATCH,
    Kind.MISSING_IN_STRIPE_REFUND,
    Kind.MISSING_IN_OUR_SYSTEM_REFUND,
    Kind.AMOUNT_MISMATCH_REFUND,
    Kind.STATUS_MISMATCH_REFUND,
    Kind.CURRENCY_MISMATCH,
    Kind.DUPLICATE_CHARGE,
    Kind.FEE_VARIANCE,
]


def open_now() -> set[tuple[str, str]]:
    return set(Discrepancy.objects.exclude(state="resolved").values_list("kind", "source"))


def test_equal_books_have_no_discrepancies(books):
    order, *_ = books.sell(3)
    books.refund(order, 500)
    report = books.reconcile()
    assert report.kinds == {}
    assert (report.ours_count, report.theirs_count, report.matched) == (4, 4, 4)
    assert report.ours_totals == report.theirs_totals == {"usd": 3 * 1500 - 500}
    assert report.residual == {"usd": 0}
    assert not report.provisional


def test_disputes_and_payouts_that_no_webhook_told_of_are_found_and_taken_over(books):
    won, lost, asked, _ = books.sell(4)
    disputes = {}
    for order, outcome in ((won, "won"), (lost, "lost"), (asked, "")):
        body = {"payment_intent": order["payments"][0]["provider_reference"], "inquiry": not outcome}
        made = books.sandbox.control("POST", "disputes", body)
        if outcome:
            books.sandbox.control("POST", "disputes/outcome", {"dispute": made["id"], "status": outcome})
            disputes[made["id"]] = outcome
    payouts = []
    for status in ("failed", "paid"):  # what came back goes out again
        for payout in books.sandbox.control("POST", "payouts", {"include_pending": True})["payouts"]:
            books.sandbox.control("POST", "payouts/outcome", {"payout": payout["id"], "status": status})
            payouts.append(payout["id"])
    report = books.reconcile()
    seen = set(ProviderTransaction.objects.values_list("reporting_category", flat=True))
    assert seen == {"charge", "dispute", "dispute_reversal", "payout", "payout_reversal"}
    assert (report.matched, report.theirs_totals) == (4, {"usd": 4 * 1500})  # of charges and refunds
    assert report.residual == {"usd": 0}  # all that differs is told, to the cent
    assert open_now() == {
        *((Kind.DISPUTE_UNEXPECTED, dispute) for dispute in disputes),
        *((Kind.PAYOUT_DIFFERENCE, payout) for payout in payouts),
    }
    for item in Discrepancy.objects.all():
        result = perform(discrepancy_id=item.pk, action=Action.TAKE_PROVIDER_STATUS, by="clara", note="it is so")
        assert (result.state, result.closed_as) == ("resolved", "fixed"), (item.kind, result.text)
    report = books.reconcile()
    assert (report.kinds, report.residual) == ({}, {"usd": 0})
    assert [proof.residual_minor for proof in report.statement["usd"].proofs] == [0, 0, 0]
    assert report.statement["usd"].is_proved


def test_what_the_provider_takes_from_our_bank_is_followed_to_the_line_there(books):
    """Two sales are at our bank; one is given back, and Stripe takes its 15.00 from there."""

    def payout(**options: bool) -> Payout:
        (made,) = books.sandbox.control("POST", "payouts", {"include_pending": True, **options})["payouts"]
        books.sandbox.control("POST", "payouts/outcome", {"payout": made["id"], "status": "paid"})
        payments.sync_payout(made["id"], by="test")
        return Payout.objects.get(provider_reference=made["id"])

    order, _ = books.sell(2)
    arrived = payout()
    books.refund(order)
    taken = payout(debit_negative_balances=True)
    assert (arrived.amount_minor, taken.amount_minor) == (2 * (1500 - 74), -1500)

    report = books.reconcile()
    assert (report.kinds, report.residual) == ({}, {"usd": 0})
    statement = report.statement["usd"]
    assert {line.category: line.net_minor for line in statement.lines} == {
        "charge": 2852,
        "refund": -1500,
        "payout": -2852 + 1500,
    }
    assert statement.is_proved
    assert [(proof.name, proof.says_minor) for proof in statement.proofs] == [
        ("balance", 0),
        ("clearing", 0),
        ("payouts", 2852 - 1500),
    ]

    rows = [
        f"L{n},A,{one.arrives_on},usd,{one.amount_minor},{one.trace_id},Stripe"
        for n, one in enumerate((arrived, taken))
    ]
    file = "\n".join(["reference,account,booked_on,currency,amount_minor,end_to_end,counterparty", *rows, ""])
    read = services.import_bank_statement(file=io.BytesIO(file.encode()), name="bank.csv", by="test")
    assert (read.added, read.matched, open_now()) == (2, 2, set())
    found = walk.follow(taken.number)
    assert (found.collected, found.collected_minor) == (1, -1500)
    (link,) = found.links
    assert link.ours
    assert link.booking
    assert (link.ours.kind, link.booking.net_minor) == ("refund", -1500)
    assert ([row.amount_minor for row in link.lines], link.break_) == ([-1500], None)


def test_a_run_finds_exactly_what_differs_and_a_second_run_changes_nothing(books):
    orders = books.sell(12)
    for order in orders[:4]:
        books.refund(order, 500)
    books.abandon()
    books.abandon()
    planted = {(kind, planted_id) for kind in PLANTED for planted_id in books.plant(kind)}
    first = books.reconcile()
    assert open_now() == planted
    assert {kind: counts.new for kind, counts in first.kinds.items()} == dict.fromkeys(PLANTED, 1)
    assert first.residual == {"eur": 0, "usd": 0}
    before = list(Discrepancy.objects.order_by("pk").values())
    second = books.reconcile()
    assert {(counts.new, counts.persisting, counts.resolved) for counts in second.kinds.values()} == {(0, 1, 0)}
    assert second.kinds.keys() == first.kinds.keys()
    after = list(Discrepancy.objects.order_by("pk").values())
    for was, now in zip(before, after, strict=True):
        assert was | {"last_seen_run_id": None} == now | {"last_seen_run_id": None}
    assert ReconciliationRun.objects.filter(state="completed").count() == 2


def test_differences_planted_after_a_clean_run_are_found(books):
    """The provider's rows are imported already: those that changed or vanished there are noticed all the same."""
    orders = books.sell(12)
    for order in orders[:4]:
        books.refund(order, 500)
    books.abandon()
    assert books.reconcile().kinds == {}
    planted = {(kind, planted_id) for kind in PLANTED for planted_id in books.plant(kind)}
    books.reconcile()
    assert open_now() == planted
