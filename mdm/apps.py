from django.apps import AppConfig
from django.core.checks import Tags, register


class MdmConfig(AppConfig):
    name = "mdm"

    def ready(self) -> None:
        from mdm.checks import check_device_authentication

        register(check_device_authentication, Tags.security)
