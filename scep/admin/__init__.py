"""SCEP for administrators: services, every request with its reason, what waits for approval, challenges."""

from scep.admin.approvals import PendingRequestAdmin
from scep.admin.challenges import ChallengeAdmin
from scep.admin.requests import TransactionAdmin
from scep.admin.services import ScepServiceAdmin

__all__ = ["ChallengeAdmin", "PendingRequestAdmin", "ScepServiceAdmin", "TransactionAdmin"]
