"""Addresses of the door for people; those of devices are included so that they have names here."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("admin/", admin.site.urls),
    path("api/v1/", include("api.urls")),
    path("enroll/", include("enrollment.urls")),
    path("", include("mdm_project.device_urls")),
]
handler500 = "mdm_project.unavailable.people"
