"""The third leg on the desk: files of statements, lines of the bank, and the walk from an order to the bank and back."""

import io
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.urls import reverse

from config.desk import navigation
from orders.models import Order
from payments import services as payments
from payments.models import Payment, Payout, Refund
from reconciliation import services
from reconciliation.models import BankLine, BankMatch, Discrepancy, ProviderTransaction, StatementFile
from tests.admin.conftest import act_url, list_url, page_url

WALK = "/admin/reconciliation/bankline/walk/"
HEAD = "reference,account,booked_on,currency,amount_minor,end_to_end,counterparty,text\n"
NET = 1500 - 74


def statement(*lines: str) -> None:
    file = io.BytesIO((HEAD + "".join(f"{one}\n" for one in lines)).encode())
    assert not services.import_bank_statement(file=file, name="bank.csv", by="test").problems


def pay_out(books, *, arrives: bool = True) -> Payout:
    """All that was sold goes to our bank, as Stripe tells it."""
    (made,) = books.sandbox.control("POST", "payouts", {"include_pending": True})["payouts"]
    if arrives:
        books.sandbox.control("POST", "payouts/outcome", {"payout": made["id"], "status": "paid"})
    payments.sync_payout(made["id"], by="test")
    return Payout.objects.get(provider_reference=made["id"])


@pytest.fixture
def chain(books):
    """An order that was paid, refunded in part, paid out, and seen at the bank."""
    order, _ = books.sell(2)
    books.refund(order, 500)
    books.reconcile()
    payout = pay_out(books)
    statement(f"B-77,ACCT,{payout.arrives_on},usd,{payout.amount_minor},{payout.trace_id},Stripe,payout")
    return Order.objects.get(pk=Order.id_of(order["number"])), payout


def test_the_whole_chain_is_found_by_any_number_that_belongs_to_it(as_role, chain):
    order, payout = chain
    payment = Payment.objects.get(reference=order.number)
    refund, line = Refund.objects.get(), BankLine.objects.get()
    booking = ProviderTransaction.objects.get(source=payment.charge_reference)
    assert payout.trace_id
    assert payout.amount_minor == 2 * NET - 500
    client = as_role("clerk")
    of_order = [order.number, payment.number, refund.number, payment.provider_reference, payment.charge_reference]
    of_order += [refund.provider_reference, booking.pk]
    of_bank = [payout.number, payout.provider_reference, payout.trace_id, line.number, "B-77"]
    for text in [*of_order, *of_bank]:
        page = client.get(WALK, {"q": text}).content.decode()
        for part in (order.number, payment.number, refund.number, booking.pk, payout.number, line.number):
            assert part in page, (text, part)
        assert ">whole<" in page, text
        assert ">broken<" not in page
    # Forwards, what the order's money is: 15.00 − 5.00, less 0.74; backwards, all that the payout collected.
    assert "$9.26" in client.get(WALK, {"q": order.number}).content.decode()
    backwards = client.get(WALK, {"q": "B-77"}).content.decode()
    assert "Σ net of its 3 bookings" in backwards
    assert backwards.count("$23.52") >= 3  # collected, the payout, by our ledger, at the bank


def test_the_walk_is_reached_from_each_page_of_the_chain(as_role, chain):
    order, payout = chain
    client = as_role("clerk")
    refund = Refund.objects.get()
    for row in (order, refund.payment, refund, payout, BankLine.objects.get()):
        assert f"{WALK}?q={row.number}" in client.get(page_url(row)).content.decode(), row


def test_it_says_where_the_chain_is_broken(as_role, books):
    order, other = books.sell(2)
    client = as_role("clerk")

    def page(text: str) -> str:
        return str(client.get(WALK, {"q": text}).content.decode())

    number = order["number"]
    assert "as read so far, do not hold it" in page(number)  # nobody has read Stripe's books yet
    books.reconcile()
    assert "not paid out yet" in page(number) or "available from" in page(number)
    payout = pay_out(books, arrives=False)
    assert "on its way, expected on" in page(number)
    books.sandbox.control("POST", "payouts/outcome", {"payout": payout.provider_reference, "status": "paid"})
    payments.sync_payout(payout.provider_reference, by="test")
    assert "no statement of a bank in USD was taken in yet" in page(number)
    statement(f"B-1,ACCT,{payout.arrives_on},usd,5,,Jane Doe,")
    assert "do not hold it yet" in page(number)
    Payout.objects.update(arrives_on=payout.arrives_on - timedelta(days=30))
    broken = page(number)
    assert "do not hold it" in broken
    assert ">broken<" in broken
    services.link_bank_line(line=BankLine.objects.get().number, payout=payout.number, by="clara", why="a guess")
    assert "the bank got another amount" in page(other["number"])


