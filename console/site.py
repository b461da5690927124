"""The admin site."""

from __future__ import annotations

from django.contrib.admin import AdminSite
from django.utils.translation import gettext_lazy as _


class BramleyAdminSite(AdminSite):
    site_header = _("Bramley")
    site_title = _("Bramley")
    index_title = _("Home")
    enable_nav_sidebar = True
