from django.apps import AppConfig


class PKIConfig(AppConfig):
    name = "pki"
