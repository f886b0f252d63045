"""`manage.py larder_purge`: drops Larder's copies by hand.

Exit status 0 if they are dropped, 1 if not, with the reason; 2 if it was not said what to drop.
"""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from users import cache


class Command(BaseCommand):
    help = "Drops Larder's copies of the user list (`list`), of single users (their ids), or of all (`--all`)."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("what", nargs="*", metavar="list | ID", help="the list, or the id of a user")
        parser.add_argument("--all", action="store_true", help="the list and all users")
        parser.add_argument("--soft", action="store_true", help="served until fetched anew, when next asked for")

    def handle(self, *args: Any, what: list[str], **options: Any) -> None:
        if bool(what) == options["all"]:
            raise CommandError("say what to drop: `list`, ids of users, or --all alone", returncode=2)
        keys = [cache.USER_LIST if name == "list" else cache.user_key(name) for name in what]
        if options["all"]:
            keys = [cache.USER_LIST, cache.ALL_USERS]
        try:
            cache.purge(keys, soft=options["soft"])
        except cache.LarderError as error:
            raise CommandError(f"nothing is known to be dropped: {error}")
        word = "outdated" if options["soft"] else "purged"
        for key in keys:
            self.stdout.write(f"{word} {key}")
