from django.apps import AppConfig


class EverycentConfig(AppConfig):
    name = "config"
