from django.apps import AppConfig


class PaymentsConfig(AppConfig):
    name = "payments"
    verbose_name = "Books"

    def ready(self) -> None:
        from payments import handlers, sagas  # noqa: F401  registers them by name
