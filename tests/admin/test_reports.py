"""The trial balance, statements and corrections on the desk; the same by command."""

import csv
import io
import json
from datetime import UTC, timedelta
from uuid import UUID, uuid4

import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse

from foundation.database import database_now
from payments import books as reading
from payments import ledger, services
from payments.models import Account, JournalEntry, Posting
from tests.admin.conftest import act_url, list_url, page_url
from tests.payments.test_ledger import CLEARING, CUSTOMER, FEES, post

pytestmark = pytest.mark.django_db(transaction=True)
TRIAL = "admin:payments_account_trial_balance"


@pytest.fixture
def posted(settings):
    """1,234.50 captured, 12.30 of fees, and a memo that a spreadsheet would run."""
    settings.BOOKS_REPORT_WAIT_S = 60  # for the other tests' transactions, on the same server
    post("capture", 123450)
    post("fee", 1230, debit=FEES, credit=CLEARING, memo="=cmd|' /C calc'!A0")


def statement_url(account: ledger.AccountKey) -> str:
    return reverse("admin:payments_account_statement", args=[account.id])


def today() -> dict[str, str]:
    day = database_now().astimezone(UTC).date().isoformat()
    return {"since": day, "until": day}


def rows_of(answer) -> list[list[str]]:
    assert answer["Content-Type"].startswith("text/csv")
    return list(csv.reader(io.StringIO("".join(part.decode() for part in answer.streaming_content))))


# --- The trial balance --------------------------------------------------------------------------------


def test_the_trial_balance_balances_on_the_page_and_in_the_file(as_role, posted):
    client = as_role("clerk")
    page = client.get(reverse(TRIAL)).content.decode()
    for told in ("Trial balance", "balances", "Provider Clearing", "$1,222.20", "$1,234.50"):
        assert told in page, told
    rows = rows_of(client.get(reverse(TRIAL), {"format": "csv"}))
    assert rows[0] == ["currency", "account", "debits", "credits", "debit_balance", "credit_balance"]
    assert rows[-1] == ["usd", "total", "1246.80", "1246.80", "1234.50", "1234.50"]
    assert ["usd", "fees", "12.30", "0.00", "12.30", "0.00"] in rows


def test_the_trial_balance_of_a_day_before_the_first_entry_is_empty(as_role, posted):
    page = as_role("clerk").get(reverse(TRIAL), {"day": "2020-01-01"}).content.decode()
    assert "Nothing has been posted yet" in page
    assert "final" in page


def test_reports_follow_the_browsers_language_and_files_do_not(as_role, posted):
    client = as_role("clerk")
    german = {"Accept-Language": "de-DE,de;q=0.9"}
    assert "1.234,50 $" in client.get(reverse(TRIAL), headers=german).content.decode()
    assert rows_of(client.get(reverse(TRIAL), {"format": "csv"}, headers=german))[-1][-1] == "1234.50"


@pytest.mark.parametrize("address", [TRIAL, "admin:payments_account_changelist"])
def test_who_may_not_see_accounts_sees_no_report(as_role, posted, address):
    assert as_role("nobody").get(reverse(address)).status_code == 403
    assert as_role("nobody").get(statement_url(CLEARING)).status_code == 403
    assert reverse(TRIAL) in as_role("clerk").get("/admin/").content.decode()


# --- Statements ---------------------------------------------------------------------------------------


def test_a_statement_opens_runs_and_closes(as_role, posted):
    page = as_role("clerk").get(statement_url(CLEARING), today()).content.decode()
    for told in ("Balance brought forward", "$1,234.50", "$12.30", "$1,222.20", "Carried forward"):
        assert told in page, told


