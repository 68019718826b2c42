"""Lines of our bank beside payouts: what belongs together, what is proposed, what differs, and what closes by itself.

Payouts arrive on Monday, 12 January 2026; 5 days later, on the 18th, what did not come is a break.
"""

import io
from datetime import UTC, date, datetime, timedelta

import pytest
from django.db.models import Sum

from payments import ledger
from payments.models import Payout, Posting
from reconciliation import services
from reconciliation.errors import AlreadyLinked, NotLinked
from reconciliation.models import BankLine, BankMatch, Discrepancy, StatementFile
from reconciliation.services import actions, bank, repairs
from reconciliation.types import Action, ActionInput, Kind
from tests.races import orders
from tests.reconciliation.ledgers import DAY, found, our_payout

pytestmark = pytest.mark.django_db(transaction=True)

MONDAY = date(2026, 1, 12)
LATE = date(2026, 1, 18)  # the first day on which a payout of Monday is late
HEAD = "reference,account,booked_on,currency,amount_minor,end_to_end,counterparty,text\n"


@pytest.fixture(autouse=True)
def today(monkeypatch):
    """Turns the clock of the third leg."""
    now = [datetime(2026, 1, 12, 12, tzinfo=UTC)]
    for module in (bank, actions, repairs):
        monkeypatch.setattr(module, "database_now", lambda: now[0])

    def turn(day: date) -> None:
        now[0] = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)

    return turn


@pytest.fixture
def look(today):
    def at(day: date = MONDAY) -> dict[str, str]:
        today(day)
        services.match_bank_lines(by="test")
        return found()

    return at


def paid(source: str, amount: int = 5000, *, at: datetime = DAY, **fields) -> Payout:
    """A payout that Stripe says was paid, and that our ledger has at the bank."""
    payout = our_payout(source, amount, at=at, **fields)
    ledger.post(
        key=f"payout:{payout.number}",
        kind="payout",
        debit=ledger.bank(payout.currency),
        credit=ledger.clearing(payout.currency),
        amount_minor=amount,
        by="test",
        subject=payout.number,
    )
    return payout


def came_back(payout: Payout) -> None:
    Payout.objects.filter(pk=payout.pk).update(status="failed")
    ledger.post(
        key=f"payout_failed:{payout.number}",
        kind="payout_failed",
        debit=ledger.clearing(payout.currency),
        credit=ledger.bank(payout.currency),
        amount_minor=payout.amount_minor,
        by="test",
        subject=payout.number,
    )


def line(
    reference: str,
    amount: int = 5000,
    on: date = MONDAY,
    *,
    currency: str = "usd",
    end_to_end: str = "",
    counterparty: str = "Stripe Payments UK",
    text: str = "",
) -> str:
    return f"{reference},ACCT,{on},{currency},{amount},{end_to_end},{counterparty},{text}\n"


def statement(*lines: str, reaches: date | None = None) -> None:
    """What the bank told. `reaches`: a line of nobody's on that day."""
    if reaches:
        lines = (*lines, line(f"R{reaches}", 1, reaches, counterparty="Jane Doe"))
    file = io.BytesIO((HEAD + "".join(lines)).encode())
    report = services.import_bank_statement(file=file, name="bank.csv", by="test")
    assert not report.problems, report.problems


def matches() -> dict[str, tuple[str, str]]:
    """Line → its payout and why."""
    payouts = dict(Payout.objects.values_list("pk", "provider_reference"))
    live = BankMatch.objects.filter(ended_at=None).select_related("line")
    return {match.line.reference: (payouts[match.payout_id], match.how) for match in live}


def number_of(reference: str) -> str:
    return BankLine.objects.get(reference=reference).number


def at_bank(currency: str = "usd") -> int:
    posted = Posting.objects.filter(account__kind="bank", account__currency=currency)
    return posted.aggregate(total=Sum("amount_minor"))["total"] or 0


