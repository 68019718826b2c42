"""What the events of a payment and of a refund have in common."""

from typing import Any

from payments.models import Payment, Refund


def about(payment: Payment) -> dict[str, Any]:
    """The common payload of a payment's events."""
    return {
        "payment": payment.number,
        "merchant_id": str(payment.merchant_id),
        "reference": payment.reference,
        "amount_minor": payment.amount_minor,
        "credit_minor": payment.credit_minor,
        "currency": payment.currency,
        "provider_reference": payment.provider_reference or "",
    }


def about_refund(refund: Refund, payment: Payment) -> dict[str, Any]:
    """The common payload of a refund's events."""
    return {
        "refund": refund.number,
        "payment": payment.number,
        "merchant_id": str(refund.merchant_id),
        "reference": payment.reference,
        "amount_minor": refund.amount_minor,
        "credit_minor": refund.credit_minor,
        "currency": refund.currency,
        "provider_reference": refund.provider_reference or "",
    }
