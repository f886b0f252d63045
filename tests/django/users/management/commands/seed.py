"""`manage.py seed`: users whose names, passwords and tokens are known beforehand. Run again, it restores them.

User 1 is `admin`, 2 `teacher`, 3 `parent`; from 4 on they are students `student04`, `student05`, … The password of
`teacher` is `password-teacher`, the token `token-teacher`, and so for all. UUID ids end in the same number."""

import uuid

from django.conf import settings
from django.contrib.auth.hashers import make_password
from django.core.management.base import BaseCommand
from django.db import transaction
from rest_framework.authtoken.models import Token

from users.models import User

FIRST = ["Aigerim", "Boris", "Clara", "Daniyar", "Elena", "Farid", "Greta", "Hassan", "Irina", "Jonas"]
LAST = ["Abdrakhmanova", "Baumann", "Chernov", "Dietrich", "Esenov", "Fischer", "Gromova"]


def username(number):
    return {1: "admin", 2: "teacher", 3: "parent"}.get(number, f"student{number:02}")


class Command(BaseCommand):
    help = "Makes users with known passwords and tokens."

    def add_arguments(self, parser):
        parser.add_argument("--users", type=int, default=25, help="how many (default 25)")

    @transaction.atomic
    def handle(self, *args, users, **options):
        for number in range(1, users + 1):
            name = username(number)
            user, _ = User.objects.update_or_create(
                id=uuid.UUID(int=number) if settings.UUID_IDS else number,
                defaults={
                    "username": name,
                    "password": make_password(f"password-{name}"),
                    "first_name": FIRST[number % len(FIRST)],
                    "last_name": LAST[number % len(LAST)],
                    "email": f"{name}@example.org",
                    "role": name.rstrip("0123456789"),
                    "is_active": True,
                    "is_staff": name == "admin",
                    "is_superuser": name == "admin",
                },
            )
            Token.objects.update_or_create(user=user, defaults={"key": f"token-{name}"})
        self.stdout.write(f"{users} users: admin, teacher, parent, student04 …; password-<name>, token-<name>")
