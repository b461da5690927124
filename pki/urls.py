"""What relying parties fetch: CA certificates and CRLs."""

from __future__ import annotations

from django.urls import path

from pki import views

app_name = "pki"
urlpatterns = [
    path("<slug:slug>/ca.cer", views.certificate, name="certificate"),
    path("<slug:slug>/chain.pem", views.chain, name="chain"),
    path("<slug:slug>/<int:generation>.cer", views.key_certificate, name="key_certificate"),
    path("<slug:slug>/<int:generation>.crl", views.crl, name="crl"),
    path("<slug:slug>/ocsp", views.ocsp, name="ocsp"),
    path("<slug:slug>/ocsp/", views.ocsp),
    path("<slug:slug>/ocsp/<path:encoded>", views.ocsp_by_get, name="ocsp_by_get"),
]
