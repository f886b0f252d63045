"""The views below /api/users/."""

from django.shortcuts import get_object_or_404
from rest_framework import filters, generics, pagination, permissions
from rest_framework.response import Response
from rest_framework.settings import api_settings
from rest_framework.views import APIView

from users.models import User
from users.serializers import BulkSerializer, MeSerializer, UserSerializer


class EditorsWrite(permissions.BasePermission):
    """Reading is settled by the default permission beside this one; writing is for admins and teachers."""

    def has_permission(self, request, view):
        return request.method in permissions.SAFE_METHODS or (
            request.user.is_authenticated and request.user.is_editor
        )


class Pages(pagination.PageNumberPagination):
    page_size = 10
    page_size_query_param = "page_size"
    max_page_size = 200


class RoleFilter(filters.BaseFilterBackend):
    def filter_queryset(self, request, queryset, view):
        role = request.query_params.get("role")
        return queryset if role is None else queryset.filter(role=role)


class UserList(generics.ListCreateAPIView):
    queryset = User.objects.all()
    serializer_class = UserSerializer
    permission_classes = [*api_settings.DEFAULT_PERMISSION_CLASSES, EditorsWrite]
    pagination_class = Pages
    filter_backends = [RoleFilter, filters.SearchFilter, filters.OrderingFilter]
    search_fields = ["username", "first_name", "last_name"]
    ordering_fields = ["username", "first_name", "last_name", "role", "date_joined"]


class UserDetail(generics.RetrieveUpdateDestroyAPIView):
    queryset = User.objects.all()
    serializer_class = UserSerializer
    permission_classes = [*api_settings.DEFAULT_PERMISSION_CLASSES, EditorsWrite]


class Me(generics.RetrieveUpdateAPIView):
    serializer_class = MeSerializer
    permission_classes = [permissions.IsAuthenticated]

    def get_object(self):
        return self.request.user


class Activate(APIView):
    permission_classes = [permissions.IsAuthenticated, EditorsWrite]

    def post(self, request, pk):
        user = get_object_or_404(User, pk=pk)
        user.is_active = True
        user.save(update_fields=["is_active"])
        return Response(UserSerializer(user, context={"request": request}).data)


class Bulk(APIView):
    permission_classes = [permissions.IsAuthenticated, EditorsWrite]

    def post(self, request):
        bulk = BulkSerializer(data=request.data)
        bulk.is_valid(raise_exception=True)
        ids = bulk.validated_data.pop("ids")
        # `update()` fires no signal: a cache inside Django that listens to post_save would miss it.
        return Response({"updated": User.objects.filter(pk__in=ids).update(**bulk.validated_data)})
