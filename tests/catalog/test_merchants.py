"""Merchants and their terms."""

from uuid import uuid4

import pytest

from catalog import selectors, services
from catalog.errors import MerchantExists
from foundation.errors import InvalidInput, NotFound
from foundation.money import UnknownCurrency
from tests.factories import make_merchant, make_product

pytestmark = pytest.mark.django_db


def test_a_merchant_begins_with_the_usual_terms():
    terms = services.create_merchant(name="Corner", currency="usd")
    assert selectors.get_merchant(terms.id) == terms
    assert (terms.order_expires_after_s, terms.refund_window_days, terms.refund_ratio_bp) == (900, 7, 10_000)
    assert (terms.refund_fee_minor, terms.refund_approval_above_minor, terms.webhook_url) == (0, None, "")


def test_names_are_unique_and_currencies_known():
    services.create_merchant(name="Corner", currency="usd")
    with pytest.raises(MerchantExists):
        services.create_merchant(name="Corner", currency="usd")
    with pytest.raises(UnknownCurrency):
        services.create_merchant(name="Other", currency="USD")
    assert [terms.name for terms in selectors.list_merchants()] == ["Corner"]


def test_the_expiry_of_orders_is_a_merchants_setting():
    terms = make_merchant()
    services.set_order_expiry(merchant_id=terms.id, seconds=20)
    assert selectors.get_merchant(terms.id).order_expires_after_s == 20
    with pytest.raises(InvalidInput):
        services.set_order_expiry(merchant_id=terms.id, seconds=0)
    for unknown in (
        lambda: services.set_order_expiry(merchant_id=uuid4(), seconds=1),
        lambda: selectors.get_merchant(uuid4()),
    ):
        with pytest.raises(NotFound):
            unknown()


def test_offers_are_what_is_published(django_assert_num_queries):
    merchant = make_merchant()
    book, draft = make_product(merchant), make_product(merchant, published=False)
    theirs = make_product(make_merchant())
    asked = [book.product, draft.product, theirs.product, "nothing"]
    with django_assert_num_queries(1):
        assert selectors.get_cart(merchant_id=merchant.id, products=asked).offers == {book.product: book}
    ids = selectors.product_ids(merchant_id=merchant.id, products=asked)
    assert ids == {book.product: book.id, draft.product: draft.id}
    assert selectors.public_product_ids(ids.values()) == {book.id: book.product, draft.id: draft.product}
