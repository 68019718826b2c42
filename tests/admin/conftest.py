"""Members of staff at the desk, one of each role."""

from collections.abc import Callable

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client

from tests.shop import Shop, open_shop


@pytest.fixture
def as_role(db) -> Callable[[str], Client]:
    """`as_role("clerk")`: a browser in which a clerk has signed in. `nobody` is staff without a role."""

    def sign_in(role: str) -> Client:
        user = User.objects.create_user(role, is_staff=True, is_superuser=role == "superuser")
        if role not in ("nobody", "superuser"):
            user.groups.add(Group.objects.get(name=role))
        client = Client()
        client.force_login(user)
        return client

    return sign_in


@pytest.fixture
def shop(transactional_db, valkey, sandbox) -> Shop:
    """A shop with ten copies of one book at 15.00 USD, and a provider that answers."""
    sandbox.control("POST", "webhooks", {"mode": "drop"})  # no web process listens; events are listed instead
    shop = open_shop()
    shop.stock("book", 10)
    return shop
