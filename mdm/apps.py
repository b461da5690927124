from django.apps import AppConfig
from django.core.checks import Tags, register


class MdmConfig(AppConfig):
    name = "mdm"

    def ready(self) -> None:
        from mdm.checks import check_client_certificate_header

        register(check_client_certificate_header, Tags.security)