def act(item: Discrepancy, action: str, counterpart: str = "") -> None:
    services.perform(
        discrepancy_id=item.pk,
        action=action,
        by="clara",
        note="looked at the bank's letter",
        given=ActionInput(counterpart=counterpart),
    )


# --- What belongs together --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "where",
    [
        {"end_to_end": "TRC-2026/0112"},
        {"text": "payout trc20260112; thank you"},
        {"text": "/TRC/trc-20260112/EREF/x"},
        {"text": "ours is po_1AbC0112"},
    ],
)
def test_a_line_that_bears_the_trace_id_is_that_payout(where):
    """Of two payouts of the same amount and day, and whatever else the line says. Banks change case and punctuation."""
    paid("po_1AbC0112", trace_id="TRC-2026/0112")
    paid("po_2", trace_id="TRC-2026/0113")
    statement(line("L1", counterparty="A bank", **where))
    assert matches() == {"L1": ("po_1AbC0112", "trace_id")}
    assert found() == {}


def test_amount_currency_and_date_are_enough_where_nothing_else_fits():
    paid("po_1")
    paid("po_2", 6000)
    paid("po_3", currency="eur")
    statement(line("L1"), line("L2", 6000), line("L3", 5000, currency="eur"))
    assert matches() == {
        "L1": ("po_1", "amount_and_date"),
        "L2": ("po_2", "amount_and_date"),
        "L3": ("po_3", "amount_and_date"),
    }
    why = BankMatch.objects.get(line__reference="L1").why
    assert why == "amount, currency and date fit, and nothing else does: due 2026-01-12, booked 2026-01-12"


@pytest.mark.parametrize(("days", "fits"), [(-3, False), (-2, True), (5, True), (6, False)])
def test_a_date_fits_from_two_days_before_to_five_days_after_the_arrival(days, fits):
    paid("po_1")
    statement(line("L1", on=MONDAY + timedelta(days=days)), reaches=date(2026, 1, 9))
    assert bool(matches()) is fits


@pytest.mark.parametrize(
    ("who", "is_provider"),
    [
        ("Stripe", True),
        ("STRIPE-Payments", True),
        ("via_stripe", True),
        ("Pinstripe Tailors", False),
        ("Stripes", False),
    ],
)
def test_the_provider_is_named_by_a_whole_word(who, is_provider):
    paid("po_1")
    statement(line("L1", counterparty=who, text="invoice 17"), line("L2", 777, counterparty=who))
    assert set(matches()) == ({"L1"} if is_provider else set())
    assert found() == ({number_of("L2"): Kind.BANK_LINE_UNEXPLAINED} if is_provider else {})


@pytest.mark.parametrize(
    ("trace", "amount", "is_it"),
    [("202601", 123, False), ("2026-01", 5000, True), ("20260112", 123, True), ("2-0-2-6-0", 5000, False)],
)
def test_a_short_trace_id_proves_nothing_without_the_amount(trace, amount, is_it):
    """A customer may write the same: "rent 2026-01"."""
    paid("po_1", trace_id=trace)
    statement(line("L1", amount, counterparty="Jane Doe", text=f"rent {trace}"))
    assert matches() == ({"L1": ("po_1", "trace_id")} if is_it else {})


def test_two_payouts_of_one_amount_are_proposed_not_guessed(look):
    first, second = paid("po_1"), paid("po_2")
    statement(line("L1"))
    item = Discrepancy.objects.get()
    assert (item.kind, item.source, item.theirs_amount_minor) == (Kind.BANK_LINE_UNEXPLAINED, number_of("L1"), 5000)
    assert {(one["number"], *one["differs"]) for one in item.evidence["candidates"]} == {
        (first.number,),
        (second.number,),
    }
    assert matches() == {}

    act(item, Action.LINK_BANK_LINE, second.number)
    item.refresh_from_db()
    assert (item.state, item.closed_as) == ("resolved", "fixed")
    assert matches() == {"L1": ("po_2", "person")}
    statement(line("L2"))  # now only one is left
    assert matches()["L2"] == ("po_1", "amount_and_date")


