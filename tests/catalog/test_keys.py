"""Who may call."""

from datetime import timedelta

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from catalog import services
from catalog.models import ApiKey
from foundation.errors import InvalidInput
from tests.factories import api_client, make_key, make_merchant

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
    [None, "", "Bearer", "Bearer ", "Basic abc", "Bearer nonsense", "Bearer ek_a_b", "Bearer ek__", "Bearer ek_ä_ö"],
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
    for minutes, expected in [(-1, 401), (1, 200)]:
        key = services.issue_api_key(
            merchant_id=merchant.id,
            name="short",
            scopes=["storefront"],
            expires_at=timezone.now() + timedelta(minutes=minutes),
        )
        assert status(key) == expected


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
