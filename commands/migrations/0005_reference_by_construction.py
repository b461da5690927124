"""No foreign key from a delivery to its command: PostgreSQL looked the same command up for each of 100,000 rows.

A delivery is inserted by nobody but the transaction that inserts its command, and its command never changes; so
there is nothing that the constraint could refuse. Commands are deleted through the models, with their deliveries.
The constraint goes at once, however many rows there are. On SQLite, which would copy the table, it stays.
"""

import django.db.models.deletion
from django.db import migrations, models

from database.index_changes import drop_constraint

CONSTRAINT = "commands_commanddeli_command_id_29ecb4e8_fk_commands_"


class Migration(migrations.Migration):
    dependencies = [
        ("commands", "0004_leaner_commands"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[drop_constraint(CONSTRAINT, "commands_commanddelivery")],
            state_operations=[
                migrations.AlterField(
                    model_name="commanddelivery",
                    name="command",
                    field=models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="deliveries",
                        to="commands.command",
                        verbose_name="command",
                    ),
                ),
            ],
        ),
    ]
