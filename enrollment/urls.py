"""Addresses for people: /enroll/<slug>/ and the download."""

from django.urls import path

from enrollment import views

app_name = "enrollment"
urlpatterns = [
    path("<slug:slug>/", views.page, name="page"),
    path("<slug:slug>/profile", views.download, name="profile"),
]
