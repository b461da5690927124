"""No foreign keys from a transaction to what is never deleted, and no checks of numbers that only we write.

PostgreSQL locked the rows of service and issuer for each enrolment, shared by all at the same time, and read
each CHECK from its text. The key to the challenge stays: challenges are deleted when their time is over. Each goes
at once, however many rows there are, and by itself: a running enrolment has locks of several of these tables, which
one transaction could meet in another order. On SQLite, which would copy the tables, all of it stays.
"""

import django.db.models.deletion
from django.db import migrations, models

from database.index_changes import drop_constraint


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("pki", "0007_reference_by_construction"),
        ("scep", "0005_fewer_indexes"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[
                drop_constraint(
                    "scep_transaction_service_id_0e5f9ef4_fk_scep_scepservice_id", "scep_transaction"
                ),
                drop_constraint("scep_transaction_issuer_id_d0bf329d_fk_pki_issuer_id", "scep_transaction"),
                drop_constraint(
                    "scep_transaction_certificate_id_4babfb8c_fk_pki_certificate_id", "scep_transaction"
                ),
                drop_constraint("scep_transaction_proposed_days_check", "scep_transaction"),
                drop_constraint("scep_transaction_repeats_check", "scep_transaction"),
                drop_constraint("scep_challenge_validity_days_check", "scep_challenge"),
            ],
            state_operations=[
                migrations.AlterField(
                    model_name="transaction",
                    name="service",
                    field=models.ForeignKey(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="scep.scepservice",
                        verbose_name="service",
                    ),
                ),
                migrations.AlterField(
                    model_name="transaction",
                    name="issuer",
                    field=models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="pki.issuer",
                        verbose_name="issuer",
                    ),
                ),
                migrations.AlterField(
                    model_name="transaction",
                    name="certificate",
                    field=models.ForeignKey(
                        blank=True,
                        db_constraint=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="scep_transactions",
                        to="pki.certificate",
                        verbose_name="certificate",
                    ),
                ),
                migrations.AlterField(
                    model_name="transaction",
                    name="proposed_days",
                    field=models.IntegerField(
                        blank=True, null=True, verbose_name="proposed days of validity"
                    ),
                ),
                migrations.AlterField(
                    model_name="transaction",
                    name="repeats",
                    field=models.IntegerField(
                        default=0,
                        help_text="How often the same was asked again and got the same answer.",
                        verbose_name="repeats",
                    ),
                ),
                migrations.AlterField(
                    model_name="challenge",
                    name="validity_days",
                    field=models.IntegerField(blank=True, null=True, verbose_name="days of validity"),
                ),
            ],
        ),
    ]