def test_a_statement_leads_from_page_to_page(as_role, monkeypatch):
    monkeypatch.setattr("payments.admin.reports._PAGE_LINES", 2)
    for number in range(5):
        post(str(number), 100)
    client, seen = as_role("clerk"), 0
    query = today()
    for _ in range(3):
        answer = client.get(statement_url(CLEARING), query)
        seen += answer.content.decode().count("payments/journalentry/") // 1
        lines = reading.statement_page(
            CLEARING.id,
            since=database_now() - timedelta(days=1),
            until=database_now() + timedelta(days=1),
            after=reading.Place.parse(query.get("after", "")),
            limit=2,
        )
        query = {**today(), "after": str(lines.lines[-1].place)}
    assert "Next page" not in answer.content.decode()
    assert "First page" in answer.content.decode()


def test_the_file_of_a_statement_runs_nothing_and_closes_as_the_page_does(as_role, posted):
    rows = rows_of(as_role("clerk").get(statement_url(CLEARING), {**today(), "format": "csv"}))
    assert [row[2] for row in rows] == ["kind", "opening balance", "test", "test", "closing balance"]
    assert [row[-1] for row in rows[1:]] == ["0.00", "1234.50", "1222.20", "1222.20"]
    assert rows[3][5].startswith("'=cmd")
    assert {len(row) for row in rows} == {12}


@pytest.mark.parametrize(
    "query",
    [
        {"since": "x", "until": "y"},
        {"since": "2026-02-02", "until": "2026-01-01"},
        {"since": "2026-02-30", "until": ""},
    ],
)
def test_a_period_that_is_none_is_told(as_role, posted, query):
    assert as_role("clerk").get(statement_url(CLEARING), query).status_code == 400


def test_nonsense_in_the_address_shows_the_first_page(as_role, posted):
    answer = as_role("clerk").get(statement_url(CLEARING), {**today(), "after": "nonsense"})
    assert answer.status_code == 200
    unknown = reverse("admin:payments_account_statement", args=[uuid4()])
    assert as_role("clerk").get(unknown).status_code == 404


def test_an_accounts_page_and_list_show_its_balance(as_role, posted):
    client = as_role("clerk")
    page = client.get(page_url(Account.objects.get(pk=CLEARING.id))).content.decode()
    for told in ("$1,222.20", "Statement of a period", "<canvas", "1222.20"):
        assert told in page, told
    assert "$1,222.20" in client.get(list_url(Account)).content.decode()


# --- Corrections --------------------------------------------------------------------------------------


def press(client, entry: JournalEntry, **changes: str):
    data = {"debit": "write_offs", "credit": "fees", "amount": "12.30", "note": "not a fee", "press": str(uuid4())}
    fields = {f"adjust-{name}": value for name, value in {**data, **changes}.items()}
    return client.post(act_url(entry, "adjust"), fields)


def test_a_manager_corrects_an_entry_and_takes_the_correction_back(as_role, posted):
    client, fee = as_role("manager"), JournalEntry.objects.get(key="fee")
    once = str(uuid4())
    assert [press(client, fee, press=once).status_code for _ in range(2)] == [302, 302]
    correction = JournalEntry.objects.get(kind="adjustment")
    assert (correction.corrects, correction.by, correction.memo) == (fee, "manager", "not a fee")
    assert reading.balance(FEES.id) == 0
    assert "not a fee" in client.get(page_url(fee)).content.decode()
    assert client.post(act_url(correction, "reverse"), {"reverse-note": "it was one"}).status_code == 302
    assert client.post(act_url(correction, "reverse"), {"reverse-note": "it was one"}).status_code == 302
    assert JournalEntry.objects.filter(kind="reversal").count() == 1
    assert reading.balance(FEES.id) == 1230


@pytest.mark.parametrize(
    ("changes", "status"),
    [({"amount": "0"}, 400), ({"amount": "-1"}, 400), ({"amount": "1,5"}, 400), ({"credit": "write_offs"}, 400),
     ({"credit": "customer"}, 400), ({"note": ""}, 400)],
)  # fmt: skip
def test_a_correction_that_makes_no_sense_is_refused(as_role, posted, changes, status):
    fee = JournalEntry.objects.get(key="fee")
    assert press(as_role("manager"), fee, **changes).status_code == status
    assert JournalEntry.objects.count() == 2