def test_two_lines_of_one_amount_are_proposed_not_guessed():
    paid("po_1")
    statement(line("L1"), line("L2"))
    assert matches() == {}
    assert found() == dict.fromkeys((number_of("L1"), number_of("L2")), Kind.BANK_LINE_UNEXPLAINED)


def test_a_line_of_somebody_else_is_proposed_and_never_taken_by_itself(look):
    """A customer pays the same amount on the same day."""
    paid("po_1")
    statement(line("L1", counterparty="Jane Doe"), reaches=LATE)
    assert found() == {}
    assert look(LATE) == {"po_1": Kind.PAYOUT_NOT_AT_BANK}
    (candidate,) = Discrepancy.objects.get().evidence["candidates"]
    assert (candidate["number"], candidate["differs"]) == (number_of("L1"), ["does not name the provider"])


def test_what_came_before_and_elsewhere_stays_as_it_is():
    """Lines of other people are nobody's discrepancy, and without a bank's statement there is no third leg."""
    paid("po_1")
    assert services.match_bank_lines(by="test") == 0
    assert found() == {}
    statement(line("L1", 123, counterparty="Jane Doe"), line("L2", -45, counterparty="Water works"))
    assert found() == {}


# --- What differs -----------------------------------------------------------------------------------


def test_a_payout_that_never_came_is_a_break_five_days_after_its_date(look):
    paid("po_1")
    statement(reaches=date(2026, 1, 11))
    statement(reaches=LATE)
    assert look(LATE - timedelta(days=1)) == {}
    assert look(LATE) == {"po_1": Kind.PAYOUT_NOT_AT_BANK}
    item = Discrepancy.objects.get()
    assert (item.state, item.ours_amount_minor, item.theirs_amount_minor, item.difference_minor) == (
        "open",
        5000,
        None,
        -5000,
    )
    assert item.business_date == MONDAY


def test_while_no_statement_reaches_its_date_it_waits_and_says_until_when(look):
    paid("po_1")
    statement(reaches=date(2026, 1, 11))
    look(LATE)
    item = Discrepancy.objects.get()
    assert (item.state, item.becomes_break_at) == ("timing", datetime(2026, 2, 17, tzinfo=UTC))
    assert item.evidence["timing"] == "the statements of the bank reach to 2026-01-11"
    look(date(2026, 2, 16))
    item.refresh_from_db()
    assert item.state == "timing"
    look(date(2026, 2, 17))
    item.refresh_from_db()
    assert item.state == "open"


def test_statements_of_an_account_that_payouts_do_not_come_to_prove_nothing(look):
    """Payouts come to ACCT; the savings' statements reach further."""
    paid("po_1")
    statement(line("A1", 100, MONDAY - timedelta(days=1)))
    statement(line("B1", 700, LATE + timedelta(days=4), counterparty="Jane Doe").replace("ACCT", "SAVINGS"))
    look(LATE + timedelta(days=5))
    item = Discrepancy.objects.get(kind=Kind.PAYOUT_NOT_AT_BANK)
    assert (item.state, item.evidence["statements_reach"]) == ("timing", "2026-01-11")


def test_an_account_that_was_given_up_keeps_nothing_waiting(look):
    statement(line("A1", 100, MONDAY - timedelta(days=80)).replace("ACCT", "OLD"))
    paid("po_1")
    statement(line("A2", 100, MONDAY), line("A3", 1, LATE, counterparty="Jane Doe"))
    assert look(LATE)["po_1"] == Kind.PAYOUT_NOT_AT_BANK
    assert Discrepancy.objects.get(kind=Kind.PAYOUT_NOT_AT_BANK).state == "open"


