"""Tells Larder of what is written past it: the management shell, the admin, Celery, a cron job.

`connect` is called once, in `AppConfig.ready` (see `users/apps.py`). From then on a save or a delete of a user drops
the copies of the list and of that user.

What is promised:

- The purge runs after COMMIT, in the thread that commits, before `atomic()` or `save()` returns: who then asks, sees
  the write. Between COMMIT and that purge, the time of one request to the admin listener, others may still see the
  past. If the purge fails (it is then logged), they may until the copies' `ttl`.
- What is rolled back purges nothing, also up to a savepoint.
- One transaction makes one purge, however many users it saves.
- `last_login` alone, which every login saves, purges nothing.
- A profile, or a group that is renamed, is no user: name to `connect` the models that answers show something of.
- Writes through Larder are purged by Larder itself, without such a moment in between; that they are announced here as
  well does no harm.

What fires no signal: `update()`, the bulk methods, `team.user_set.add(user)` by a foreign key, `on_delete=SET_NULL` (for all
of these see `users/managers.py`) and raw SQL. After that call `users.cache.invalidate_all_user_caches` yourself, in
`transaction.on_commit`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from typing import Any
from weakref import WeakSet

from django.apps import apps
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Model
from django.db.models.signals import m2m_changed, post_delete, post_save
from django.db.transaction import TransactionManagementError
from django.dispatch import Signal

from users import cache

logger = logging.getLogger(__name__)

# Fields that no answer shows: saving nothing else purges nothing.
UNSEEN = frozenset({"last_login"})

# From so many users on in one transaction all are dropped at once, which costs the same as one.
MANY = 100


def connect(
    user: type[Model], shown: Iterable[str] = (), lookup: str = "pk", others: Iterable[type[Model]] = ()
) -> None:
    """Purges on each save and delete of `user`, of its proxies and its children.

    `shown` names the many-to-many fields that the API shows of a user, such as `groups`, or `team_set` where they are
    declared at the other end; changes of others show nowhere. `lookup` is the field by which its paths name one, if that
    is not the primary key: `username`, `slug`. A write then drops all users, for who is renamed has a copy by the old name,
    too. `others` are the models of which users show something, such as a profile, or a group's name: their writes drop the
    list and all users, as do those of their own many-to-many fields. `user` is one of them where it depends on who reads
    what is shown.
    """
    others = tuple(others)
    # Such a row may be a model of its own, saved as such; and with either end it goes, mostly without a word.
    tied = {field: getattr(user, field).through for field in shown}
    beneath = [field.remote_field.through for other in others for field in other._meta.many_to_many]
    seen = (*others, *tied.values())
    gone = tuple(end for through in [*tied.values(), *beneath] for end in _other_ends(through, user))
    by_key = lookup in ("pk", user._meta.pk.name)

    def key(pk: Any) -> str:
        return cache.user_key(pk) if by_key else cache.ALL_USERS

    def changed(
        sender: type[Model],
        instance: Model,
        using: str,
        signal: Signal,
        update_fields: Collection[str] | None = None,
        **_: Any,
    ) -> None:
        if not is_seen(update_fields):
            return
        if issubclass(sender, user):
            purge_on_commit([cache.USER_LIST, key(instance.pk)], using=using)
        if issubclass(sender, seen) or (signal is post_delete and issubclass(sender, gone)):
            purge_on_commit([cache.USER_LIST, cache.ALL_USERS], using=using)

    def related(
        instance: Model, action: str, model: type[Model], pk_set: set[Any] | None, using: str, **_: Any
    ) -> None:
        if not is_done(action, pk_set):
            return
        # Both ends may be users, such as friends.
        users = {key(instance.pk)} if isinstance(instance, user) else set()
        if issubclass(model, user):
            users |= {cache.ALL_USERS} if pk_set is None else {key(pk) for pk in pk_set}
        purge_on_commit([cache.USER_LIST, *(users or {cache.ALL_USERS})], using=using)

    def related_beneath(action: str, pk_set: set[Any] | None, using: str, **_: Any) -> None:
        if is_done(action, pk_set):
            purge_on_commit([cache.USER_LIST, cache.ALL_USERS], using=using)

    # Whoever is told is held weakly otherwise, and these are known to nobody else. Calling `connect` again for the same
    # model changes nothing.
    name = f"larder:{user._meta.label}"
    # Not to all models: Django reads whatever has a receiver before it deletes it (`clearsessions`, a cascade).
    for model in apps.get_models():
        if issubclass(model, (user, *seen)):
            post_save.connect(changed, sender=model, weak=False, dispatch_uid=name)
        if issubclass(model, (user, *seen, *gone)):
            post_delete.connect(changed, sender=model, weak=False, dispatch_uid=name)
    for field, through in tied.items():
        m2m_changed.connect(related, sender=through, weak=False, dispatch_uid=f"{name}.{field}")
    for through in beneath:
        m2m_changed.connect(related_beneath, sender=through, weak=False, dispatch_uid=name)


def _other_ends(through: type[Model], user: type[Model]) -> list[type[Model]]:
    """The models that these rows tie to `user`; itself, too, where it is at both ends."""
    ends = [field.related_model for field in through._meta.fields if field.is_relation]
    own = [end for end in ends if issubclass(user, end)]
    return [end for end in ends if end not in own] + own[1:]


def is_done(action: str, pk_set: set[Any] | None) -> bool:
    """Whether a many-to-many field has changed by now: a removal says beforehand what it removes."""
    return action.startswith("post_") and (pk_set is None or bool(pk_set))


def is_seen(fields: Collection[str] | None) -> bool:
    """Whether a write of these fields (None: of all) can show in an answer."""
    return fields is None or not UNSEEN.issuperset(fields)


def purge_on_commit(keys: Iterable[str], using: str | None = None) -> None:
    """Drops the copies under these keys once the transaction of this database is committed; now, if there is none."""
    if not cache.is_on():
        return
    connection = connections[using or DEFAULT_DB_ALIAS]
    # Model.delete is an `atomic` without a savepoint, which stands among them as None.
    savepoints = frozenset(connection.savepoint_ids) - {None}
    last = _last_batch(connection)
    if last is not None and last.savepoints == savepoints:
        last.keys.update(keys)
        return
    batch = _Batch(set(keys), savepoints, WeakSet() if last is None else last.transaction)
    try:
        connection.on_commit(batch.purge, robust=True)
    except TransactionManagementError as error:
        logger.warning("%s: copies may be stale until their ttl: %s", " ".join(sorted(batch.keys)), error)


def _last_batch(connection: BaseDatabaseWrapper) -> _Batch | None:
    """The latest batch that this transaction has still to purge."""
    for _, commit_hook, *_ in reversed(connection.run_on_commit):
        batch = getattr(commit_hook, "__self__", None)
        if isinstance(batch, _Batch):
            return batch
    return None


class _Batch:
    """What is to be dropped if these savepoints hold.

    Django forgets the hooks of a savepoint that is rolled back, and with its hook a batch is gone. So whichever batch of
    a transaction runs first purges for all that are still there.
    """

    def __init__(self, keys: set[str], savepoints: frozenset[str], transaction: WeakSet[_Batch]) -> None:
        self.keys = keys
        self.savepoints = savepoints
        self.transaction = transaction
        transaction.add(self)

    def purge(self) -> None:
        batches = list(self.transaction)
        # Empty when a sibling has done it.
        self.transaction.clear()
        keys = set().union(*(batch.keys for batch in batches))
        if len(keys) > MANY:
            keys = {cache.USER_LIST, cache.ALL_USERS}
        if keys:
            cache.invalidate(sorted(keys))
