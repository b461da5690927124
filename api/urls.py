"""Addresses of the API, below ``/api/v1/``."""

from django.urls import path

from api import certificates, challenges, commands, devices, enrollments, schema

app_name = "api"
urlpatterns = [
    path("devices/", devices.DeviceList.as_view(), name="device-list"),
    path("devices/<int:pk>/", devices.DeviceDetail.as_view(), name="device-detail"),
    path("devices/<int:pk>/commands/", commands.DeviceDeliveryList.as_view(), name="device-commands"),
    path("enrollments/", enrollments.EnrollmentList.as_view(), name="enrollment-list"),
    path("enrollments/<int:pk>/", enrollments.EnrollmentDetail.as_view(), name="enrollment-detail"),
    path("commands/", commands.CommandList.as_view(), name="command-list"),
    path("commands/<uuid:uuid>/", commands.CommandDetail.as_view(), name="command-detail"),
    path("commands/<uuid:uuid>/cancel/", commands.CommandCancel.as_view(), name="command-cancel"),
    path("commands/<uuid:uuid>/deliveries/", commands.CommandDeliveryList.as_view(), name="delivery-list"),
    path(
        "commands/<uuid:uuid>/deliveries/<int:pk>/",
        commands.DeliveryDetail.as_view(),
        name="delivery-detail",
    ),
    path("certificates/", certificates.CertificateList.as_view(), name="certificate-list"),
    path("certificates/<int:pk>/", certificates.CertificateDetail.as_view(), name="certificate-detail"),
    path("certificates/<int:pk>/pem/", certificates.CertificatePem.as_view(), name="certificate-pem"),
    path(
        "certificates/<int:pk>/revoke/", certificates.CertificateRevoke.as_view(), name="certificate-revoke"
    ),
    path("challenges/", challenges.ChallengeCreate.as_view(), name="challenge-create"),
    path("schema/", schema.Schema.as_view(), name="schema"),
    path("docs/", schema.Docs.as_view(url_name="api:schema"), name="docs"),
]