def test_what_may_stand_in_a_statement_that_is_missing_waits(look):
    paid("po_1", currency="eur")
    pages = {  # last, the days between
        "5": (110, 150, "260110"),
        "9": (300, 350, "260121"),
        "6": (150, 300, "260111"),
    }

    def bring(number: str) -> None:
        opening, closing, day = pages[number]
        text = (
            f":20:A\n:25:DE1\n:28C:{number}\n:60F:C{day}EUR{opening},00\n:61:{day}C{closing - opening},00NTRFNONREF\n"
        )
        text += f":86:STRIPE\n:62F:C{day}EUR{closing},00\n-\n"
        services.import_bank_statement(file=io.BytesIO(text.encode()), name=number, by="test")

    bring("5")
    bring("9")
    look(MONDAY + timedelta(days=9))
    item = Discrepancy.objects.get(kind=Kind.PAYOUT_NOT_AT_BANK)
    assert (item.state, item.evidence["statements_reach"]) == ("timing", "2026-01-10")
    bring("6")
    look(MONDAY + timedelta(days=9))
    item.refresh_from_db()
    assert item.state == "open"  # all statements are there, and it stands in none


def test_it_closes_by_itself_when_the_line_comes(look):
    paid("po_1")
    statement(reaches=date(2026, 1, 11))
    statement(reaches=LATE)
    look(LATE)
    statement(line("L1", on=date(2026, 1, 17)))
    item = Discrepancy.objects.get()
    assert (item.state, item.closed_as) == ("resolved", "auto")
    assert matches() == {"L1": ("po_1", "amount_and_date")}


def test_a_line_that_nothing_explains_closes_by_itself_when_the_payout_is_known(look):
    statement(line("L1"))
    assert found() == {number_of("L1"): Kind.BANK_LINE_UNEXPLAINED}
    assert Discrepancy.objects.get().state == "open"
    paid("po_1")
    assert look() == {}
    assert Discrepancy.objects.get().closed_as == "auto"


def test_another_amount_is_a_difference_and_a_correction_makes_the_ledger_say_what_the_bank_has(look):
    """A bank on the way kept 0.50 of 50.00."""
    paid("po_1", trace_id="TRC-2026/0112")
    statement(line("L1", 4950, end_to_end="TRC-2026/0112"))
    item = Discrepancy.objects.get()
    assert (item.kind, item.ours_amount_minor, item.theirs_amount_minor, item.difference_minor) == (
        Kind.BANK_AMOUNT_MISMATCH,
        5000,
        4950,
        -50,
    )
    assert at_bank() == 5000
    act(item, Action.POST_CORRECTION)
    item.refresh_from_db()
    assert (item.state, item.closed_as, at_bank()) == ("resolved", "fixed", 4950)
    assert look() == {}


def test_a_payout_that_is_lost_can_be_written_off(look):
    paid("po_1")
    statement(reaches=date(2026, 1, 11))
    statement(reaches=LATE)
    look(LATE)
    item = Discrepancy.objects.get()
    act(item, Action.POST_CORRECTION)
    item.refresh_from_db()
    assert (item.state, item.closed_as, at_bank()) == ("resolved", "fixed", 0)


def test_another_currency_is_a_difference_that_no_number_tells():
    paid("po_1", trace_id="TRC-2026/0112")
    statement(line("L0", 1, counterparty="Jane Doe"), line("L1", 4600, currency="eur", end_to_end="TRC-2026/0112"))
    item = Discrepancy.objects.get()
    assert (item.kind, item.ours_currency, item.theirs_currency, item.difference_minor) == (
        Kind.BANK_AMOUNT_MISMATCH,
        "usd",
        "eur",
        None,
    )


def test_a_payout_that_came_back_has_a_line_of_its_arrival_and_one_of_its_return(look):
    payout = paid("po_1")
    statement(line("L1"))
    came_back(payout)
    assert look(date(2026, 1, 17)) == {}  # the bank takes its time
    assert look(LATE) == {"po_1": Kind.BANK_AMOUNT_MISMATCH}  # 50.00 more than our books say
    statement(line("L2", -5000, on=LATE))
    assert BankMatch.objects.get(line__reference="L2").leg == "return"
    item = Discrepancy.objects.get()
    assert (item.state, item.closed_as) == ("resolved", "auto")


