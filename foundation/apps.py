from django.apps import AppConfig


class FoundationConfig(AppConfig):
    name = "foundation"

    def ready(self) -> None:
        import foundation.checks  # noqa: F401  they register themselves