def test_a_charge_that_our_books_do_not_hold_is_walked_too(as_role, books):
    books.sell(1)
    books.plant("missing_in_our_system")
    books.reconcile()
    charge = Discrepancy.objects.get(kind="missing_in_our_system").source
    page = as_role("clerk").get(WALK, {"q": charge}).content.decode()
    assert "our books do not hold it" in page


def test_what_has_no_chain_says_so(as_role, books):
    client = as_role("clerk")
    for text in ("ord_01jzzzzzzzzzzzzzzzzzzzzzzz", "nonsense", "po_nobody", "bnk_x", "txn_0", "'; --"):
        assert "nothing moved under this number" in client.get(WALK, {"q": text}).content.decode(), text
    assert client.get(WALK).status_code == 200
    assert as_role("nobody").get(WALK).status_code == 403


def test_the_walk_takes_few_queries_and_no_more_for_a_larger_payout(as_role, books, django_assert_max_num_queries):
    client = as_role("clerk")
    books.sell(4)
    books.reconcile()
    payout = pay_out(books)
    statement(f"B-77,ACCT,{payout.arrives_on},usd,{payout.amount_minor},,Stripe,payout")
    client.get(WALK)
    with django_assert_max_num_queries(16):
        client.get(WALK, {"q": payout.number})


# --- Lines and files --------------------------------------------------------------------------------


def test_a_line_is_linked_and_the_link_taken_back_at_the_desk(as_role, books):
    books.sell(1)
    payout = pay_out(books)
    statement(f"B-1,ACCT,{payout.arrives_on},usd,{payout.amount_minor},,A bank,")
    line = BankLine.objects.get()
    body = {"link-payout": payout.number, "link-note": "it is the only one"}
    assert as_role("operator").post(act_url(line, "link"), body).status_code == 403
    manager = as_role("manager")
    assert manager.post(act_url(line, "link"), body).status_code == 302
    page = manager.get(page_url(line)).content.decode()
    assert payout.number in page
    assert "it is the only one" in page
    assert manager.post(act_url(line, "unlink"), {"unlink-note": "it is not"}).status_code == 302
    assert not BankMatch.objects.filter(ended_at=None).exists()
    assert manager.post(act_url(line, "link"), {**body, "link-payout": "po_nobody"}).status_code == 404


def test_lines_are_filtered_and_found(as_role, books):
    books.sell(1)
    payout = pay_out(books)
    statement(
        f"B-1,ACCT,{payout.arrives_on},usd,{payout.amount_minor},,Stripe,",
        f"B-2,ACCT,{payout.arrives_on},usd,77,,Stripe,",
        f"B-3,ACCT,{payout.arrives_on},usd,88,,Jane Doe,",
    )
    client = as_role("clerk")

    def shown(**query: str) -> set[str]:
        page = client.get(list_url(BankLine), query).content.decode()
        return {one for one in ("B-1", "B-2", "B-3") if one in page}

    assert shown() == {"B-1", "B-2", "B-3"}
    assert shown(of_provider="yes") == {"B-1", "B-2"}
    assert shown(of_provider="yes", payout="none") == {"B-2"}
    assert shown(payout="matched") == {"B-1"}
    assert shown(q="B-3") == {"B-3"}
    assert shown(q=BankLine.objects.get(reference="B-2").number) == {"B-2"}


def test_files_are_listed_with_who_and_when_and_what_was_wrong(as_role, db):
    services.import_statement(file=io.BytesIO(b"a,b\n"), name="stripe.csv", by="clara")
    services.import_bank_statement(file=io.BytesIO(f"{HEAD}R,A,x,usd,1,,,\n".encode()), name="bad.csv", by="paul")
    services.import_bank_statement(
        file=io.BytesIO(f"{HEAD}R,A,2026-01-12,usd,1,,,\n".encode()), name="good.csv", by="paul"
    )
    client = as_role("clerk")
    page = client.get(list_url(StatementFile)).content.decode()
    for text in ("stripe.csv", "bad.csv", "good.csv", "refused: 1 problem", "taken in", "by clara", "by paul"):
        assert text in page, text
    banks = client.get(list_url(StatementFile), {"whose": "bank"}).content.decode()
    assert "stripe.csv" not in banks
    bad, good = (StatementFile.objects.get(name=name) for name in ("bad.csv", "good.csv"))
    page = client.get(page_url(bad)).content.decode()
    assert "the booking date is not a day: x" in page
    assert bad.sha256 in page
    assert "ACCT" not in page
    page = client.get(page_url(good)).content.decode()
    assert "Statements in it" in page
    assert client.get(list_url(StatementFile), {"q": good.sha256}).content.decode().count("good.csv") >= 1


