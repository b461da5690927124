"""The rows that stand for years of use fit the tables as they are now."""

from __future__ import annotations

from contextlib import closing

import pytest
from django.db import connection

from audit.models import AuditEvent
from audit.recording import SERVER
from commands.models import CommandDelivery, CommandResult, DeliveryState
from devices.models import Enrollment, EnrollmentState, Identity
from pki import issuers
from pki.models import Certificate
from push.models import PushCertificate, PushRequest, PushState
from scep import services
from scep.models import Challenge, Transaction

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="fills PostgreSQL"),
]


def test_a_database_is_filled() -> None:
    from bench.filling import Filling  # needs the driver

    services.of_issuer(issuers.create_issuer("bramley", "Bramley", algorithm="EC-P256", actor=SERVER))
    told = AuditEvent.objects.count()
    where = connection.settings_dict
    url = f"postgres://{where['USER']}@{where['HOST']}:{where['PORT']}/{where['NAME']}"
    with closing(Filling(url)) as filling:
        filling.issued("bramley", 1, 5)
        filling.issued("bramley", 6, 8)
        filling.fleet(4, "com.apple.mgmt.External.test")
        udids = list(Enrollment.objects.values_list("device__udid", flat=True))
        filling.finished(udids[:2], 3)
        assert set(PushRequest.objects.values_list("state", flat=True)) == {PushState.IDLE}
        filling.due_pushes(3)
        assert not PushRequest.objects.exclude(state=PushState.IDLE).exists(), "nobody can wake them"
        PushCertificate.objects.create(
            state="ACTIVE", topic="com.apple.mgmt.External.test", private_key_sealed=b"sealed"
        )
        filling.due_pushes(3)
        assert PushRequest.objects.filter(state=PushState.DUE).count() == 3
        PushRequest.objects.filter(state=PushState.DUE).update(last_result="200")
        assert filling.pushed() == 3
        filling.forget_pushes()
        assert PushRequest.objects.filter(state=PushState.IDLE).count() == 4
        assert filling.commits_per_second(0.01) > 0
    assert (Transaction.objects.count(), Challenge.objects.count(), AuditEvent.objects.count() - told) == (
        8,
    ) * 3
    assert Certificate.objects.count() == 8 + 4
    assert Identity.objects.filter(enrollment__state=EnrollmentState.ENROLLED).count() == 4
    assert CommandDelivery.objects.filter(state=DeliveryState.ACKNOWLEDGED).count() == 2 * 3
    assert CommandResult.objects.count() == 2 * 3
