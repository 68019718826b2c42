import pytest

from tests.shop import Shop, open_shop


@pytest.fixture
def shop(transactional_db, valkey, sandbox) -> Shop:
    """A shop with ten copies of one book at 15.00 USD, and a provider that answers."""
    sandbox.control("POST", "webhooks", {"mode": "drop"})  # no web process listens; events are listed instead
    shop = open_shop()
    shop.stock("book", 10)
    return shop
