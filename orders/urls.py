from django.urls import path

from orders import views

urlpatterns = [
    path("checkout", views.CheckoutView.as_view(), name="checkout"),
    path("orders", views.OrdersView.as_view(), name="orders"),
    path("orders/<str:number>", views.OrderDetailView.as_view(), name="order"),
    path("orders/<str:number>/cancel", views.CancelView.as_view(), name="order-cancel"),
    path("orders/<str:number>/ship", views.ShipView.as_view(), name="order-ship"),
    path("orders/<str:number>/complete", views.CompleteView.as_view(), name="order-complete"),
    path("orders/<str:number>/payments", views.AttemptsView.as_view(), name="order-payments"),
]
