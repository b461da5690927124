"""No foreign key from a certificate to the key that issued it: PostgreSQL locked that for each certificate.

Certificates that are issued at the same time shared that lock. Keys of issuers are never deleted, and what
else points at them keeps its constraint. It goes at once, however many rows there are. On SQLite, which would
copy the table, it stays.
"""

import django.db.models.deletion
from django.db import migrations, models

from database.index_changes import drop_constraint

CONSTRAINT = "pki_certificate_issuer_key_id_88dc426d_fk_pki_issuerkey_id"


class Migration(migrations.Migration):
    dependencies = [
        ("pki", "0006_fewer_indexes"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[drop_constraint(CONSTRAINT, "pki_certificate")],
            state_operations=[
                migrations.AlterField(
                    model_name="certificate",
                    name="issuer_key",
                    field=models.ForeignKey(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="issued",
                        to="pki.issuerkey",
                        verbose_name="issuer key",
                    ),
                ),
            ],
        ),
    ]
