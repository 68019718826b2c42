"""Members of staff at the desk, one of each role, and books to look at."""

from collections.abc import Callable

import pytest
from django.contrib.auth.models import Group, User
from django.db.models import Model
from django.test import Client
from django.urls import reverse

from tests.reconciliation.conftest import Books, books, provider_process, settle_after_s
from tests.shop import Shop, open_shop

__all__ = ["Books", "act_url", "books", "page_url", "provider_process", "settle_after_s"]


@pytest.fixture
def as_role(db) -> Callable[[str], Client]:
    """`as_role("clerk")`: a browser in which a clerk has signed in. `nobody` is staff without a role."""

    def sign_in(role: str) -> Client:
        user, created = User.objects.get_or_create(
            username=role, defaults={"is_staff": True, "is_superuser": role == "superuser"}
        )
        if created and role not in ("nobody", "superuser"):
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


def list_url(model: type[Model]) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")


def page_url(row: Model) -> str:
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk])


def act_url(row: Model, act: str) -> str:
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_act", args=[row.pk, act])
