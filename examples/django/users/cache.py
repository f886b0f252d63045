"""Larder's copies of the users API, from within Django: the seven functions of the team's guide, by their old names.

Copy this file into the app, and remove the caching from the views: Larder in front of them does that now. What is
left to Django is to tell Larder of writes that do not pass through it; `users/signals.py` and `users/managers.py`
call the functions below for you.

Nothing here raises into a view. What cannot be done is logged as a warning by the logger `users.cache`, and the answer
is `False` or `None`. Larder gets `LARDER_TIMEOUT` seconds to accept the connection and as long for each read of its
answer, so a Larder that hangs costs a write about that; one that is not there costs nothing to speak of.

Settings, each from `django.conf.settings` or else from the environment:

LARDER_ADMIN_URL       Larder's admin listener, http://127.0.0.1:9180 unless said; empty: it is not asked at all. Several,
                       with blanks between: each in turn is told what to drop, as where each tenant has a Larder;
                       the first alone is read and set
LARDER_ADMIN_TOKEN     its `admin_token`, if it has one
LARDER_TIMEOUT         in seconds, 1 unless said
LARDER_REDIS_URL       the store itself, for `invalidate_*` alone, where the admin listener does not do it: the state
                       keys are deleted there. Needs redis-py. Nothing is held by that: with `upstream.lag` what a replica
                       still shows is kept. None unless said
LARDER_REDIS_DATABASE  `store.database` of proxy.yaml, 1 unless said; a path in the URL does not count
LARDER_PREFIX          `store.prefix` of proxy.yaml, `it360acad` unless said; several likewise, in the same order

Works with Django 4.2 and later, and the standard library.
"""

from __future__ import annotations

import json
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterable
from http.client import HTTPException
from typing import Any
from urllib.parse import quote

from django.conf import settings
from django.core.serializers.json import DjangoJSONEncoder

logger = logging.getLogger(__name__)

USER_LIST = "users:list"
ALL_USERS = "users:detail:*"

# More than Larder takes is not sent, and more than it says of one copy is not read.
LARGEST = 16 * 1024 * 1024


class LarderError(Exception):
    """Why Larder did not do it. Only `purge` raises it; the seven functions log it."""


# ---- The seven functions of the team's guide ----


def get_cached_user_list() -> Any | None:
    """The shared copy of `GET /api/users/` as Larder would serve it now, or None.

    It is the copy without a query, that of anonymous readers on a `per-credential` route. What one user may see is not
    for another: do not answer a user with it unless the route is `public`.
    """
    return _get(USER_LIST)


def set_cached_user_list(data: Any) -> bool:
    """Puts `data` there as that shared copy, for the route's `ttl` or until the next write. True if it was stored.

    It counts from the moment it is stored: a write between the query that gave `data` and this call is not noticed.
    So this is for preparing a copy by hand. To keep what a view has just read, do nothing: Larder does, and sees
    such a write.
    """
    return _set(USER_LIST, data)


def invalidate_user_list_cache() -> bool:
    """Drops every copy of the list: all pages, filters, users and languages. True if that is done."""
    return _invalidate([USER_LIST])


def get_cached_user(user_id: Any) -> Any | None:
    """The shared copy of one user, or None; as `get_cached_user_list`."""
    return _get(user_key(user_id))


def set_cached_user(user_id: Any, data: Any) -> bool:
    """Puts `data` there as the shared copy of one user; as `set_cached_user_list`."""
    return _set(user_key(user_id), data)


def invalidate_user_cache(user_id: Any) -> bool:
    """Drops every copy of this one user. True if that is done. The list is another key: see `invalidate_user_list_cache`."""
    return _invalidate([user_key(user_id)])


def invalidate_all_user_caches() -> bool:
    """Drops every copy of the list and of all users, however many there are, at a constant cost. True if that is done."""
    return _invalidate([USER_LIST, ALL_USERS])


# ---- What they, the signals and the command are made of ----


def user_key(user_id: Any) -> str:
    """The key of one user, spelled as Larder spells it: `users:detail:7`."""
    # `quote` leaves `~` alone, with which Larder's own suffixes begin.
    return "users:detail:" + quote(str(user_id), safe="").replace("~", "%7E")


def invalidate(keys: Iterable[str]) -> bool:
    """Drops every copy under these keys. True if that is done; a failure is logged."""
    return _invalidate(list(keys))


def is_on() -> bool:
    """Whether there is anybody to tell: with `LARDER_ADMIN_URL` empty and no `LARDER_REDIS_URL` there is not."""
    return bool(_setting("LARDER_ADMIN_URL") or _setting("LARDER_REDIS_URL"))


def purge(keys: list[str], soft: bool = False) -> None:
    """Drops every copy under these keys, or raises LarderError with the reason. Softly, copies are served until they are
    fetched anew, when they are next asked for: not for what a reader must not see any more.

    Where the admin listener does not do it and `LARDER_REDIS_URL` is set, their state keys are deleted there instead,
    which drops them on every instance.
    """
    body = json.dumps({"keys": keys, "soft": soft}).encode()
    urls, prefixes = _admin_urls() or [""], _setting("LARDER_PREFIX").split()
    failures = {}
    for at, url in enumerate(urls):
        try:
            _ask("POST", "/purge", body, url)
        except LarderError as error:
            failures[at] = str(error)
    if not failures:
        return
    error = LarderError("; ".join(failures.values()))
    if not _setting("LARDER_REDIS_URL"):
        raise error
    # Where it is done, its state may hold something by now.
    if len(prefixes) == len(urls):
        prefixes = [prefixes[at] for at in failures]
    _delete_states([state_key(prefix, key) for prefix in prefixes for key in keys], error)


