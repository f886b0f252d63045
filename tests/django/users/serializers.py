"""A user as JSON. The email address is shown to oneself and to editors only, so each credential has a list of its own."""

from django.conf import settings
from rest_framework import serializers

from users import roles
from users.models import User


class UserSerializer(serializers.ModelSerializer):
    role_display = serializers.SerializerMethodField()

    class Meta:
        model = User
        fields = [
            "id",
            "username",
            "first_name",
            "last_name",
            "email",
            "role",
            "role_display",
            "is_active",
            "password",
        ]
        extra_kwargs = {"password": {"write_only": True, "required": False}}

    def get_role_display(self, user):
        return roles.display(user.role)

    def to_representation(self, user):
        shown = super().to_representation(user)
        viewer = self.context["request"].user
        if not viewer.is_authenticated or not (viewer.is_editor or viewer.pk == user.pk):
            shown["email"] = None
        return shown

    def create(self, validated):
        return User.objects.create_user(**validated)

    def update(self, user, validated):
        password = validated.pop("password", None)
        if password is not None:
            user.set_password(password)
        return super().update(user, validated)


class MeSerializer(UserSerializer):
    """What a user may change about themselves: not who they are allowed to be."""

    class Meta(UserSerializer.Meta):
        read_only_fields = ["username", "role", "is_active"]


class BulkSerializer(serializers.Serializer):
    ids = serializers.ListField(child=serializers.UUIDField() if settings.UUID_IDS else serializers.IntegerField(), allow_empty=False)
    role = serializers.ChoiceField(choices=roles.Role.choices, required=False)
    is_active = serializers.BooleanField(required=False)
