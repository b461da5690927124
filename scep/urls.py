"""Addresses below ``/scep``: ``/scep/<service>/``, and ``/scep/`` for that of the default issuer.

Clients append what RFC 8894 section 4.1 calls SCEPPATH (``/cgi-bin/pkiclient.exe`` by tradition); it is
ignored.
"""

from django.urls import re_path

from scep import views

urlpatterns = [
    re_path(r"^(?:/(?:cgi-bin/)?pkiclient\.exe|/)?$", views.scep, name="scep"),
    re_path(
        r"^(?:/)(?P<slug>(?!cgi-bin/)[-a-zA-Z0-9_]+)(?:/(?:cgi-bin/)?pkiclient\.exe|/)?$",
        views.scep,
        name="scep_service",
    ),
]
