"""What is written for each event and never read: an index for LIKE, and one that nearly always holds nothing.

Most events are caused by devices, and only those of people have a user.
"""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

from database.index_changes import create_index, drop_index


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("audit", "0001_initial"), migrations.swappable_dependency(settings.AUTH_USER_MODEL)]

    operations = [
        drop_index("audit_auditevent_action_2131bb77_like"),
        migrations.SeparateDatabaseAndState(
            database_operations=[
                create_index("audit_by_user", "audit_auditevent", "user_id", where="user_id IS NOT NULL"),
                drop_index("audit_auditevent_user_id_871f21a9"),
            ],
            state_operations=[
                migrations.AlterField(
                    model_name="auditevent",
                    name="user",
                    field=models.ForeignKey(
                        blank=True,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="user",
                    ),
                ),
                migrations.AddIndex(
                    model_name="auditevent",
                    index=models.Index(
                        condition=models.Q(user__isnull=False), fields=["user"], name="audit_by_user"
                    ),
                ),
            ],
        ),
    ]
