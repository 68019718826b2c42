"""The servers under the tests are the real ones, in the versions that the product asks for."""

import pytest
from django.db import connection


@pytest.mark.django_db
def test_the_database_is_postgresql_18_that_knows_unicode():
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('server_version_num')::int / 10000, lower('É')")
        assert cursor.fetchone() == (18, "é")


def test_the_broker_starts_empty_and_sets_once(valkey):
    assert valkey.dbsize() == 0
    assert valkey.set("doorbell", "1", nx=True, px=10_000)
    assert not valkey.set("doorbell", "1", nx=True, px=10_000)
