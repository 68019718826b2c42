"""The payment-success saga, against the very statements that it sends, replayed by pgbench on one connection."""

import os
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from benchmarks.harness import Form, Section, measure, pgbench
from benchmarks.shop import claim, open_shop
from durability import engine
from durability.models import Delivery, SagaRun
from durability.types import Lane
from orders import services
from orders.models import Order
from orders.types import Customer, PaymentWish, Wanted
from payments.ledger import customer_account
from payments.locks import lock_payment
from payments.models import JournalEntry, Payment
from payments.services.payment_news import apply_intent
from payments.types import Intent

SALES = int(os.environ.get("SALES", "200"))  # a round
_RESTS = datetime(2100, 1, 1, tzinfo=UTC)


def run() -> None:
    merchant = open_shop("Saga")
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE benchmark_sale (place bigint PRIMARY KEY, run_id uuid, order_id uuid, order_number text,"
            " payment_id uuid, payment_number text, account_id uuid, entry_id uuid DEFAULT uuidv7())"
        )
    sold = 0

    def sell(times: int) -> None:
        """Captured payments whose sagas have been started, each due in its turn."""
        nonlocal sold
        SagaRun.objects.filter(state="running").update(available_at=_RESTS)
        for _ in range(times):
            sold += 1
            _sell(merchant, sold)
        with connection.cursor() as cursor:
            cursor.execute("VACUUM (ANALYZE)")

    def work() -> int:
        return engine.work(Lane.OWN, until=time.monotonic() + 600)

    def replay() -> int:
        return pgbench(script, transactions=SALES, variables={"place": sold - SALES})

    sell(1)
    with CaptureQueriesContext(connection) as queries:
        done = work()
    _check()
    values = _values_of(sold)
    statements = [query["sql"] for query in queries]
    script = _script(statements[: _end_of_the_run(statements)], values)
    section = Section("saga", "The payment-success saga")
    seen = measure(
        [
            Form("floor: the same statements by pgbench, prepared", replay, lambda: sell(SALES)),
            Form("the saga", work, lambda: sell(SALES)),
        ]
    )
    _check()
    assert done == 1
    section.table(seen, unit=f"{SALES:,} sagas")
    section.say(f"{len(_without_transactions(statements))} statements in {_commits(statements)} transactions.")
    ratio = seen[1].ratio(seen[0])
    section.aim("≥ 0.15 × the same statements by pgbench", met=ratio >= 0.15, measured=f"{ratio:.2f} ×")
    section.close()


def _sell(merchant, place: int) -> None:
    customer = f"cust-{place}"
    with transaction.atomic():
        placed = services.place_order(
            merchant_id=merchant,
            claim=claim(merchant),
            customer=Customer(customer),
            wanted=[Wanted("one", 1), Wanted("two", 2)],
            wish=PaymentWish(),
            hold=True,
        )
        payment = lock_payment(Payment.id_of(placed.payment))
        intent = Intent(
            id=f"pi_{place}",
            metadata={},
            status="succeeded",
            amount_minor=payment.amount_minor,
            amount_received_minor=payment.amount_minor,
            currency="usd",
            livemode=False,
            created_at=datetime.now(UTC),
            client_secret="",
            charge=None,
            failure=None,
        )
        apply_intent(payment, intent, by="benchmark")
        services.receive_payment(order=placed.claimed.subject, payment=placed.payment, settling=True)
        run = SagaRun.objects.get(recipe="orders.payment_success", key=placed.payment)
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO benchmark_sale (place, run_id, order_id, order_number, payment_id, payment_number, account_id)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s)",
                [
                    *(
                        place,
                        run.pk,
                        Order.id_of(placed.claimed.subject),
                        placed.claimed.subject,
                        payment.pk,
                        placed.payment,
                    ),
                    customer_account(merchant, customer, "usd").id,
                ],
            )


def _values_of(place: int) -> dict[str, str]:
    """Variable → what it was in the sale whose statements were recorded."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM benchmark_sale WHERE place = %s", [place])
        names = [column.name for column in cursor.description]
        values = dict(zip(names, map(str, cursor.fetchone()), strict=True))
    values["entry_id"] = str(JournalEntry.objects.get(key=f"sale:{values['payment_number']}").pk)
    values["customer"] = f"cust-{values.pop('place')}"
    return values


def _script(statements: list[str], values: Mapping[str, str]) -> str:
    """The recorded statements with that sale's own values replaced by variables, which the first line reads.

    That look-up is one statement more than the saga needs; the values that stay (times, amounts) cost the same.
    """
    lines = [
        "\\set place :place + 1",
        "SELECT *, 'cust-' || place AS customer FROM benchmark_sale WHERE place = :place \\gset",
        *(_with_variables(statement, values) + ";" for statement in statements),
    ]
    return "\n".join(lines) + "\n"


def _with_variables(statement: str, values: Mapping[str, str]) -> str:
    names = {value: name for name, value in values.items()}
    names |= {
        value.replace("-", ""): name for name, value in values.items() if name.endswith("_id")
    }  # as psycopg writes

    def replaced(match: re.Match[str]) -> str:
        text = match.group()[1:-1]
        parts = re.split("(" + "|".join(map(re.escape, names)) + ")", text)
        if len(parts) == 1:
            return _quoted(text)
        pieces = [f":{names[part]}" if part in names else _quoted(part) for part in parts if part]
        return pieces[0] if len(pieces) == 1 else "(" + " || ".join(pieces) + ")"

    return re.sub(r"'(?:[^']|'')*'", replaced, " ".join(statement.split())).rstrip(";")


def _quoted(text: str) -> str:
    """pgbench sees variables in literals, too: a colon before a letter is written as its code."""
    if not re.search(r":[A-Za-z_]", text):
        return f"'{text}'"
    return "E'" + text.replace("\\", "\\\\").replace(":", "\\x3a") + "'"


def _end_of_the_run(statements: list[str]) -> int:
    """Up to the last commit: what comes after it is the look for another run."""
    return max(number for number, sql in enumerate(statements) if sql == "COMMIT") + 1


def _without_transactions(statements: list[str]) -> list[str]:
    return [sql for sql in statements[: _end_of_the_run(statements)] if sql not in ("BEGIN", "COMMIT")]


def _commits(statements: list[str]) -> int:
    return statements.count("COMMIT") + 1  # taking the run commits by itself


def _check() -> None:
    """Whoever ran them, all sales are paid, posted, and their news published."""
    unpaid = Order.objects.exclude(status="paid").count()
    unfinished = SagaRun.objects.filter(recipe="orders.payment_success").exclude(state="completed").count()
    entries = JournalEntry.objects.filter(kind="sale").count()
    letters = Delivery.objects.filter(handler="orders.mail_receipt").count()
    sales = SagaRun.objects.filter(recipe="orders.payment_success").count()
    if unpaid or unfinished or (entries, letters) != (sales, sales):
        raise SystemExit(f"error: {unpaid} unpaid, {unfinished} unfinished; {sales} sales, {entries}, {letters}")
