"""Tokens as many APIs have them: `Authorization: Bearer …`, signed with the settings' secret, for this API and an hour."""

import time

import jwt
from django.conf import settings
from django.contrib.auth import get_user_model
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed

AUDIENCE = "users-api"


def issue(user, seconds=3600):
    claims = {"sub": user.username, "role": user.role, "aud": AUDIENCE, "exp": int(time.time()) + seconds}
    return jwt.encode(claims, settings.JWT_SECRET, algorithm="HS256")


class JWTAuthentication(BaseAuthentication):
    def authenticate(self, request):
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        try:
            claims = jwt.decode(token, settings.JWT_SECRET, algorithms=["HS256"], audience=AUDIENCE)
        except jwt.InvalidTokenError:
            raise AuthenticationFailed("this token is not good")
        user = get_user_model().objects.filter(username=claims["sub"], is_active=True).first()
        if user is None:
            raise AuthenticationFailed("nobody has this token any more")
        return user, token
