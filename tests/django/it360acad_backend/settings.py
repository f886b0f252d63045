"""Settings of the test project. Every variant is an environment variable, read here and nowhere else; README.md lists them."""

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent


def flag(name, default):
    return os.environ.get(name, default) == "1"


def words(name):
    return [word.strip() for word in os.environ.get(name, "").split(",") if word.strip()]


ANONYMOUS_READ = flag("DJANGO_ANONYMOUS_READ", "1")
UUID_IDS = flag("DJANGO_UUID_IDS", "0")
REQUEST_LOG = os.environ.get("DJANGO_REQUEST_LOG")

SECRET_KEY = "only-for-tests-and-public"
DEBUG = False
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "testserver", *words("ALLOWED_HOSTS")]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "corsheaders",
    "rest_framework",
    "rest_framework.authtoken",
    "users",
]

MIDDLEWARE = [
    "it360acad_backend.middleware.RequestLog",
    "corsheaders.middleware.CorsMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.gzip.GZipMiddleware",
    # Django's own default is off; an ETag then comes from Larder (`etag: true`) or not at all.
    *(["django.middleware.http.ConditionalGetMiddleware"] if flag("DJANGO_ETAGS", "0") else []),
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    *(["it360acad_backend.middleware.Tenants"] if flag("DJANGO_TENANTS", "0") else []),
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]

ROOT_URLCONF = "it360acad_backend.urls"
WSGI_APPLICATION = "it360acad_backend.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("DJANGO_DATABASE", BASE_DIR / "db.sqlite3"),
        "OPTIONS": {
            # Readers beside one writer; a writer waits for its turn instead of failing with "database is locked".
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }
}

AUTH_USER_MODEL = "users.User"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
# The type of a primary key cannot be migrated, so each variant has a history of its own.
MIGRATION_MODULES = {"users": "users.migrations_uuid"} if UUID_IDS else {}
# The seeded passwords stand in README.md; a slow hash would protect nothing and cost every test run seconds.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

# Nothing is announced to Larder unless a test wants it: most of them show that Larder sees the writes by itself.
LARDER_ADMIN_URL = os.environ.get("LARDER_ADMIN_URL", "")

SESSION_COOKIE_NAME = os.environ.get("SESSION_COOKIE_NAME", "sessionid")

LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("de", "Deutsch"), ("ru", "Русский")]
USE_I18N = True
TIME_ZONE = "UTC"
USE_TZ = True

CORS_ALLOWED_ORIGINS = ["https://app.example.org", "https://school.example.org"]
CORS_ALLOW_CREDENTIALS = True

# Where it is set, tokens signed with it are taken, too (users/tokens.py).
JWT_SECRET = os.environ.get("DJANGO_JWT_SECRET", "")

REST_FRAMEWORK = {
    # Token first: its WWW-Authenticate makes a missing credential 401, where a session alone would say 403.
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "rest_framework.authentication.TokenAuthentication",
        *(["users.tokens.JWTAuthentication"] if JWT_SECRET else []),
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": [
        "rest_framework.permissions.IsAuthenticatedOrReadOnly"
        if ANONYMOUS_READ
        else "rest_framework.permissions.IsAuthenticated"
    ],
}
