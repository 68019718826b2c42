"""Issue, list, rotate and revoke the keys of the API.

    manage.py api_keys list
    manage.py api_keys issue --merchant "Demo Bookshop" --name till --scope storefront --expires-in-days 365
    manage.py api_keys rotate ek_0f3a9c… --overlap-hours 48
    manage.py api_keys revoke ek_0f3a9c…

A key is named by what it begins with, as `list` shows it. `issue` and `rotate` print the new key, whole and for the only
time, alone on standard output; what a person should know besides goes to standard error. Exit codes: 0 done, 2 not.
"""

import json
from argparse import ArgumentParser
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from catalog import selectors, services
from catalog.models import ApiKey
from foundation.api import timestamp
from foundation.database import database_now
from foundation.errors import DomainError

_HOUR_S = 3600
_LONGEST_NAME = 100  # characters


class Command(BaseCommand):
    """Reads and writes API keys."""

    help = "Issue, list, rotate and revoke the keys of the API"

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)

        listing = verbs.add_parser("list", help="all keys, the newest first; never their secrets")
        listing.add_argument("--merchant", metavar="NAME")
        listing.add_argument("--json", action="store_true", dest="as_json")

        issue = verbs.add_parser("issue", help="make a key")
        issue.add_argument("--merchant", metavar="NAME", help="whose it is; may be left out if there is one")
        issue.add_argument("--name", required=True, help="who will hold it")
        issue.add_argument("--scope", required=True, action="append", choices=ApiKey.Scope.values, dest="scopes")

        rotate = verbs.add_parser("rotate", help="make a key that takes another one's place; both are live for a while")
        rotate.add_argument("key", metavar="PREFIX")
        hours = settings.API_KEY_OVERLAP_S // _HOUR_S
        rotate.add_argument(
            "--overlap-hours",
            type=int,
            default=hours,
            help=f"how long the old one stays (default: {hours}; 0: it ends)",
        )
        for making in (issue, rotate):
            making.add_argument("--expires-in-days", type=int, metavar="DAYS", help="(default: it does not expire)")

        revoke = verbs.add_parser("revoke", help="the key opens nothing from now on")
        revoke.add_argument("key", metavar="PREFIX")

    def handle(self, *, verb: str, **options: Any) -> None:
        verbs: dict[str, Callable[..., None]] = {
            "list": self._list,
            "issue": self._issue,
            "rotate": self._rotate,
            "revoke": self._revoke,
        }
        try:
            verbs[verb](**options)
        except (DomainError, DatabaseError) as error:
            detail = error.detail if isinstance(error, DomainError) else " ".join(str(error).split())
            raise CommandError(f"Not done: {detail}", returncode=2) from None

    def _list(self, *, merchant: str | None, as_json: bool, **_: Any) -> None:
        keys = selectors.keys_with_state().select_related("merchant").order_by("-pk")
        if merchant:
            keys = keys.filter(merchant_id=selectors.find_merchant(merchant).id)
        rows = [_row(key) for key in keys]
        if as_json:
            self.stdout.write(json.dumps(rows, ensure_ascii=False, indent=2))
            return
        for row in rows:
            used, expires = row["last_used_at"] or "never", row["expires_at"] or "never"
            self.stdout.write(
                f"{row['prefix']}…  {row['state']:<8}  {row['merchant']}: {row['name']} ({', '.join(row['scopes'])}), "
                f"used {used}, expires {expires}"
            )

    def _issue(
        self, *, merchant: str | None, name: str, scopes: list[str], expires_in_days: int | None, **_: Any
    ) -> None:
        if not 1 <= len(name.strip()) <= _LONGEST_NAME:
            raise CommandError(f"Not done: a name has 1 to {_LONGEST_NAME} characters", returncode=2)
        key = services.issue_api_key(
            merchant_id=selectors.find_merchant(merchant).id,
            name=name.strip(),
            scopes=scopes,
            expires_at=_in_days(expires_in_days),
        )
        self._tell_once(key)

    def _rotate(self, *, key: str, overlap_hours: int, expires_in_days: int | None, **_: Any) -> None:
        old = selectors.find_key(key)
        new = services.rotate_api_key(
            key_id=old.pk, overlap_s=overlap_hours * _HOUR_S, expires_at=_in_days(expires_in_days)
        )
        self._tell_once(new)
        until = timestamp(selectors.find_key(key).expires_at)
        self._remark(f"ek_{old.prefix}_… opens {old.merchant.name} until {until}.")

    def _revoke(self, *, key: str, **_: Any) -> None:
        found = selectors.find_key(key)
        services.revoke_api_key(key_id=found.pk)
        self._remark(f"ek_{found.prefix}_… opens nothing from now on.")

    def _tell_once(self, key: str) -> None:
        self.stdout.write(key)
        self._remark("This is the only time that the key is shown.")

    def _remark(self, text: str) -> None:
        self.stderr.write(text, style_func=str)  # on a terminal all else there is red


def _in_days(days: int | None) -> datetime | None:
    if days is None:
        return None
    try:
        return database_now() + timedelta(days=days)
    except OverflowError:
        raise CommandError("Not done: no calendar reaches that far", returncode=2) from None


def _row(key: Any) -> dict[str, Any]:
    return {
        "prefix": f"ek_{key.prefix}_",
        "merchant": key.merchant.name,
        "name": key.name,
        "scopes": key.scopes,
        "state": key.state,
        "created_at": timestamp(key.created_at),
        "last_used_at": timestamp(key.last_used_at),
        "expires_at": timestamp(key.expires_at),
        "revoked_at": timestamp(key.revoked_at),
    }
