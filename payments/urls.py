from django.urls import path

from payments import gateway, views

urlpatterns = [
    path("payments/<str:number>", views.PaymentView.as_view(), name="payment"),
    path("payments/<str:number>/refunds", views.RefundsView.as_view(), name="payment-refunds"),
    path("refunds/<str:number>", views.RefundView.as_view(), name="refund"),
    path(f"webhooks/{gateway.NAME}", views.provider_webhook, name="provider-webhook"),
]
