"""No check of a counter, which PostgreSQL would read from its text for every statement that writes.

Takes no longer the more rows there are.
"""

from django.db import migrations, models

from database.index_changes import drop_constraint


class Migration(migrations.Migration):
    dependencies = [
        ("push", "0003_pace_of_pushes"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[drop_constraint("push_pushrequest_attempts_check", "push_pushrequest")],
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
