"""The drill itself, short: small books, each way to differ once; and that it would notice."""

from collections import Counter
from datetime import timedelta

import pytest
from django.db import connection

from foundation.database import database_now
from payments import services as payments
from reconciliation.models import Discrepancy
from reconciliation.types import ACTIONS, Action, Kind
from tests.campaigns.drill import campaign
from tests.campaigns.drill.plants import RESIDUALS, WAYS, Expected
from tests.sandbox_process import start_sandbox

pytestmark = pytest.mark.django_db(transaction=True)
COPIES = 300


@pytest.fixture
def own_sandbox(valkey, tmp_path, monkeypatch: pytest.MonkeyPatch):
    handle = start_sandbox(tmp_path)
    monkeypatch.setenv("STRIPE_API_BASE", handle.url)
    yield handle
    handle.stop()


def test_every_way_to_differ_is_found_fixed_and_closed(own_sandbox):
    """And the copies that nobody touched are right by every law that the product proves each night."""
    drill = campaign.run(own_sandbox, copies=COPIES, count=1, currencies=1, seed=1)
    assert drill.troubles == []
    assert len(drill.planted) == len(WAYS) + 1
    closed = Counter(one.closed for one in drill.planted)
    assert closed == {"accepted": 3, "fixed": len(WAYS) - 2}  # another currency, another installation's, fraud
    assert drill.counts["orders"] > COPIES
    assert payments.check_books(day=database_now().date()).differences == []
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM payments_journalentry e WHERE e.lines <> "
            "(SELECT count(*) FROM payments_posting p WHERE p.entry_id = e.id)"
        )
        assert cursor.fetchone() == (0,)


def test_what_is_missed_misjudged_or_invented_is_told():
    drill = campaign.Drill(seed=1, copies=0)
    way = WAYS[0]
    day = database_now() - timedelta(days=1)
    for source, minor in (("ch_seen", -5), ("ch_wrong", -6), ("ch_nobody", -7)):
        Discrepancy.objects.create(
            fingerprint=f"{way.kind}:{source}", kind=way.kind, object_kind="charge", source=source, severity="high",
            business_date=day.date(), difference_minor=minor,
        )  # fmt: skip
    expected = [Expected("ch_seen", -5), Expected("ch_wrong", -8), Expected("ch_missed", -9)]
    drill.planted = [campaign.Planted(way, one) for one in expected]
    campaign._judge(drill)
    assert [(one.is_found, one.is_right) for one in drill.planted] == [(True, True), (True, False), (False, False)]
    assert drill.false_alarms == {way.kind: 1}
    assert len(drill.troubles) == 3
    assert "**not clean**" in campaign.summary(drill)


def test_every_action_that_repairs_is_pressed_but_for_the_one_of_the_bank():
    """docs/reliability.md says why."""
    repairs = {info.name for infos in ACTIONS.values() for info in infos if info.repairs}
    pressed = {way.action for way in (*WAYS, RESIDUALS)}
    assert repairs - pressed == {Action.LINK_BANK_LINE}


def test_at_least_fifteen_kinds_are_planted():
    kinds = {way.kind for way in (*WAYS, RESIDUALS)}
    assert len(kinds) >= 15
    assert {Kind.MISSING_IN_STRIPE, Kind.MISSING_IN_OUR_SYSTEM, Kind.AMOUNT_MISMATCH, Kind.STATUS_MISMATCH} < kinds
