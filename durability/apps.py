from django.apps import AppConfig


class DurabilityConfig(AppConfig):
    name = "durability"
    verbose_name = "Operations"
