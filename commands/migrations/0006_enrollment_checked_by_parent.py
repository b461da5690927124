"""A delivery's enrollment is checked where an enrollment is deleted, not at each of 100,000 insertions.

It takes a lock of both tables for a moment, however many rows there are. On SQLite the foreign key stays.
"""

import django.db.models.deletion
from django.db import migrations, models

from database.parent_checks import checked_by_parent

CONSTRAINT = "commands_commanddeli_enrollment_id_b424a24d_fk_devices_e"


class Migration(migrations.Migration):
    dependencies = [
        ("commands", "0005_reference_by_construction"),
        ("devices", "0004_leaner_rows"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[
                checked_by_parent(
                    CONSTRAINT, "commands_commanddelivery", "enrollment_id", parent="devices_enrollment"
                )
            ],
            state_operations=[
                migrations.AlterField(
                    model_name="commanddelivery",
                    name="enrollment",
                    field=models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="deliveries",
                        to="devices.enrollment",
                        verbose_name="enrollment",
                    ),
                ),
            ],
        ),
    ]
