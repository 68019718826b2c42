"""What a new installation of the development stack needs before anyone can log in or call the API.

Everything here may run again and again: what exists stays as it is, a secret that was lost is made anew.
"""

import secrets
from dataclasses import asdict, dataclass, field
from typing import Any

from django.contrib.auth.models import Group, User

import catalog.selectors
import catalog.services

DEMO_MERCHANT = "Demo Bookshop"
# Login → its group (config/roles.py). Two managers: what one asked for, only another one approves.
LOGINS = {"clerk": "clerk", "manager": "manager", "second_manager": "manager", "operator": "operator"}


@dataclass(frozen=True)
class Login:
    username: str
    password: str


@dataclass(frozen=True)
class Credentials:
    """The members of var/stack.json that tell how to get in; plain text, for the person at this machine."""

    storefront_key: str
    operations_key: str
    admin: dict[str, Login] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def ensure_credentials(*, known: dict[str, Any]) -> Credentials:
    """Make what `known` (an earlier answer as JSON, or empty) does not name or what the database has not got."""
    storefront_key, operations_key = _ensure_merchant(known)
    logins = {name: _ensure_login(name, group, known.get("admin", {}).get(name, {})) for name, group in LOGINS.items()}
    return Credentials(storefront_key=storefront_key, operations_key=operations_key, admin=logins)


def _ensure_login(name: str, group: str, known: dict[str, str]) -> Login:
    """A member of staff in that group. Its password is changed only if nobody knows it any more."""
    user, created = User.objects.get_or_create(username=name, defaults={"is_staff": True})
    password = known.get("password", "")
    if created or not password:
        password = password or secrets.token_urlsafe(12)
        user.set_password(password)
        user.save(update_fields=["password"])
    user.groups.add(Group.objects.get_or_create(name=group)[0])
    return Login(username=name, password=password)


def _ensure_merchant(known: dict[str, Any]) -> tuple[str, str]:
    """The demo merchant's storefront key and operations key."""
    found = [merchant for merchant in catalog.selectors.list_merchants() if merchant.name == DEMO_MERCHANT]
    merchant = found[0] if found else catalog.services.create_merchant(name=DEMO_MERCHANT, currency="usd")

    def key(scope: str) -> str:
        text = str(known.get(f"{scope}_key", ""))
        if text and catalog.services.check_api_key(text):
            return text
        return catalog.services.issue_api_key(merchant_id=merchant.id, name=f"make up: {scope}", scopes=[scope])

    return key("storefront"), key("operations")
