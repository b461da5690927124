"""Less to write with each command: no index for LIKE, which nobody asks for, and no check of a counter.

PostgreSQL reads such a constraint from its text for every statement that writes. Nothing here takes longer
the more rows there are.
"""

from django.db import migrations, models

from database.index_changes import drop_constraint, drop_index


class Migration(migrations.Migration):
    atomic = False  # CONCURRENTLY

    dependencies = [
        ("commands", "0003_leaner_deliveries"),
    ]

    operations = [
        drop_index("commands_command_request_type_13814b37_like"),
        migrations.SeparateDatabaseAndState(
            database_operations=[drop_constraint("commands_command_targets_check", "commands_command")],
            state_operations=[
                migrations.AlterField(
                    model_name="command",
                    name="targets",
                    field=models.IntegerField(default=0, verbose_name="targets"),
                ),
            ],
        ),
    ]
