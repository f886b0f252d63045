"""The user, with a role; its id is an integer or, with DJANGO_UUID_IDS=1, a UUID."""

import uuid

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.db import models

from users.managers import PurgingUserManager
from users.roles import Role


class User(AbstractUser):
    if settings.UUID_IDS:
        id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    role = models.CharField(max_length=16, choices=Role.choices, default=Role.STUDENT, db_index=True)

    objects = PurgingUserManager()

    class Meta:
        ordering = ["date_joined", "id"]

    @property
    def is_editor(self):
        return self.role in (Role.ADMIN, Role.TEACHER)
