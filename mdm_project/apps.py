from django.apps import AppConfig


class MdmProjectConfig(AppConfig):
    name = "mdm_project"
