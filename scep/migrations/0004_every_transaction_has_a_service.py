import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("scep", "0003_service_for_each_issuer")]
    operations = [
        migrations.AlterField(
            model_name="transaction",
            name="service",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="scep.scepservice",
                verbose_name="service",
            ),
        ),
    ]
