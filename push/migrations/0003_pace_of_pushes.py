from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("push", "0002_vendor_certificates"),
    ]

    operations = [
        migrations.CreateModel(
            name="PushPace",
            fields=[
                (
                    "id",
                    models.PositiveSmallIntegerField(
                        default=1, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("spent_until", models.DateTimeField(blank=True, null=True)),
                ("web_busy_until", models.DateTimeField(blank=True, null=True)),
            ],
            options={
                "verbose_name": "pace of pushes",
                "verbose_name_plural": "pace of pushes",
            },
        ),
    ]
