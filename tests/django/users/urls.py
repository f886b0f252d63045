"""Paths below /api/users/: proxy.yaml writes them the same way."""

from django.conf import settings
from django.urls import path

from users import views

ID = "<uuid:pk>" if settings.UUID_IDS else "<int:pk>"

urlpatterns = [
    path("", views.UserList.as_view()),
    path("me/", views.Me.as_view()),
    path("bulk/", views.Bulk.as_view()),
    path(f"{ID}/", views.UserDetail.as_view()),
    path(f"{ID}/activate/", views.Activate.as_view()),
]
