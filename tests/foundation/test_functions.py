"""Functions in PostgreSQL are layered like the apps: each writes its own app's tables and calls only apps below."""

import re

import pytest
from django.apps import apps
from django.db import connection

pytestmark = pytest.mark.django_db

LAYERS = ["durability", "catalog", "inventory", "payments", "orders", "reconciliation"]  # from below
SIBLINGS = {"inventory", "payments"}


def functions() -> dict[str, str]:
    """Name → body, of the product's own."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND NOT starts_with(proname, 'pgtrigger')"
            " AND split_part(proname, '_', 1) = ANY(%s)",
            [LAYERS],
        )
        return dict(cursor.fetchall())


def uses(body: str, names: set[str]) -> set[str]:
    return names & set(re.findall(r"\w+", body))


def test_a_function_stays_in_its_app_and_calls_down():
    known = functions()
    assert {"durability_claim_key", "payments_begin_payment", "inventory_reserve", "orders_place_order"} <= set(known)
    tables = {model._meta.db_table for model in apps.get_models()}
    for name, body in known.items():
        app = name.partition("_")[0]
        strangers = {table for table in uses(body, tables) if table.partition("_")[0] != app}
        assert not strangers, f"{name} reads or writes {strangers}"
        for called in uses(body, set(known)) - {name}:
            other = called.partition("_")[0]
            siblings = {app, other} == SIBLINGS
            assert LAYERS.index(other) <= LAYERS.index(app), f"{name} calls up: {called}"
            assert not siblings, f"{name} calls its sibling {called}"
