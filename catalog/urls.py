from django.urls import path

from catalog import views

urlpatterns = [
    path("products", views.ProductsView.as_view(), name="products"),
    path("products/<str:product>", views.ProductView.as_view(), name="product"),
]
