from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class DurabilityConfig(AppConfig):
    name = "durability"
    verbose_name = "Operations"

    def ready(self) -> None:
        post_migrate.connect(_subscribe, sender=self)


def _subscribe(**_: Any) -> None:
    """Before the new release's processes start: a handler that is new to this database begins where it says."""
    from durability import subscriptions

    subscriptions.catch_up()
