"""manage.py api_keys"""

import json
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from catalog.models import ApiKey
from tests.factories import api_client, make_merchant

pytestmark = pytest.mark.django_db


@pytest.fixture
def merchant():
    return make_merchant(name="Corner")


def run(*arguments: str) -> tuple[str, str]:
    """(standard output, standard error)"""
    out, told = StringIO(), StringIO()
    call_command("api_keys", *arguments, stdout=out, stderr=told)
    return out.getvalue().rstrip("\n"), told.getvalue()


def listed(*arguments: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(run("list", "--json", *arguments)[0])
    return rows


def opens(key: str) -> bool:
    return bool(api_client(key).get("/api/v1/products").status_code == 200)


def test_a_key_is_issued_and_shown_once(merchant):
    key, told = run("issue", "--name", "till", "--scope", "storefront", "--expires-in-days", "30")
    assert opens(key)
    assert "only time" in told
    assert key not in told
    (row,) = listed("--merchant", "Corner")
    assert key.startswith(row["prefix"])
    assert key.rpartition("_")[2] not in json.dumps(row) + run("list")[0]
    assert (row["merchant"], row["name"], row["scopes"], row["state"]) == ("Corner", "till", ["storefront"], "live")
    assert row["last_used_at"] is not None
    assert row["expires_at"] is not None


def test_a_key_may_have_several_scopes(merchant):
    run("issue", "--name", "script", "--scope", "storefront", "--scope", "operations")
    assert listed()[0]["scopes"] == ["operations", "storefront"]


def test_a_key_rotates_with_an_overlap_and_the_old_one_is_revoked(merchant):
    old, _ = run("issue", "--name", "till", "--scope", "storefront")
    prefix = listed()[0]["prefix"]
    new, told = run("rotate", prefix + "…", "--overlap-hours", "1")
    assert (opens(old), opens(new)) == (True, True)
    assert f"{prefix}… opens Corner until" in told
    assert [row["state"] for row in listed()] == ["live", "replaced"]
    assert "nothing from now on" in run("revoke", prefix)[1]
    assert (opens(old), opens(new)) == (False, True)


def test_of_several_merchants_one_has_to_be_named(merchant):
    other = make_merchant(name="Other")
    with pytest.raises(CommandError, match="Corner, Other"):
        run("issue", "--name", "till", "--scope", "storefront")
    run("issue", "--merchant", "Other", "--name", "till", "--scope", "storefront")
    assert ApiKey.objects.get().merchant_id == other.id
    assert (len(listed("--merchant", "Other")), len(listed("--merchant", "Corner")), len(listed())) == (1, 0, 1)


@pytest.mark.parametrize(
    "arguments",
    [
        ("issue", "--merchant", "Nobody", "--name", "x", "--scope", "storefront"),
        ("issue", "--name", " ", "--scope", "storefront"),
        ("issue", "--name", "x" * 101, "--scope", "storefront"),
        ("issue", "--name", "x", "--scope", "storefront", "--expires-in-days", "0"),
        ("issue", "--name", "x", "--scope", "storefront", "--expires-in-days", "999999999"),
        ("rotate", "ek_nothing"),
        ("revoke", "ek_nothing"),
        ("list", "--merchant", "Nobody"),
    ],
)
def test_what_cannot_be_done_ends_with_2_and_changes_nothing(merchant, arguments):
    with pytest.raises(CommandError) as error:
        run(*arguments)
    assert error.value.returncode == 2
    assert str(error.value).startswith("Not done: ")
    assert not ApiKey.objects.exists()


def test_a_key_rotates_once(merchant):
    run("issue", "--name", "till", "--scope", "storefront")
    prefix = listed()[0]["prefix"]
    run("rotate", prefix)
    with pytest.raises(CommandError, match="has a successor already"):
        run("rotate", prefix)
