"""A queryset whose bulk writes purge on commit: `update()`, `bulk_create()`, `bulk_update()` and `delete()` fire no
signal for each user, or none at all.

    class User(AbstractUser):
        objects = PurgingUserManager()

        class Meta(AbstractUser.Meta):
            base_manager_name = "objects"

Managers of your own purge as `MyUserManager.from_queryset(PurgingQuerySet)()`. With `base_manager_name`, also what Django
itself writes by such an `update()`: `team.user_set.add(user)` at the other end of a foreign key, and its
`on_delete=SET_NULL`. `makemigrations` then writes one `AlterModelManagers` or `AlterModelOptions`, which touches no table.
What is promised is as in `users/signals.py`; each of these drops the list and all users, which costs the same as dropping
one.

The historical models of a migration have a manager of their own: a data migration calls
`users.cache.invalidate_all_user_caches` itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib.auth.models import UserManager
from django.db import models, transaction

from users import cache
from users.signals import is_seen, purge_on_commit


class PurgingQuerySet(models.QuerySet):
    """For any model whose rows show below `users:`."""

    def update(self, **kwargs: Any) -> int:
        rows = super().update(**kwargs)
        if rows and is_seen(kwargs.keys()):
            self._purge_on_commit()
        return rows

    update.alters_data = True

    # The others are a transaction of their own in Django, and signals within it purge, too; around both, one purge is
    # made of these.

    def bulk_create(self, objs: Iterable[models.Model], *args: Any, **kwargs: Any) -> list[models.Model]:
        with self._as_one():
            made = super().bulk_create(objs, *args, **kwargs)
            if made:
                self._purge_on_commit()
        return made

    bulk_create.alters_data = True

    def bulk_update(self, objs: Iterable[models.Model], fields: Iterable[str], *args: Any, **kwargs: Any) -> int:
        fields = list(fields)
        with self._as_one():
            rows = super().bulk_update(objs, fields, *args, **kwargs)
            if rows and is_seen(fields):
                self._purge_on_commit()
        return rows

    bulk_update.alters_data = True

    def delete(self) -> tuple[int, dict[str, int]]:
        with self._as_one():
            deleted = super().delete()
            if deleted[0]:
                self._purge_on_commit()
        return deleted

    delete.alters_data = True
    # A manager has no `delete`, so that nobody empties a table by mistake.
    delete.queryset_only = True

    def _as_one(self) -> transaction.Atomic:
        return transaction.atomic(using=self._written(), savepoint=False)

    def _purge_on_commit(self) -> None:
        purge_on_commit([cache.USER_LIST, cache.ALL_USERS], using=self._written())

    def _written(self) -> str:
        """The database that this queryset writes to."""
        self._for_write = True
        return self.db


class PurgingUserManager(UserManager.from_queryset(PurgingQuerySet)):
    """`UserManager` whose querysets purge."""

    use_in_migrations = False
