from django.apps import AppConfig, apps
from django.db.models.signals import post_migrate


class EverycentConfig(AppConfig):
    name = "config"

    def ready(self) -> None:
        # Tasks bind to our Celery app. Not in config/__init__.py: `make up` reads that too, and has to start at once.
        import config.celery  # noqa: F401
        from config.roles import write_roles

        post_migrate.connect(write_roles, sender=apps.get_app_config("reconciliation"))
