"""Give each issuer of ours the service that stood at its address before, and each transaction its service."""

from django.db import migrations

KEYWORDS = [
    "AES", "DES3", "GetNextCACert", "POSTPKIOperation", "Renewal", "SHA-256", "SHA-384", "SHA-512",
]


def fill(apps, schema_editor):
    Issuer = apps.get_model("pki", "Issuer")
    ScepService = apps.get_model("scep", "ScepService")
    Transaction = apps.get_model("scep", "Transaction")
    for issuer in Issuer.objects.exclude(kind="TRUST_ONLY"):
        service, _created = ScepService.objects.get_or_create(
            slug=issuer.slug, defaults={"issuer": issuer, "capabilities": KEYWORDS}
        )
        Transaction.objects.filter(issuer=issuer, service=None).update(service=service)


class Migration(migrations.Migration):
    dependencies = [("scep", "0002_services"), ("pki", "0001_initial")]
    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]
