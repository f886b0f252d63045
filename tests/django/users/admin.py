"""Users in the admin, which Larder forwards and never keeps."""

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin

from users.models import User

admin.site.register(User, UserAdmin)