def test_a_clerk_corrects_nothing_and_a_capture_is_taken_back_by_nobody(as_role, posted):
    fee = JournalEntry.objects.get(key="fee")
    assert press(as_role("clerk"), fee).status_code == 403
    answer = as_role("manager").post(act_url(fee, "reverse"), {"reverse-note": "why not"})
    assert answer.status_code == 409
    assert "taken back by hand" in answer.content.decode()
    assert JournalEntry.objects.count() == 2


def test_taking_back_a_correction_takes_the_payments_column_back(shop):
    number = shop.bought()["payments"][0]["number"]
    services.post_correction(number=number, amount_minor=-100, cause="bank", by="m", why="short")
    correction = JournalEntry.objects.get(kind="correction")
    assert correction.corrects is not None
    assert correction.corrects.kind == "capture"
    services.reverse_entry(correction.pk, by="m", why="it came")
    assert services.check_books(day=database_now().date()).differences == []


# --- By command ---------------------------------------------------------------------------------------


def run(*arguments: str) -> tuple[int, str]:
    out = io.StringIO()
    try:
        call_command(*arguments, stdout=out)
    except SystemExit as end:
        return int(end.code or 0), out.getvalue()
    except CommandError as error:
        return error.returncode, str(error)
    return 0, out.getvalue()


def test_the_trial_balance_by_command(posted):
    code, text = run("trial_balance")
    assert (code, "balances" in text, "$1,222.20 Dr" in text) == (0, True, True)
    code, text = run("trial_balance", "--json")
    usd = json.loads(text)["currencies"]["usd"]
    assert usd["off_minor"] == 0
    assert {"kind": "fees", "debit_minor": 1230, "credit_minor": 0, "balance_minor": 1230} in usd["accounts"]
    assert run("trial_balance", "--csv")[1].splitlines()[-1] == "usd,total,1246.80,1246.80,1234.50,1234.50"
    assert run("trial_balance", "--at", "2020-01-01", "--json")[1].endswith('"final": true, "currencies": {}}\n')


def test_a_statement_by_command(posted):
    day = today()["since"]
    period = ("--from", day, "--to", day)
    code, text = run("account_statement", "provider_clearing:usd", *period, "--json")
    documents = [json.loads(line) for line in text.splitlines()]
    assert code == 0
    assert documents[0]["opening_minor"] == 0
    assert [one.get("balance_minor") for one in documents[1:-1]] == [123450, 122220]
    assert documents[-1]["closing_minor"] == 122220
    assert run("account_statement", str(CLEARING.id), *period, "--csv")[1].splitlines()[-1].endswith(",1222.20")
    assert "closing balance" in run("account_statement", str(CLEARING.id), *period)[1]
    customer = f"customer:usd:{CUSTOMER.merchant_id}:c"
    assert (
        json.loads(run("account_statement", customer, *period, "--json")[1].splitlines()[-1])["closing_minor"]
        == -123450
    )


@pytest.mark.parametrize("account", ["nothing:usd", "provider_clearing:eur", "customer:usd:nobody:c", str(UUID(int=1))])
def test_a_statement_of_no_account_could_not_run(posted, account):
    code, text = run("account_statement", account, "--from", "2026-01-01", "--to", "2026-01-02")
    assert code == 2
    assert "Could not run" in text


def test_books_that_differ_are_told_by_exit_code(posted):
    assert run("check_books")[0] == 0
    Account.objects.filter(pk=CUSTOMER.id).update(balance_minor=1)
    code, text = run("check_books")
    assert code == 1
    assert "balances_are_the_postings customer c: the row says 1 usd, the postings 123450" in text
    assert Posting.objects.count() == 4