def test_arrival_and_return_in_one_file_are_matched_at_once():
    came_back(paid("po_1", trace_id="TRC-2026/0112"))
    statement(line("L1", text="TRC20260112"), line("L2", -5000, on=date(2026, 1, 14), text="TRC20260112"))
    legs = dict(BankMatch.objects.values_list("line__reference", "leg"))
    assert (legs, Discrepancy.objects.count()) == ({"L1": "arrival", "L2": "return"}, 0)


def test_what_the_provider_takes_from_the_bank_is_matched_with_its_sign():
    paid("po_1", -700)
    statement(line("L1", -700), line("L2", 700))
    assert matches() == {"L1": ("po_1", "amount_and_date")}
    assert found() == {number_of("L2"): Kind.BANK_LINE_UNEXPLAINED}


def test_what_is_taken_from_the_bank_is_known_by_its_trace_id_and_not_by_the_money_that_comes():
    """One payout comes in, one of the same amount is taken, and both lines bear the trace id of the second."""
    paid("po_in", 700)
    paid("po_out", -700, trace_id="TRC-2026/0112")
    statement(line("L1", 700, text="TRC20260112"), line("L2", -700, text="TRC20260112", counterparty="A bank"))
    assert matches() == {"L1": ("po_in", "amount_and_date"), "L2": ("po_out", "trace_id")}
    assert found() == {}


def test_what_was_never_taken_is_a_break_and_is_proposed_what_left_the_bank_alone(look):
    paid("po_1", -700)
    statement(line("L1", 700), line("L2", -700, counterparty="Jane Doe"))
    statement(reaches=LATE)
    assert look(LATE) == {"po_1": Kind.PAYOUT_NOT_AT_BANK, number_of("L1"): Kind.BANK_LINE_UNEXPLAINED}
    assert "candidates" not in Discrepancy.objects.get(source=number_of("L1")).evidence
    item = Discrepancy.objects.get(source="po_1")
    assert (item.ours_amount_minor, item.theirs_amount_minor, item.difference_minor) == (-700, None, 700)
    assert [one["number"] for one in item.evidence["candidates"]] == [number_of("L2")]
    act(item, Action.POST_CORRECTION)
    item.refresh_from_db()
    assert (item.closed_as, at_bank()) == ("fixed", 0)


def test_more_was_taken_than_the_provider_says(look):
    paid("po_1", -700, trace_id="TRC-2026/0112")
    statement(line("L1", -750, text="TRC20260112"))
    item = Discrepancy.objects.get()
    assert (item.kind, item.ours_amount_minor, item.theirs_amount_minor, item.difference_minor) == (
        Kind.BANK_AMOUNT_MISMATCH,
        -700,
        -750,
        -50,
    )
    act(item, Action.POST_CORRECTION)
    assert (at_bank(), look()) == (-750, {})


def test_what_was_taken_and_came_back_has_two_lines(look):
    payout = paid("po_1", -700)
    statement(line("L1", -700))
    came_back(payout)
    assert look(LATE) == {"po_1": Kind.BANK_AMOUNT_MISMATCH}  # 7.00 less than our books say
    assert Discrepancy.objects.get().difference_minor == -700
    statement(line("L2", 700, on=LATE))
    assert BankMatch.objects.get(line__reference="L2").leg == "return"
    assert (found(), at_bank()) == ({}, 0)


def test_a_person_can_say_which_line_it_is():
    payout = paid("po_1", -700)
    statement(line("L1", -690, counterparty="A bank"))
    services.link_bank_line(line=number_of("L1"), payout=payout.number, by="clara", why="the bank's letter")
    assert BankMatch.objects.get().leg == "arrival"
    assert found() == {"po_1": Kind.BANK_AMOUNT_MISMATCH}


