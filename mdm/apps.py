from django.apps import AppConfig


class MdmConfig(AppConfig):
    name = "mdm"
