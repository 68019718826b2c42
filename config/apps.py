from django.apps import AppConfig


class EverycentConfig(AppConfig):
    name = "config"

    def ready(self) -> None:
        # Tasks bind to our Celery app. Not in config/__init__.py: `make up` reads that too, and has to start at once.
        import config.celery  # noqa: F401
