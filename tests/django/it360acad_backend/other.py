"""An endpoint no route names: it says what it was asked, so that a test can see a request arrive unchanged."""

from django.http import JsonResponse
from django.views.decorators.csrf import csrf_exempt


@csrf_exempt
def other(request):
    return JsonResponse(
        {
            "method": request.method,
            "target": request.META.get("RAW_URI"),
            "headers": dict(request.headers),
            "body": request.body.decode("latin-1"),
        },
        json_dumps_params={"ensure_ascii": False},
    )
