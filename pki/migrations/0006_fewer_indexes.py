"""What is written for each certificate and never read: indexes for LIKE, which Django makes on PostgreSQL.

Fingerprints are compared as a whole, or as a range (:mod:`pki.searching`). And nearly no certificate renews
another, so the index of those that do holds only them.
"""

import django.db.models.deletion
from django.db import migrations, models

from database.index_changes import create_index, drop_index


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("pki", "0005_signers_and_roots")]

    operations = [
        drop_index("pki_certificate_sha256_7679b525_like"),
        drop_index("pki_certificate_public_key_sha256_65ab2a09_like"),
        migrations.SeparateDatabaseAndState(
            database_operations=[
                create_index(
                    "certificate_renewed_from",
                    "pki_certificate",
                    "renewed_from_id",
                    where="renewed_from_id IS NOT NULL",
                ),
                drop_index("pki_certificate_renewed_from_id_280767d8"),
            ],
            state_operations=[
                migrations.AlterField(
                    model_name="certificate",
                    name="renewed_from",
                    field=models.ForeignKey(
                        blank=True,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="renewals",
                        to="pki.certificate",
                        verbose_name="renewed from",
                    ),
                ),
                migrations.AddIndex(
                    model_name="certificate",
                    index=models.Index(
                        condition=models.Q(renewed_from__isnull=False),
                        fields=["renewed_from"],
                        name="certificate_renewed_from",
                    ),
                ),
            ],
        ),
    ]
