"""Addresses of the door for devices and relying parties."""

from django.urls import include, path

from mdm_project import health

urlpatterns = [
    path("mdm/", include("mdm.urls")),
    path("scep", include("scep.urls")),
    path("pki/", include("pki.urls")),
    path("enroll/", include("enrollment.device_urls")),
    path("healthz", health.healthz),
    path("readyz", health.readyz),
    path("metrics", health.metrics),
]
