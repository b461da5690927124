"""What is written for each enrolment and never read: indexes for LIKE, indexes within others, constraints.

Django makes an index for LIKE beside each index of a text on PostgreSQL; serial numbers, UDIDs and
fingerprints are compared as a whole, or searched for anywhere within, which no such index helps. A binding is
found by the constraint that lets it enrol one device, a receipt by the one that keeps it once. Only users
have a parent.

Nothing here takes longer the more rows there are, but the one index that is made, concurrently.
"""

import django.db.models.deletion
from django.db import migrations, models

from database.index_changes import create_index, drop_constraint, drop_index

NEVER_NEGATIVE = ("devices_enrollment", "devices_checkinreceipt")
"""Their epochs only grow. PostgreSQL reads a constraint from its text for every statement that writes."""


class Migration(migrations.Migration):
    atomic = False  # CONCURRENTLY

    dependencies = [
        ("devices", "0003_what_a_held_request_said"),
    ]

    operations = [
        drop_index("devices_device_udid_03ffae97_like"),
        drop_index("devices_device_serial_number_0d9e1136_like"),
        drop_index("devices_identity_sha256_e224f533_like"),
        migrations.SeparateDatabaseAndState(
            database_operations=[
                drop_index("devices_enrollment_binding_9b8ae57e"),
                drop_index("devices_checkinreceipt_enrollment_id_6666a2fd"),
                create_index(
                    "enrollment_parent", "devices_enrollment", "parent_id", where="parent_id IS NOT NULL"
                ),
                drop_index("devices_enrollment_parent_id_8b79756d"),
                *(drop_constraint(f"{table}_epoch_check", table) for table in NEVER_NEGATIVE),
            ],
            state_operations=[
                migrations.AlterField(
                    model_name="enrollment",
                    name="binding",
                    field=models.UUIDField(
                        blank=True,
                        help_text="Enrollment session that it came from.",
                        null=True,
                        verbose_name="binding",
                    ),
                ),
                migrations.AlterField(
                    model_name="enrollment",
                    name="epoch",
                    field=models.IntegerField(default=1, verbose_name="epoch"),
                ),
                migrations.AlterField(
                    model_name="enrollment",
                    name="parent",
                    field=models.ForeignKey(
                        blank=True,
                        db_index=False,
                        help_text="For the user channel: the enrollment of the device.",
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="users",
                        to="devices.enrollment",
                        verbose_name="device enrollment",
                    ),
                ),
                migrations.AddIndex(
                    model_name="enrollment",
                    index=models.Index(
                        condition=models.Q(parent__isnull=False), fields=["parent"], name="enrollment_parent"
                    ),
                ),
                migrations.AlterField(
                    model_name="checkinreceipt",
                    name="enrollment",
                    field=models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="receipts",
                        to="devices.enrollment",
                    ),
                ),
                migrations.AlterField(
                    model_name="checkinreceipt",
                    name="epoch",
                    field=models.IntegerField(default=1),
                ),
            ],
        ),
    ]
