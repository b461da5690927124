"""Addresses for devices: over-the-air enrolment."""

from django.urls import path

from enrollment import device_views

urlpatterns = [path("<slug:slug>/ota", device_views.over_the_air, name="over_the_air")]
