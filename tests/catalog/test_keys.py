"""Who may call."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.db.models.functions import Now
from django.utils import timezone

from catalog import selectors, services
from catalog.errors import KeyNotLive, KeyReplaced
from catalog.models import ApiKey
from foundation.database import database_now
from foundation.errors import InvalidInput, NotFound
from foundation.ids import uuid7
from tests.factories import api_client, make_key, make_merchant, make_product
from tests.races import orders

pytestmark = pytest.mark.django_db


@pytest.fixture
def merchant():
    return make_merchant()


def status(key):
    return api_client(key).get("/api/v1/products").status_code


def test_a_key_opens_its_merchants_shop(merchant):
    assert status(make_key(merchant)) == 200


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic abc",
        "Bearer nonsense",
        "Bearer ek_a_b",
        "Bearer ek__",
        "Bearer ek_ä_ö",
        "Bearer ek_\x00_x",
        "Bearer \x00",
    ],
)
def test_whatever_is_no_key_answers_401(header):
    client = api_client("")
    client.credentials(**({} if header is None else {"HTTP_AUTHORIZATION": header}))
    refused = client.get("/api/v1/products")
    assert (refused.status_code, refused.json()["code"]) == (401, "key_invalid")
    assert refused.headers["WWW-Authenticate"] == "Bearer"


def test_the_right_prefix_with_the_wrong_secret_opens_nothing(merchant):
    mine, other = make_key(merchant), make_key(merchant)
    _, prefix, _ = mine.split("_")
    assert status(f"ek_{prefix}_{other.split('_')[2]}") == 401


def test_a_revoked_key_opens_nothing(merchant):
    key = make_key(merchant)
    services.revoke_api_key(key_id=ApiKey.objects.get().pk)
    assert status(key) == 401


def test_an_expired_key_opens_nothing(merchant):
    tomorrow = timezone.now() + timedelta(days=1)
    key = services.issue_api_key(merchant_id=merchant.id, name="short", scopes=["storefront"], expires_at=tomorrow)
    assert status(key) == 200
    ApiKey.objects.update(expires_at=Now())
    assert status(key) == 401


def test_a_key_that_is_born_expired_is_refused(merchant):
    with pytest.raises(InvalidInput):
        services.issue_api_key(merchant_id=merchant.id, name="x", scopes=["storefront"], expires_at=timezone.now())
    assert not ApiKey.objects.exists()


def test_a_key_of_nobody_is_refused():
    with pytest.raises(NotFound):
        services.issue_api_key(merchant_id=uuid7(), name="x", scopes=["storefront"])


def test_the_secret_is_not_stored(merchant):
    secret = make_key(merchant).split("_")[2]
    row = ApiKey.objects.get()
    assert secret not in " ".join(str(value) for value in vars(row).values())
    assert secret.encode() != bytes(row.secret_hash)


def test_a_check_is_one_query_and_its_use_is_noted_once_a_minute(merchant, django_assert_num_queries):
    key = make_key(merchant)
    with django_assert_num_queries(2):
        services.check_api_key(key)
    with django_assert_num_queries(1):
        services.check_api_key(key)
    noted = ApiKey.objects.get().last_used_at
    assert noted is not None
    ApiKey.objects.update(last_used_at=noted - timedelta(seconds=61))
    services.check_api_key(key)
    again = ApiKey.objects.get().last_used_at
    assert again is not None
    assert again >= noted


@pytest.mark.parametrize("scopes", [[], ["everything"]])
def test_a_key_has_known_scopes(merchant, scopes):
    with pytest.raises(InvalidInput):
        make_key(merchant, scopes)
    with pytest.raises(IntegrityError, match="api_key_scopes_are_known"), transaction.atomic():
        ApiKey.objects.create(merchant_id=merchant.id, name="x", prefix="x", secret_hash=b"x", scopes=scopes)


# --- Rotation ---------------------------------------------------------------------------------------


def the_key(text: str) -> ApiKey:
    return selectors.find_key(text)


def state_of(text: str) -> str:
    return str(vars(the_key(text))["state"])


def rotate(text: str, **how: Any) -> str:
    return services.rotate_api_key(key_id=the_key(text).pk, **how)


def test_while_a_key_rotates_both_open_the_same_shop(merchant):
    old = make_key(merchant, ["operations"])
    new = rotate(old, overlap_s=3600)
    assert (status(old), status(new)) == (200, 200)
    assert (state_of(old), state_of(new)) == ("replaced", "live")
    row, before = the_key(new), the_key(old)
    assert (row.merchant_id, row.name, row.scopes) == (merchant.id, before.name, ["operations"])
    assert (row.replaces_id, row.expires_at) == (before.pk, None)
    assert before.expires_at is not None
    assert timedelta(minutes=59) < before.expires_at - database_now() <= timedelta(hours=1)
    ApiKey.objects.filter(pk=before.pk).update(expires_at=Now())
    assert (status(old), status(new), state_of(old)) == (401, 200, "expired")


def test_a_leaked_key_ends_with_its_rotation(merchant):
    old = make_key(merchant)
    new = rotate(old, overlap_s=0)
    assert (status(old), status(new)) == (401, 200)


def test_a_key_does_not_live_longer_because_it_rotates(merchant):
    soon = database_now() + timedelta(minutes=5)
    old = services.issue_api_key(merchant_id=merchant.id, name="x", scopes=["storefront"], expires_at=soon)
    rotate(old, overlap_s=3600)
    assert the_key(old).expires_at == soon


def test_a_retry_under_the_new_key_is_the_same_request(merchant):
    book = make_product(merchant).product
    old = make_key(merchant)
    first = api_client(old).post(f"/api/v1/stock/{book}/restock", {"quantity": 5}, key="one")
    again = api_client(rotate(old)).post(f"/api/v1/stock/{book}/restock", {"quantity": 5}, key="one")
    assert (again.json(), again.headers["Idempotent-Replayed"]) == (first.json(), "true")


def test_a_key_rotates_once(merchant):
    old = make_key(merchant)
    new = rotate(old)
    with pytest.raises(KeyReplaced):
        rotate(old)
    assert state_of(rotate(new)) == "live"
    assert ApiKey.objects.count() == 3


def test_where_the_new_secret_was_lost_the_old_key_rotates_again(merchant):
    old = make_key(merchant)
    lost = rotate(old)
    services.revoke_api_key(key_id=the_key(lost).pk)
    assert state_of(old) == "live"
    assert (status(rotate(old)), status(lost)) == (200, 401)


@pytest.mark.parametrize("dead", ["revoked_at", "expires_at"])
def test_a_dead_key_does_not_rotate(merchant, dead):
    old = make_key(merchant)
    ApiKey.objects.update(**{dead: Now()})
    with pytest.raises(KeyNotLive):
        rotate(old)
    assert ApiKey.objects.count() == 1


@pytest.mark.parametrize("overlap_s", [-1, 31 * 24 * 3600])
def test_an_overlap_is_up_to_thirty_days(merchant, overlap_s):
    old = make_key(merchant)
    with pytest.raises(InvalidInput):
        rotate(old, overlap_s=overlap_s)
    assert ApiKey.objects.get().expires_at is None


def test_what_does_not_exist_neither_rotates_nor_is_revoked():
    for verb in (services.rotate_api_key, services.revoke_api_key):
        with pytest.raises(NotFound):
            verb(key_id=uuid7())


def test_the_first_revocation_counts(merchant):
    key = the_key(make_key(merchant))
    services.revoke_api_key(key_id=key.pk)
    first = ApiKey.objects.get().revoked_at
    services.revoke_api_key(key_id=key.pk)
    assert ApiKey.objects.get().revoked_at == first is not None


def both_rotate(race, key: ApiKey, turns: str) -> list[object]:
    race.stop("catalog.services._new_key")  # the old key was found to be live and without a successor
    for name in ("a", "b"):
        race.actor(name, lambda: services.rotate_api_key(key_id=key.pk))
    return list(race.play(turns).values())


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("turns", orders("a", "a", "b", "b", alike=True))
def test_of_two_who_rotate_a_key_at_once_one_does(race, turns):
    results = both_rotate(race, the_key(make_key(make_merchant())), turns)
    assert sorted(type(result).__name__ for result in results) == ["KeyReplaced", "str"]
    assert ApiKey.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_control_without_lock_and_constraint_a_key_has_two_successors(race, monkeypatch, unguarded):
    key = the_key(make_key(make_merchant()))
    monkeypatch.setattr("django.db.models.query.QuerySet.select_for_update", lambda rows, **_: rows)
    unguarded.unique("catalog_apikey", "api_key_has_one_live_successor")
    assert {type(result) for result in both_rotate(race, key, "a b a b")} == {str}
    assert ApiKey.objects.count() == 3
