"""Fill in what 0002 added: the name of each issuer of ours, and since when its key is in use."""

from django.db import migrations
from django.db.models import F

from pki.core.certificates import read_identifiers


def fill(apps, schema_editor):
    IssuerCertificate = apps.get_model("pki", "IssuerCertificate")
    IssuerKey = apps.get_model("pki", "IssuerKey")
    rows = IssuerCertificate.objects.filter(
        is_current=True, kind__in=["SELF_SIGNED", "SUBORDINATE"], issuer_key__state="CURRENT"
    ).exclude(issuer_key__issuer__kind="TRUST_ONLY")
    for row in rows.select_related("issuer_key__issuer"):
        issuer = row.issuer_key.issuer
        issuer.subject_der = read_identifiers(bytes(row.der)).subject
        issuer.save(update_fields=["subject_der"])
    IssuerKey.objects.filter(state__in=["CURRENT", "PREVIOUS"]).update(activated_at=F("created_at"))


class Migration(migrations.Migration):
    dependencies = [("pki", "0002_life_of_issuers")]
    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]
