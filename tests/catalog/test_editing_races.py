"""Several who write the catalogue at once: the second one is told, nothing is overwritten unseen or listed twice."""

from collections import Counter
from functools import partial
from typing import Any

import pytest

from catalog import services
from catalog.models import Product
from foundation.errors import ChangedMeanwhile
from tests.factories import api_client, make_key, make_merchant, make_product
from tests.inventory.test_races import at_once
from tests.races import Race, orders

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def merchant():
    return make_merchant()


def two_editors(race: Race, merchant, *, version: int | None) -> Product:
    """Each saves the whole form: what it changed, and what it saw of the rest."""
    offer = make_product(merchant)
    seen = Product.objects.get(pk=offer.id)
    forms: dict[str, Any] = {
        "pricing": {"price_minor": 9_900, "description": seen.description},
        "editing": {"price_minor": seen.price_minor, "description": "Signed."},
    }
    race.stop_before_commit()
    for name, fields in forms.items():
        race.actor(
            name,
            partial(
                services.update_product,
                merchant_id=merchant.id,
                product=offer.product,
                expected_version=version,
                **fields,
            ),
        )
    return seen


@pytest.mark.parametrize("turns", orders("pricing", "pricing", "editing", "editing"))
def test_of_two_who_saw_the_same_one_saves_and_one_is_told(race, merchant, turns):
    product = two_editors(race, merchant, version=0)
    results = race.play(turns)
    refused = [name for name, result in results.items() if isinstance(result, ChangedMeanwhile)]
    assert len(refused) == 1
    product.refresh_from_db()
    assert (product.price_minor, product.description) == ((9_900, "") if refused == ["editing"] else (1500, "Signed."))
    assert product.version == 1


def test_control_without_a_version_the_second_one_takes_back_what_the_first_one_changed(race, merchant):
    product = two_editors(race, merchant, version=None)
    race.play("pricing pricing editing editing")
    product.refresh_from_db()
    assert (product.price_minor, product.description) == (1500, "Signed.")  # and 99.00 was asked for


def test_each_change_counts_also_one_from_a_file(merchant, tmp_path):
    offer = make_product(merchant, product="a", isbn=None)
    services.update_product(merchant_id=merchant.id, product=offer.product, price_minor=1)
    file = ["id,isbn,title,author\n", "a,,Another title,\n"]
    services.import_products(
        merchant_id=merchant.id, lines=file, currency="usd", price_minor=1, on_refused=lambda refusal: None
    )
    assert Product.objects.get(pk=offer.id).version == 2
    with pytest.raises(ChangedMeanwhile):
        services.update_product(merchant_id=merchant.id, product="a", expected_version=1, title="Mine")


BOOK = {"title": "The Hobbit", "author": "J.R.R. Tolkien", "price": 12800, "currency": "usd"}


@pytest.mark.parametrize("same", [{"id": "hobbit"}, {"isbn": "0618260307"}])
def test_of_eight_who_list_the_same_book_at_once_one_does(merchant, same):
    key = make_key(merchant)

    def post(number: int) -> tuple[int, str]:
        answer = api_client(key).post("/api/v1/products", {**BOOK, "id": f"book-{number}", **same})
        return answer.status_code, answer.json().get("code", "")

    assert Counter(at_once(post, times=8)) == {(201, ""): 1, (409, "product_exists"): 7}
    assert Product.objects.count() == 1


def test_control_without_the_unique_index_there_are_eight(merchant, unguarded):
    unguarded.unique("catalog_product", "product_isbn_once_per_merchant")
    key = make_key(merchant)

    def post(number: int) -> int:
        body = {**BOOK, "id": f"book-{number}", "isbn": "0618260307"}
        return int(api_client(key).post("/api/v1/products", body).status_code)

    assert at_once(post, times=8) == [201] * 8
