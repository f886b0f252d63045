"""Makes `users` a Django app that tells Larder of its writes."""

from django.apps import AppConfig


class UsersConfig(AppConfig):
    name = "users"

    def ready(self) -> None:
        # Only now are there models.
        from django.contrib.auth import get_user_model

        from users import signals

        # Leave `groups` out if your serializer does not show them. `lookup="username"` if your paths name users so;
        # `others=[Profile]` for what else they show something of.
        signals.connect(get_user_model(), shown=["groups"])
