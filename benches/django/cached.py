"""The test project's settings, with a user's answer kept in the view by django-redis: what Larder is compared with."""

import os

from it360acad_backend.settings import *  # noqa: F403

CACHES = {
    "default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": os.environ["CACHE_URL"],
        "OPTIONS": {"CLIENT_CLASS": "django_redis.client.DefaultClient"},
    }
}
ROOT_URLCONF = "cached_urls"
