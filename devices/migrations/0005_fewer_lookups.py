"""Receipts and identities are checked where an enrollment is deleted, not at every check-in.

A certificate is never deleted (tests/scep/test_references.py), so nothing has to be looked up for it at all. Each
takes a lock of its tables for a moment, by itself, however many rows there are. On SQLite the foreign keys stay.
"""

import django.db.models.deletion
from django.db import migrations, models

from database.index_changes import drop_constraint
from database.parent_checks import checked_by_parent

ENROLLMENT = "devices_enrollment"


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("devices", "0004_leaner_rows"),
        ("pki", "0007_reference_by_construction"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[
                checked_by_parent(
                    "devices_checkinrecei_enrollment_id_6666a2fd_fk_devices_e",
                    "devices_checkinreceipt",
                    "enrollment_id",
                    parent=ENROLLMENT,
                ),
                checked_by_parent(
                    "devices_identity_enrollment_id_172b9ba4_fk_devices_e",
                    "devices_identity",
                    "enrollment_id",
                    parent=ENROLLMENT,
                ),
                drop_constraint(
                    "devices_identity_certificate_id_683ab14d_fk_pki_certificate_id", "devices_identity"
                ),
            ],
            state_operations=[
                migrations.AlterField(
                    model_name="checkinreceipt",
                    name="enrollment",
                    field=models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="receipts",
                        to="devices.enrollment",
                    ),
                ),
                migrations.AlterField(
                    model_name="identity",
                    name="certificate",
                    field=models.OneToOneField(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="identity",
                        to="pki.certificate",
                        verbose_name="certificate",
                    ),
                ),
                migrations.AlterField(
                    model_name="identity",
                    name="enrollment",
                    field=models.ForeignKey(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="identities",
                        to="devices.enrollment",
                        verbose_name="enrollment",
                    ),
                ),
            ],
        ),
    ]
