"""Addresses for devices: over-the-air enrolment, which this version does not have yet, is a plain 404."""

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
