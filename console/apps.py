from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig


class ConsoleConfig(AppConfig):
    name = "console"


class BramleyAdminConfig(AdminConfig):
    """Django's admin with our own site; every app registers its models with ``admin.site`` as usual."""

    default_site = "console.site.BramleyAdminSite"
