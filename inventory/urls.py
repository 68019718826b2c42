from django.urls import path

from inventory import views

urlpatterns = [
    path("stock", views.StockListView.as_view(), name="stock-list"),
    path("stock/<str:product>", views.StockView.as_view(), name="stock"),
    path("stock/<str:product>/restock", views.RestockView.as_view(), name="stock-restock"),
    path("stock/<str:product>/deduct", views.DeductView.as_view(), name="stock-deduct"),
    path("stock/<str:product>/release", views.ReleaseView.as_view(), name="stock-release"),
]