def test_money_that_is_there_before_the_provider_says_so_is_no_difference(look):
    our_payout("po_1", 5000, at=DAY, status="in_transit")
    statement(line("L1"))
    assert matches() == {"L1": ("po_1", "amount_and_date")}
    assert look(date(2026, 1, 17)) == {}
    assert look(LATE) == {"po_1": Kind.BANK_AMOUNT_MISMATCH}  # five days later it still does not


def test_looking_again_changes_nothing(look):
    paid("po_1")
    paid("po_2")
    statement(line("L1"), line("L3", 999))
    before = list(Discrepancy.objects.order_by("pk").values("pk", "state", "cycle", "evidence"))
    for _ in range(2):
        look()
    assert list(Discrepancy.objects.order_by("pk").values("pk", "state", "cycle", "evidence")) == before


# --- A person's word --------------------------------------------------------------------------------


def test_what_a_person_took_apart_is_not_put_together_again(look):
    paid("po_1")
    statement(line("L1"))
    row = BankLine.objects.get(reference="L1")
    services.unlink_bank_line(line=row.pk, by="clara", why="it is Jane's")
    assert matches() == {}
    assert found() == {row.number: Kind.BANK_LINE_UNEXPLAINED}
    look()
    assert matches() == {}
    ended = BankMatch.objects.get()
    assert (ended.ended_by, ended.ended_why) == ("clara", "it is Jane's")
    with pytest.raises(NotLinked):
        services.unlink_bank_line(line=row.pk, by="clara", why="again")
    services.link_bank_line(line=row.number, payout="po_1", by="clara", why="it was not")
    assert matches() == {"L1": ("po_1", "person")}
    assert found() == {}


def test_a_line_is_one_payout_and_a_payout_one_line():
    paid("po_1")
    paid("po_2")
    statement(line("L1"), line("L2"))
    services.link_bank_line(line=number_of("L1"), payout="po_1", by="clara", why="seen")
    services.link_bank_line(line=number_of("L1"), payout="po_1", by="clara", why="pressed twice")
    with pytest.raises(AlreadyLinked):
        bank.link(line=number_of("L1"), payout="po_2", by="clara", why="no")
    with pytest.raises(AlreadyLinked):
        bank.link(line=number_of("L2"), payout="po_1", by="clara", why="no")


def test_what_a_person_accepted_stays_closed(look):
    paid("po_1")
    statement(reaches=date(2026, 1, 11))
    statement(reaches=LATE)
    look(LATE)
    act(Discrepancy.objects.get(), Action.ACCEPT)
    for day in (LATE, date(2026, 6, 1)):
        assert look(day) == {}


# --- In a run ---------------------------------------------------------------------------------------


def test_a_run_looks_at_the_bank_and_tells_what_is_new_and_what_is_gone(reconcile, today):
    today(date(2026, 1, 6))
    paid("po_1", at=DAY - timedelta(days=7))  # arrives on the 5th
    statement(reaches=date(2026, 1, 4))
    statement(reaches=date(2026, 1, 12))
    report = reconcile(DAY)
    assert report.kinds[Kind.PAYOUT_NOT_AT_BANK].new == 1
    assert Kind.PAYOUT_NOT_AT_BANK not in reconcile(DAY).kinds  # of another day, and nothing new
    assert Discrepancy.objects.filter(kind=Kind.PAYOUT_NOT_AT_BANK).count() == 1
    statement(line("L1", on=date(2026, 1, 8)))
    item = Discrepancy.objects.get(kind=Kind.PAYOUT_NOT_AT_BANK)
    assert (item.state, item.closed_as) == ("resolved", "auto")


