"""Django's settings. What an operator sets comes from the environment: see README and docs/administration."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mdm_project import environment, mail

BASE_DIR = environment.BASE_DIR
BRAMLEY_HOME: Path = environment.home()
TESTING = "pytest" in sys.modules

BRAMLEY_BIND = os.environ.get("BRAMLEY_BIND", "127.0.0.1:8000")
BRAMLEY_TLS, BRAMLEY_MDM_PORT = environment.serving().tls, environment.serving().mdm_port
BRAMLEY_PUBLIC_URL = (
    os.environ.get("BRAMLEY_PUBLIC_URL") or f"{'https' if BRAMLEY_TLS else 'http'}://{BRAMLEY_BIND}"
).rstrip("/")
# Where devices find /mdm/, where that is another port or name: client certificates are asked for only there.
BRAMLEY_MDM_URL = (
    os.environ.get("BRAMLEY_MDM_URL")
    or (environment.at_port(BRAMLEY_PUBLIC_URL, BRAMLEY_MDM_PORT) if BRAMLEY_MDM_PORT else "")
).rstrip("/")
# Roots (PEM) that the public address's certificate ends in, where devices do not have them already.
BRAMLEY_TLS_CA_FILE = os.environ.get("BRAMLEY_TLS_CA_FILE", "")
BRAMLEY_ENCRYPTION_KEYS = environment.secret_place("BRAMLEY_ENCRYPTION_KEYS", "encryption.keys", "key")
BRAMLEY_TRUSTED_PROXIES = environment.words("BRAMLEY_TRUSTED_PROXIES")
BRAMLEY_WEBHOOK_NETWORKS = environment.networks("BRAMLEY_WEBHOOK_NETWORKS")
BRAMLEY_CLIENT_CERT_HEADER = os.environ.get("BRAMLEY_CLIENT_CERT_HEADER", "")
# How a device proves who it is: signature, certificate (of mutual TLS), or either; see mdm.authentication.
BRAMLEY_DEVICE_AUTH = os.environ.get("BRAMLEY_DEVICE_AUTH", "")
# Who knows which certificates a device holds: pki asks by these names, and imports nothing above it.
BRAMLEY_CERTIFICATE_FINDERS = ("devices.finding.certificates_of",)
BRAMLEY_APNS_URL = os.environ.get("BRAMLEY_APNS_URL", "https://api.push.apple.com:443")
BRAMLEY_APNS_CA = os.environ.get("BRAMLEY_APNS_CA", "")
# At most so many; none: as fast as the web server can take what comes back (push.pace).
BRAMLEY_PUSHES_PER_SECOND = environment.count_or_none("BRAMLEY_PUSHES_PER_SECOND")
BRAMLEY_KEEP = environment.kept_days()
# Who is told by e-mail what needs an administrator. Not Django's ADMINS: they would get error pages too.
BRAMLEY_ALERT_EMAILS = environment.words("BRAMLEY_ALERT_EMAILS")
BRAMLEY_ALERT_FROM = os.environ.get("BRAMLEY_ALERT_FROM") or (
    f"bramley@{urlsplit(BRAMLEY_PUBLIC_URL).hostname or 'localhost'}"
)
_SMTP = mail.server()
EMAIL_HOST, EMAIL_PORT = _SMTP.host, _SMTP.port
EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = _SMTP.user, _SMTP.password
EMAIL_USE_TLS, EMAIL_USE_SSL = _SMTP.starttls, _SMTP.tls
EMAIL_TIMEOUT = 15
REDIS_URL = os.environ.get("REDIS_URL", "")
# A sign-in provider at http://127.0.0.1 instead of https: for trying out and tests only.
BRAMLEY_OPENID_LOOPBACK_HTTP = os.environ.get("BRAMLEY_OPENID_LOOPBACK_HTTP", "") == "1"

SECRET_KEY = environment.secret("BRAMLEY_SECRET_KEY", "secret.key", "text")
DEBUG = False
ALLOWED_HOSTS = [
    *(urlsplit(url).hostname or "localhost" for url in (BRAMLEY_PUBLIC_URL, BRAMLEY_MDM_URL) if url),
    *("localhost", "127.0.0.1", "[::1]"),
]
CSRF_TRUSTED_ORIGINS = [BRAMLEY_PUBLIC_URL]
SECURE = BRAMLEY_PUBLIC_URL.startswith("https://")
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"

INSTALLED_APPS = [
    "mdm_project.apps.MdmProjectConfig",
    "console.apps.ConsoleConfig",
    "console.apps.BramleyAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_filters",
    "audit.apps.AuditConfig",
    "pki.apps.PKIConfig",
    "scep.apps.SCEPConfig",
    "devices.apps.DevicesConfig",
    "push.apps.PushConfig",
    "commands.apps.CommandsConfig",
    "enrollment.apps.EnrollmentConfig",
    "renewal.apps.RenewalConfig",
    "mdm.apps.MdmConfig",
    "api.apps.ApiConfig",
    "simulator.apps.SimulatorConfig",
]

# The door for people. Devices enter by the other one: mdm_project.doors.
MIDDLEWARE = [
    "mdm_project.middleware.SecurityHeaders",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "mdm_project.middleware.ConsoleInEnglish",
    "console.timezone.ViewersTimeZone",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "mdm_project.urls"
DEVICE_URLCONF = "mdm_project.device_urls"
WSGI_APPLICATION = "mdm_project.wsgi.application"

TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASES = {"default": environment.database(os.environ.get("DATABASE_URL"))}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ATOMIC_REQUESTS = False

CACHES: dict[str, dict[str, Any]] = {
    "default": {"BACKEND": "mdm_project.shared_cache.SharedRedisCache", "LOCATION": REDIS_URL}
    if REDIS_URL
    else {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
}

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "admin:login"

LANGUAGE_CODE = "en"
# The pages for people; the admin speaks English (mdm_project.middleware).
LANGUAGES = [("en", "English"), ("de", "Deutsch")]
TIME_ZONE = "UTC"
USE_I18N = True
USE_TZ = True
LOCALE_PATHS = [BASE_DIR / "locale"]

STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = False

# Bodies of devices are read with limits of their own, by surface.
DATA_UPLOAD_MAX_MEMORY_SIZE = 10 * 1024 * 1024

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["api.authentication.TokenAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["api.permissions.HasScope"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_PAGINATION_CLASS": "api.pagination.NewestFirst",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "PAGE_SIZE": 100,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Bramley",
    "DESCRIPTION": "Apple device management: devices, enrollments, commands, certificates, challenges.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.1",
    "SERVE_INCLUDE_SCHEMA": False,
    "COMPONENT_SPLIT_REQUEST": True,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
}

# The database is the truth, the broker only wakes workers: a lost message costs time, never work.
# A web request that publishes while the broker is away fails within a second, once, and goes on: the caller
# publishes after commit (transaction.on_commit(..., robust=True)), and a sweep finds the work.
BROKER_FOLDER = BRAMLEY_HOME / "broker"
if REDIS_URL:
    CELERY_BROKER_URL = REDIS_URL
    CELERY_BROKER_TRANSPORT_OPTIONS: dict[str, Any] = {
        "visibility_timeout": 3600,
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,
        "unacked_restore_limit": 1000,
        "socket_connect_timeout": 1,
        "socket_timeout": 2,
        "socket_keepalive": True,
        "health_check_interval": 10,
        "max_retries": 0,
    }
else:
    CELERY_BROKER_URL = "folder://localhost/"
    CELERY_BROKER_TRANSPORT_OPTIONS = {
        "folder": str(environment.private_folder(BROKER_FOLDER)),
        "polling_interval": 0.1,
    }
CELERY_BROKER_CONNECTION_TIMEOUT = 1
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_TASK_PUBLISH_RETRY = False
CELERY_TASK_DEFAULT_QUEUE = "bramley"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_SERIALIZER = "json"
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_POOL = "threads"
CELERY_WORKER_CONCURRENCY = 4
CELERY_WORKER_PREFETCH_MULTIPLIER = 4
# Celery's Django fixup closes the database connection around every task. With PostgreSQL that gives it back
# to the pool. A new SQLite connection costs more than most tasks, so there it is kept.
CELERY_DB_REUSE_MAX = 1000 if DATABASES["default"]["ENGINE"].endswith("sqlite3") else None
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False
# Remote control needs a broker that can address every worker.
CELERY_WORKER_ENABLE_REMOTE_CONTROL = bool(REDIS_URL)

LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": os.environ.get("BRAMLEY_LOG_LEVEL", "INFO")},
    "loggers": {
        "django.request": {"level": "ERROR"},
        "authlib": {"level": "WARNING"},  # what it says at DEBUG are secrets
    },
}
