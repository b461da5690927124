from django.apps import AppConfig


class SCEPConfig(AppConfig):
    name = "scep"
