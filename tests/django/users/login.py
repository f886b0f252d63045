"""Getting a credential: a token, or a session cookie."""

from django.contrib import auth
from django.http import JsonResponse
from django.middleware.csrf import get_token
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST
from rest_framework.authtoken.views import obtain_auth_token as token  # noqa: F401


@csrf_exempt
@require_POST
def login(request):
    """Form fields `username` and `password`; sets the session cookie and the CSRF cookie that writes with it need."""
    user = auth.authenticate(request, username=request.POST.get("username"), password=request.POST.get("password"))
    if user is None:
        return JsonResponse({"detail": "wrong username or password"}, status=400)
    auth.login(request, user)
    return JsonResponse({"username": user.username, "csrf_token": get_token(request)})


@csrf_exempt
@require_POST
def logout(request):
    auth.logout(request)
    return JsonResponse({})
