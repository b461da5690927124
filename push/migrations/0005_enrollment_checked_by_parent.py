"""A push's enrollment is checked where an enrollment is deleted, not at each of 100,000 insertions.

It takes a lock of both tables for a moment, however many rows there are. On SQLite the foreign key stays.
"""

import django.db.models.deletion
from django.db import migrations, models

from database.parent_checks import checked_by_parent

CONSTRAINT = "push_pushrequest_enrollment_id_f3479864_fk_devices_e"


class Migration(migrations.Migration):
    dependencies = [
        ("devices", "0004_leaner_rows"),
        ("push", "0004_leaner_requests"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[
                checked_by_parent(CONSTRAINT, "push_pushrequest", "enrollment_id", parent="devices_enrollment")
            ],
            state_operations=[
                migrations.AlterField(
                    model_name="pushrequest",
                    name="enrollment",
                    field=models.OneToOneField(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="push",
                        serialize=False,
                        to="devices.enrollment",
                        verbose_name="enrollment",
                    ),
                ),
            ],
        ),
    ]
