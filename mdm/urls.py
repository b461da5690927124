"""Addresses of devices, below /mdm/."""

from django.urls import path

from mdm import views

urlpatterns = [
    path("checkin", views.checkin_view, name="mdm-checkin"),
    path("connect", views.connect_view, name="mdm-connect"),
]
