"""Everything the project answers. Larder's proxy.yaml names only what is below /api/users/."""

from django.contrib import admin
from django.urls import include, path

from it360acad_backend.other import other
from users.login import login, logout, token

urlpatterns = [
    path("admin/", admin.site.urls),
    path("api/auth/token/", token),
    path("api/auth/login/", login),
    path("api/auth/logout/", logout),
    path("api/other/", other),
    path("api/users/", include("users.urls")),
]
