"""The roles, and their names in three languages: what makes an answer depend on Accept-Language.
A dict keyed by language stands in for compiled .mo files, which would need the gettext tools to make."""

from django.db import models
from django.utils.translation import get_language


class Role(models.TextChoices):
    ADMIN = "admin"
    TEACHER = "teacher"
    STUDENT = "student"
    PARENT = "parent"


NAMES = {
    "en": {"admin": "Administrator", "teacher": "Teacher", "student": "Student", "parent": "Parent"},
    "de": {"admin": "Verwaltung", "teacher": "Lehrkraft", "student": "Schüler", "parent": "Elternteil"},
    "ru": {"admin": "Администратор", "teacher": "Учитель", "student": "Ученик", "parent": "Родитель"},
}


def display(role):
    return NAMES.get(get_language(), NAMES["en"])[role]