def test_the_worked_example_of_the_documents(look):
    paid("po_1", 7778, trace_id="TRC-2026/0112", currency="eur")
    paid("po_2", 5000, currency="eur")
    paid("po_3", 5000, currency="eur")
    statement(
        line("L1", 7728, currency="eur", text="TRC20260112 thank you"),
        line("L2", currency="eur"),
        line("L3", currency="eur", counterparty="Jane Doe"),
    )
    assert found() == {"po_1": Kind.BANK_AMOUNT_MISMATCH, number_of("L2"): Kind.BANK_LINE_UNEXPLAINED}
    assert Discrepancy.objects.get(kind=Kind.BANK_AMOUNT_MISMATCH).difference_minor == -50
    act(Discrepancy.objects.get(kind=Kind.BANK_AMOUNT_MISMATCH), Action.POST_CORRECTION)
    third = Payout.objects.get(provider_reference="po_3")
    act(Discrepancy.objects.get(kind=Kind.BANK_LINE_UNEXPLAINED), Action.LINK_BANK_LINE, third.number)
    assert found() == {}
    statement(line("L4", 1, date(2026, 1, 17), currency="eur", counterparty="Jane Doe"))
    assert look(LATE) == {"po_2": Kind.PAYOUT_NOT_AT_BANK}
    statement(line("L5", on=date(2026, 1, 20), currency="eur"))
    late = Discrepancy.objects.get(kind=Kind.PAYOUT_NOT_AT_BANK)
    assert [(one["number"], one["differs"]) for one in late.evidence["candidates"]] == [
        (number_of("L3"), ["does not name the provider"]),
        (number_of("L5"), ["date"]),
    ]
    act(late, Action.LINK_BANK_LINE, number_of("L5"))
    assert found() == {}
    assert at_bank("eur") == 7728 + 5000 + 5000


# --- At once ----------------------------------------------------------------------------------------

TURNS = orders("a", "a", "b", "b", alike=True)


def two_people_link(race, turns: str) -> list[object]:
    """Each another line to the same payout."""
    paid("po_1")
    statement(line("L1", counterparty="A bank"), line("L2", counterparty="A bank"))
    race.stop("reconciliation.bank.legs.leg_for", at="after")
    for name, reference in (("a", "L1"), ("b", "L2")):
        number = number_of(reference)
        race.actor(name, lambda number=number: bank.link(line=number, payout="po_1", by="clara", why="seen"))
    return list(race.play(turns).values())


@pytest.mark.parametrize("turns", TURNS)
def test_two_lines_linked_to_one_payout_at_once_are_one(race, turns):
    results = two_people_link(race, turns)
    assert BankMatch.objects.count() == 1
    assert sorted(type(one).__name__ for one in results) == ["AlreadyLinked", "NoneType"]


@pytest.mark.parametrize("turns", TURNS)
def test_control_without_the_constraint_a_payout_is_there_twice(race, unguarded, turns):
    unguarded.unique("reconciliation_bankmatch", "payout_leg_is_one_bank_line")
    two_people_link(race, turns)
    assert BankMatch.objects.count() == 2


def two_processes_take_in(race, turns: str) -> list[object]:
    content = (HEAD + line("L1") + line("L2", 77)).encode()
    race.stop("reconciliation.bank.staging.keep", at="after")
    for name in ("a", "b"):
        race.actor(
            name, lambda: services.import_bank_statement(file=io.BytesIO(content), name="bank.csv", by="test").replayed
        )
    return list(race.play(turns).values())


@pytest.mark.parametrize("turns", TURNS)
def test_one_file_taken_in_twice_at_once_is_in_once(race, turns):
    assert sorted(two_processes_take_in(race, turns), key=str) == [False, True]
    assert (BankLine.objects.count(), StatementFile.objects.count()) == (2, 1)


def test_control_without_the_constraint_a_file_is_in_twice(race, unguarded):
    unguarded.unique("reconciliation_statementfile", "statement_file_once")
    two_processes_take_in(race, "a b a b")
    assert StatementFile.objects.count() == 2
