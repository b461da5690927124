"""No check of a counter, which PostgreSQL would read from its text for every statement that writes.

Takes no longer the more rows there are.
"""

from django.db import migrations, models


def drop_constraint(_apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(
            'ALTER TABLE "push_pushrequest" DROP CONSTRAINT IF EXISTS "push_pushrequest_attempts_check"'
        )


class Migration(migrations.Migration):
    dependencies = [
        ("push", "0003_pace_of_pushes"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunPython(drop_constraint, migrations.RunPython.noop)],
            state_operations=[
                migrations.AlterField(
                    model_name="pushrequest",
                    name="attempts",
                    field=models.IntegerField(
                        default=0,
                        help_text="Pushes since there was last nothing to do.",
                        verbose_name="attempts",
                    ),
                ),
            ],
        ),
    ]
