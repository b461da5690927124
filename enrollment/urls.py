"""Addresses for people: /enroll/<slug>/, what stands before the download, and the download."""

from django.urls import path

from enrollment import gate, views

app_name = "enrollment"
urlpatterns = [
    path("openid/return", gate.openid_return, name="openid_return"),
    path("<slug:slug>/", views.page, name="page"),
    path("<slug:slug>/profile", views.download, name="profile"),
    path("<slug:slug>/code", gate.code, name="code"),
    path("<slug:slug>/sign-in", gate.sign_in, name="sign_in"),
    path("<slug:slug>/openid", gate.openid_start, name="openid"),
    path("<slug:slug>/leave", gate.leave, name="leave"),
]
