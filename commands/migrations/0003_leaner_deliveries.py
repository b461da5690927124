"""Less to write at each step of a delivery: an index and three constraints fewer.

Written by hand, because Django would check the foreign key of all rows anew, and copy the whole table on SQLite.
Nothing here takes longer the more rows there are.
"""

import django.db.models.deletion
from django.db import migrations, models

from database.index_changes import drop_constraint, drop_index

TABLE = "commands_commanddelivery"
BY_COMMAND = "commands_commanddelivery_command_id_29ecb4e8"
"""The index of the foreign key; ``delivery_progress`` begins with the same column."""
NEVER_NEGATIVE = ("epoch", "sent_count", "not_now_count")
"""Numbers that only grow. PostgreSQL reads such a constraint from its text for every statement that writes."""


class Migration(migrations.Migration):
    atomic = False  # CONCURRENTLY

    dependencies = [
        ("commands", "0002_filled_by"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[
                drop_index(BY_COMMAND),
                *(drop_constraint(f"{TABLE}_{name}_check", TABLE) for name in NEVER_NEGATIVE),
            ],
            state_operations=[
                migrations.AlterField(
                    model_name="commanddelivery",
                    name="command",
                    field=models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="deliveries",
                        to="commands.command",
                        verbose_name="command",
                    ),
                ),
                migrations.AlterField(
                    model_name="commanddelivery",
                    name="epoch",
                    field=models.IntegerField(default=1, verbose_name="epoch"),
                ),
                migrations.AlterField(
                    model_name="commanddelivery",
                    name="sent_count",
                    field=models.IntegerField(default=0, verbose_name="times sent"),
                ),
                migrations.AlterField(
                    model_name="commanddelivery",
                    name="not_now_count",
                    field=models.IntegerField(default=0, verbose_name="times NotNow"),
                ),
            ],
        ),
    ]
