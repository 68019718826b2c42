"""What docs/reconciliation.md tells a finance clerk is what the product does: the worked example, to the cent, and the kinds."""

import re
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command

from foundation.money import format_minor
from payments import services as payments
from reconciliation import services
from reconciliation.models import Discrepancy
from reconciliation.tables import PROOFS
from reconciliation.types import ACTIONS, KINDS, Action, Proved, RunReport
from tests.reconciliation.test_closed_loop import charged_without_us
from tests.shop import settle

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reconciliation.md").read_text()
EXAMPLE = PAGE.partition("## Worked example")[2].partition("\n## ")[0]
FRIDAY, READ = "2026-11-20", "2026-11-21 00:14"  # as the page has them
# Every item can be claimed, given away, ignored, accepted, and asked for again: no kind's own.
OF_ALL = {Action.REQUERY, Action.ACCEPT, Action.CLAIM, Action.ASSIGN, Action.RELEASE, Action.IGNORE_UNTIL}


def table(text: str, first: str) -> list[list[str]]:
    """The rows of the table whose first column is headed so, without emphasis and backticks."""
    lines = text.partition(f"\n| {first} |")[2].split("\n\n")[0].splitlines()[2:]
    assert lines, f"no table of {first}"
    return [[cell.strip().strip("*`") for cell in line.strip("|").split("|")] for line in lines]


def told(minor: int) -> str:
    return format_minor(minor, "usd").replace("$", "")


def printed() -> str:
    out = StringIO()
    with pytest.raises(SystemExit):
        call_command("statement", stdout=out)
    return out.getvalue()


@pytest.fixture
def friday(books):
    """The example's Friday at the sandbox, and what was there before. Returns the payout and the charge that we never heard of."""

    def go_on(days: int) -> None:
        books.sandbox.control("POST", "clock", {"advance_s": days * 24 * 3600})

    go_on(-2)
    charged_without_us(books, 6210)  # less 2.10: available on Friday
    go_on(1)
    charged_without_us(books, 4150)  # less 1.50
    go_on(1)
    services.start_books(starts_on=books.day, balances={"usd": 10000}, by="manager", note="Stripe's report of Thursday")
    order, _ = books.sell(2)
    books.abandon()
    (charge,) = books.plant("missing_in_our_system")
    books.refund(order, 500)
    (payout,) = books.sandbox.control("POST", "payouts", {"currency": "usd"})["payouts"]
    payments.sync_payout(payout["id"], by="test")
    services.read_balance()
    return payout["id"], charge


def test_the_worked_example_is_what_the_product_says_step_by_step(books, friday):
    payout, charge = friday
    night = books.reconcile()
    assert_statement(night)
    assert_proofs(night)
    assert_printed(books.day)
    (item,) = Discrepancy.objects.all()
    ((_, kind, theirs, ours, difference),) = table(EXAMPLE, "item")
    assert (item.source, KINDS[item.kind].label, ours) == (charge, kind, "nothing")
    assert (told(item.theirs_amount_minor or 0), told(item.difference_minor or 0)) == (theirs, difference)
    assert item.ours_amount_minor is None
    # Of the −45.74 the page says what is the item's, and what the payout's.
    assert {told(one) for one in (1500 - 74, -6000)} <= set(re.findall(r"[−\d.]+\d", EXAMPLE))

    services.perform(
        discrepancy_id=item.id, action=Action.CREATE_MISSING_PAYMENT, by="clerk", note="Stripe's receipt is attached."
    )
    settle(webhooks=False)
    repaired = books.reconcile()
    item.refresh_from_db()
    assert (item.state, item.verified_by_run_id) == ("resolved", repaired.run_id)

    books.sandbox.control("POST", "payouts/outcome", {"payout": payout, "status": "paid"})
    payments.sync_payout(payout, by="test")
    arrived = books.reconcile()
    assert [clearing(report) for report in (night, repaired, arrived)] == [row[1:] for row in table(EXAMPLE, "after")]
    assert Discrepancy.objects.count() == 1


def assert_statement(report: RunReport) -> None:
    statement = report.statement["usd"]
    balance_minor = statement.opening_minor
    rows = [["opening", "", "", "", told(balance_minor)]]
    for line in statement.lines:
        balance_minor += line.net_minor
        rows.append(
            [
                f"{line.category}, {line.rows} {'row' if line.rows == 1 else 'rows'}",
                *map(told, (line.gross_minor, line.fee_minor, line.net_minor, balance_minor)),
            ]
        )
    assert [*rows, ["closing", "", "", "", told(statement.closing_minor)]] == table(EXAMPLE, "Stripe's rows")


def assert_proofs(report: RunReport) -> None:
    statement = report.statement["usd"]
    rows = []
    for proof in statement.proofs:
        paid_out = -sum(line.net_minor for line in statement.lines if line.category == "payout")
        beside = paid_out if proof.name == Proved.PAYOUTS else statement.closing_minor
        says = proof.says_minor or 0
        figures = (says, beside, beside - says, proof.explained_minor, proof.residual_minor or 0)
        rows.append([PROOFS[proof.name], *map(told, figures)])
    assert rows == [[name, *figures] for name, _, *figures in table(EXAMPLE, "proof")]


def assert_printed(day: object) -> None:
    text = re.sub(r"read on [\d: -]+ UTC", f"read on {READ} UTC", printed().replace(str(day), FRIDAY))
    assert text.strip() == EXAMPLE.split("```")[1].strip()


def clearing(report: RunReport) -> list[str]:
    (proof,) = (one for one in report.statement["usd"].proofs if one.name == Proved.CLEARING)
    return [told(one or 0) for one in (proof.says_minor, proof.explained_minor, proof.residual_minor)]


def test_a_balance_that_nothing_explains_is_an_item_of_the_name_that_the_page_tells(books, friday):
    books.plant("statement_residual")
    report = books.reconcile()
    item = Discrepancy.objects.get(object_kind="statement")
    assert f'"{KINDS[item.kind].label}"' in EXAMPLE
    assert report.residual == {"usd": item.difference_minor}


def test_the_page_lists_each_kind_with_what_can_be_done_about_it():
    listed = {kind: sorted(can.split(", ")) for kind, _, _, can in table(PAGE, "kind")}
    assert listed == {
        info.label: sorted(one.label[0].lower() + one.label[1:] for one in ACTIONS[kind] if one.name not in OF_ALL)
        or ["–"]
        for kind, info in KINDS.items()
    }
