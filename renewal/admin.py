"""The admin's pages of this app: found here by Django, written in :mod:`renewal.admin_campaigns` and
:mod:`renewal.admin_identities`."""

from renewal.admin_campaigns import RekeyCampaignAdmin
from renewal.admin_identities import IdentityRenewalAdmin, RenewalPermitAdmin

__all__ = ["IdentityRenewalAdmin", "RekeyCampaignAdmin", "RenewalPermitAdmin"]
