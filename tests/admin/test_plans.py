"""Lists of the reconciliation desk at some scale: a page reads a page's rows by an index, or at most what is open."""

from datetime import date, timedelta
from typing import Any, cast

import pytest
from django.contrib import admin
from django.db import connection
from django.test.utils import CaptureQueriesContext

from foundation.database import database_now
from foundation.desk import DeskAdmin
from foundation.ids import uuid7
from payments.models import Payout
from reconciliation.models import (
    BankLine,
    BankMatch,
    Discrepancy,
    Match,
    ReconciliationRun,
    StatementFile,
)
from reconciliation.types import Kind, MatchedBy, Rule
from tests.admin.conftest import list_url
from tests.admin.test_pages import LIST_QUERIES
from tests.plans import scans

pytestmark = pytest.mark.django_db(transaction=True)

ROWS = 4_000  # of each list
FEW = 400  # of these: what is open, what the provider sent
TODAY = date(2026, 3, 1)
LISTS = (Discrepancy, Match, BankLine, ReconciliationRun)
VIEWS = [
    (model, query)
    for model in LISTS
    for query in ["", *(query for _, query in cast(DeskAdmin[Any], admin.site._registry[model]).saved_views if query)]
]


def differences() -> None:
    """One in ten is open, and of these some are somebody's, some wait."""
    now = database_now()
    kinds = [Kind.MISSING_IN_STRIPE, Kind.AMOUNT_MISMATCH]
    rows = []
    for number in range(ROWS):
        state = "resolved" if number % 10 else ("open", "open", "investigating", "awaiting_approval")[number // 10 % 4]
        settled = {"closed_as": "accepted", "resolved_at": now, "resolved_by": "clara"} if state == "resolved" else {}
        rows.append(
            Discrepancy(
                fingerprint=f"{kinds[number % 2]}:ch_{number}",
                kind=kinds[number % 2],
                object_kind="charge",
                source=f"ch_{number}",
                business_date=TODAY - timedelta(days=number // 40),
                ours_amount_minor=1500,
                ours_currency="usd",
                difference_minor=-1500,
                severity="high",
                state=state,
                owner="superuser" if state == "investigating" else "",
                order_reference=f"ord_{number}",
                **settled,
            )
        )
    Discrepancy.objects.bulk_create(rows)


def matches() -> None:
    rules = {0: Rule.PERSON, 1: Rule.METADATA, 2: Rule.AMOUNT_AND_DATE}
    Match.objects.bulk_create(
        Match(
            object=f"charge:ch_{number:05}",
            ours_id=uuid7(),
            rule=rules.get(number % 100, Rule.ID),
            currency="usd",
            theirs_minor=1500,
            difference_minor=1 if number % 100 == 3 else 0,
            tolerance_minor=2 if number % 100 == 3 else None,
            theirs_on=TODAY,
            ours_on=TODAY,
        )
        for number in range(ROWS)
    )


def bank_lines() -> None:
    """One in ten is the provider's, and most of these are payouts."""
    file = StatementFile.objects.create(
        whose="bank",
        name="x",
        sha256="0" * 64,
        layout="bank_csv",
        by="test",
        rows=ROWS,
        added=ROWS,
        problems=[],
    )
    lines = BankLine.objects.bulk_create(
        BankLine(
            account="A",
            key=f"L{number}",
            booked_on=TODAY - timedelta(days=number // 20),
            amount_minor=number + 1,
            currency="usd",
            reference=f"L{number}",
            of_provider=number % 10 == 0,
            sha256=b"\0" * 32,
            file=file,
            line=number,
        )
        for number in range(ROWS)
    )
    sent = [line for line in lines if line.of_provider][::10]
    payouts = Payout.objects.bulk_create(
        Payout(
            id=uuid7(),
            provider_reference=f"po_{line.line}",
            status="paid",
            amount_minor=line.amount_minor,
            currency="usd",
            automatic=True,
            arrives_on=line.booked_on,
            provider_created_at=database_now(),
        )
        for line in sent
    )
    BankMatch.objects.bulk_create(
        BankMatch(line=line, payout_id=payout.pk, leg="arrival", how=MatchedBy.AMOUNT, why="fits", by="test")
        for line, payout in zip(sent, payouts, strict=True)
    )


def runs() -> None:
    now = database_now()
    ReconciliationRun.objects.bulk_create(
        ReconciliationRun(
            date=TODAY - timedelta(days=number),
            provisional=False,
            state="completed",
            by="test",
            started_at=now,
            lease_until=now,
            finished_at=now,
            duration_ms=1,
        )
        for number in range(ROWS)
    )


@pytest.fixture
def at_scale(as_role):
    differences()
    matches()
    bank_lines()
    runs()
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    client = as_role("superuser")
    client.get("/admin/")  # content types and the like are cached from here on
    return client


def test_a_list_reads_a_page_by_an_index_and_counts_nothing(at_scale):
    for model, query in VIEWS:
        asked = f"{model.__name__}?{query}"
        with CaptureQueriesContext(connection) as captured, scans() as found:
            answer = at_scale.get(f"{list_url(model)}?{query}")
        assert answer.status_code == 200, asked
        assert len(captured) <= LIST_QUERIES, asked
        assert [one["sql"] for one in captured if "COUNT(*)" in one["sql"]] == [], asked
        assert any(one.table == model._meta.db_table for one in found), asked
        assert [f"{asked}: {one}" for one in found if one.rows > FEW + 100] == []