def state_key(prefix: str, key: str) -> str:
    """The key in Redis that all copies under a key hang on."""
    state = f"{key.removesuffix(':*')}~all" if "*" in key else f"{key}~state"
    return f"{prefix}:{state}"


_DEFAULTS = {
    "LARDER_ADMIN_URL": "http://127.0.0.1:9180",
    "LARDER_TIMEOUT": "1",
    "LARDER_REDIS_DATABASE": "1",
    "LARDER_PREFIX": "it360acad",
}

# An `http_proxy` in the environment is for the world outside, and a redirection is not Larder's.
_opener = urllib.request.OpenerDirector()
for _handler in (
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPErrorProcessor,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.UnknownHandler,
):
    _opener.add_handler(_handler())


def _setting(name: str) -> str:
    value = getattr(settings, name, None)
    if value is None:
        value = os.environ.get(name, _DEFAULTS.get(name, ""))
    return str(value)


def _admin_urls() -> list[str]:
    return [url.rstrip("/") for url in _setting("LARDER_ADMIN_URL").split()]


def _timeout() -> float:
    return float(_setting("LARDER_TIMEOUT"))


def _get(key: str) -> Any | None:
    if not _setting("LARDER_ADMIN_URL"):
        return None
    try:
        entry = _ask("GET", _entry(key))
    except LarderError as error:
        logger.warning("%s was not read from Larder: %s", key, error)
        return None
    return entry.get("body") if entry.get("valid") else None


def _set(key: str, data: Any) -> bool:
    if not _setting("LARDER_ADMIN_URL"):
        return False
    try:
        body = json.dumps(data, cls=DjangoJSONEncoder, allow_nan=False).encode()
        _ask("PUT", _entry(key), body)
    except (LarderError, TypeError, ValueError, RecursionError) as error:
        logger.warning("%s was not stored in Larder: %s", key, error)
        return False
    return True


def _invalidate(keys: list[str]) -> bool:
    if not is_on():
        return False
    try:
        purge(keys)
    except LarderError as error:
        logger.warning("%s: copies may be stale until their ttl, Larder did not drop them: %s", " ".join(keys), error)
        return False
    return True


def _entry(key: str) -> str:
    return "/entries/" + quote(key, safe=":")


def _ask(method: str, path: str, body: bytes | None = None, url: str | None = None) -> dict[str, Any]:
    """What the admin listener answers, the first unless said; nothing at all to a GET of what is not there."""
    if url is None:
        url = next(iter(_admin_urls()), "")
    if not url:
        raise LarderError("LARDER_ADMIN_URL is empty")
    if body is not None and len(body) > LARGEST:
        raise LarderError(f"{len(body)} bytes are too many")
    try:
        request = urllib.request.Request(url + path, data=body, method=method)
        request.add_header("Content-Type", "application/json")
        if token := _setting("LARDER_ADMIN_TOKEN"):
            request.add_header("Authorization", f"Bearer {token}")
        with _opener.open(request, timeout=_timeout()) as response:
            told = json.loads(response.read(2 * LARGEST))
    except urllib.error.HTTPError as error:
        with error:
            detail = _detail(error)
            # Anybody else's 404 is a page of HTML, mostly, and a wrong URL.
            if error.code == 404 and method == "GET" and detail:
                return {}
            raise LarderError(f"{url} answers {error.code}: {detail or error.reason}") from None
    except (OSError, HTTPException) as error:
        raise LarderError(f"{url}: {error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise LarderError(f"{url} does not answer as Larder does") from None
    except ValueError:
        # What is said of a token that is no field value repeats it.
        raise LarderError("LARDER_ADMIN_URL, LARDER_ADMIN_TOKEN or LARDER_TIMEOUT cannot be used as it is") from None
    if not isinstance(told, dict):
        raise LarderError(f"{url} does not answer as Larder does")
    return told


def _detail(error: urllib.error.HTTPError) -> str:
    """What Larder says with a failure; nothing if this is not Larder."""
    try:
        return str(json.loads(error.read(65536))["detail"])
    except (OSError, HTTPException, ValueError, LookupError, TypeError):
        return ""


def _delete_states(states: list[str], because: LarderError) -> None:
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError:
        raise LarderError(f"{because}; and for LARDER_REDIS_URL redis-py is not installed") from because
    try:
        limit = _timeout()
        url = _setting("LARDER_REDIS_URL").replace("redis+unix://", "unix://", 1)
        pool = redis.ConnectionPool.from_url(
            url, socket_timeout=limit, socket_connect_timeout=limit, retry=Retry(NoBackoff(), 0)
        )
        # A path in the URL would win over an argument, and in a Django project that is Celery's.
        pool.connection_kwargs["db"] = int(_setting("LARDER_REDIS_DATABASE"))
        try:
            redis.Redis(connection_pool=pool).delete(*states)
        finally:
            pool.disconnect()
    # A URL that cannot be read is a ValueError, a name that is not found an OSError.
    except Exception as error:
        # The URL may hold a password, and so may what a parser says of it.
        why = str(error) if isinstance(error, redis.RedisError) else type(error).__name__
        raise LarderError(f"{because}; and in Redis: {why}") from None
    logger.info("%s: deleted in Redis, as %s", " ".join(states), because)
