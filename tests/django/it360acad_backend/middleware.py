"""What the tests need around every view."""

import json
import os

from django.conf import settings
from django.core.exceptions import MiddlewareNotUsed
from django.utils.cache import patch_vary_headers


class RequestLog:
    """One line of JSON per request in the file named by DJANGO_REQUEST_LOG, so that a test can prove what reached Django."""

    def __init__(self, get_response):
        if not settings.REQUEST_LOG:
            raise MiddlewareNotUsed
        self.get_response = get_response
        self.file = os.open(settings.REQUEST_LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def __call__(self, request):
        response = self.get_response(request)
        meta = request.META
        line = {
            "method": request.method,
            # As it came over the wire: PATH_INFO is percent-decoded already.
            "target": meta.get("RAW_URI") or request.get_full_path(),
            "status": response.status_code,
            "host": meta.get("HTTP_HOST"),
            "x_forwarded_for": meta.get("HTTP_X_FORWARDED_FOR"),
            "content_length": meta.get("CONTENT_LENGTH"),
            "authorization": "HTTP_AUTHORIZATION" in meta,
            "cookie": "HTTP_COOKIE" in meta,
        }
        # One write to a file opened for appending: lines of several workers never mix. It comes before the answer
        # leaves, so whoever has the answer finds the line.
        os.write(self.file, json.dumps(line).encode() + b"\n")
        return response


class Tenants:
    """Each answer names the tenant that it is for, from the X-Tenant of its request, and says that it varies by it."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        response = self.get_response(request)
        response["X-For-Tenant"] = request.headers.get("X-Tenant", "nobody")
        patch_vary_headers(response, ["X-Tenant"])
        return response