def test_the_walk_stands_in_the_navigation(as_role, db):
    page = as_role("clerk").get("/admin/").content.decode()
    for name in (
        "reconciliation_bankline_walk",
        "reconciliation_bankline_changelist",
        "reconciliation_statementfile_changelist",
    ):
        assert reverse(f"admin:{name}") in page


@pytest.mark.parametrize(
    ("path", "marked"),
    [
        ("/admin/", ["Dashboard"]),
        ("/admin/reconciliation/bankline/", ["Bank lines"]),
        ("/admin/reconciliation/bankline/walk/", ["Order to bank"]),
        ("/admin/reconciliation/reconciliationrun/statement/", ["Statement"]),
        ("/admin/auth/user/1/password/", []),
    ],
)
def test_the_navigation_marks_the_page_that_is_shown_and_no_other(rf, as_role, db, path, marked):
    as_role("manager")
    request = rf.get(path)
    request.user = User.objects.get(username="manager")
    items = [item for group in navigation(request) for item in group["items"]]
    assert [item["title"] for item in items if item["active"]] == marked


# --- Files taken in on the desk -------------------------------------------------------------------------------

NEW = "/admin/reconciliation/statementfile/new/"


def uploaded(text: str, *, whose: str = "bank", name: str = "january.csv") -> dict[str, object]:
    return {"take-in-whose": whose, "take-in-file": SimpleUploadedFile(name, text.encode())}


def test_a_clerk_takes_a_bank_statement_in_once(as_role, db):
    clerk = as_role("clerk")
    assert 'enctype="multipart/form-data"' in clerk.get(NEW).content.decode()
    text = f"{HEAD}B-1,ACCT,2026-01-10,usd,1426,,A bank,rent\n"
    page = clerk.post(NEW, uploaded(text), follow=True).content.decode()
    assert "january.csv is in: 1 row, 1 of them new, 0 matched with payouts." in page
    assert BankLine.objects.get().reference == "B-1"
    assert StatementFile.objects.get().by == "clerk"
    assert "was taken in before" in clerk.post(NEW, uploaded(text), follow=True).content.decode()
    assert as_role("operator").post(NEW, uploaded(text)).status_code == 403


def test_a_file_with_problems_is_refused_with_its_lines_and_stands_among_the_files(as_role, db):
    answer = as_role("clerk").post(NEW, uploaded(f"{HEAD}B-1,ACCT,2026-01-10,eux,1426,,A bank,rent\n"))
    assert answer.status_code == 422
    assert (
        "Nothing of january.csv was taken in, 1 problem: line 2: the currency is not known: eux."
        in answer.content.decode()
    )
    assert StatementFile.objects.get().refused
    assert not BankLine.objects.exists()


def test_the_providers_own_file_is_taken_in_on_the_same_page(as_role, db):
    text = "transaction,created_at,currency,gross_minor,fee_minor,net_minor,category,source\n"
    text += "txn_1,2026-01-10T10:00:00Z,usd,1500,74,1426,charge,ch_1\n"
    page = as_role("clerk").post(NEW, uploaded(text, whose="provider"), follow=True).content.decode()
    assert "january.csv is in: 1 row, 1 of them new." in page
    assert ProviderTransaction.objects.get().source == "ch_1"


def test_the_desk_asks_what_a_file_must_keep_to(as_role, db):
    head = "balance_transaction_id,created,currency,gross,fee,net,reporting_category,source_id\n"
    text = head + "txn_1,2026-01-11 00:30:00,usd,15.00,0.74,14.26,charge,ch_1\n"
    clerk = as_role("clerk")

    def post(whose: str = "provider", **more: str) -> str:
        data = uploaded(text, whose=whose) | {f"take-in-{name}": value for name, value in more.items()}
        return str(clerk.post(NEW, data, follow=True).content.decode())

    assert "say in which time zone the column created is" in post()
    assert "Say both days of the statement, or none." in post(time_zone="Europe/Berlin", last_day="2026-01-10")
    assert "wrong currency: usd, not eur" in post(time_zone="Europe/Berlin", currency="eur")
    assert "A bank&#x27;s days are its own" in post("bank", time_zone="Europe/Berlin")
    assert not ProviderTransaction.objects.exists()
    days = {"first_day": "2026-01-10", "last_day": "2026-01-10"}
    page = post(time_zone="Europe/Berlin", **days)
    assert "1 row, 1 of them new. All of 10 Jan 2026 is read." in page
    assert "no row is new. All of 10 Jan 2026" in post(time_zone="Europe/Berlin", **days)


def test_what_is_too_large_for_a_request_is_left_to_the_command(as_role, settings, db):
    settings.DESK_UPLOAD_MAX_BYTES = 100
    answer = as_role("clerk").post(NEW, uploaded(HEAD + "x" * 100))
    assert answer.status_code == 400
    assert "import_bank_statement" in answer.content.decode()
    assert not StatementFile.objects.exists()
