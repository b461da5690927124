"""What is written for each transaction and never read.

A transaction is looked for by its whole id, never by the issuer alone; those that may lapse are the open
ones, which have an index of their own.
"""

import django.db.models.deletion
from django.db import migrations, models

from database.index_changes import drop_index


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("scep", "0004_every_transaction_has_a_service")]

    operations = [
        drop_index("scep_transaction_transaction_id_1a391c56_like"),
        migrations.SeparateDatabaseAndState(
            database_operations=[
                drop_index("scep_transaction_expires_at_cf3def1a"),
                drop_index("scep_transaction_issuer_id_d0bf329d"),
            ],
            state_operations=[
                migrations.AlterField(
                    model_name="transaction",
                    name="expires_at",
                    field=models.DateTimeField(blank=True, null=True, verbose_name="lapses"),
                ),
                migrations.AlterField(
                    model_name="transaction",
                    name="issuer",
                    field=models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="pki.issuer",
                        verbose_name="issuer",
                    ),
                ),
            ],
        ),
    ]
