"""The API of payments and refunds, and the door for the provider's webhooks."""

from typing import ClassVar

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from catalog import selectors as catalog
from durability.http import answer_once
from durability.types import Answer
from foundation.api import PROBLEM_TYPE, problem, validated
from foundation.permissions import caller
from foundation.schema import answers, idempotency_header, in_path, refuses, takes
from payments import examples, selectors, services
from payments.documents import PaymentDocument, RefundDocument, is_confirmable, payment_document, refund_json
from payments.errors import (
    PaymentDisputed,
    PaymentNotRefundable,
    RefundExceedsCaptured,
    RefundWindowClosed,
    SignatureInvalid,
)
from payments.serializers import RefundRequest
from payments.types import RefundPolicy

READERS = {"storefront", "operations"}
_PAYMENT = in_path("number", "The payment's number.", examples.PAYMENT_NUMBER)


class PaymentView(APIView):
    """GET /payments/{number}"""

    scopes: ClassVar = {"GET": READERS}

    @extend_schema(
        operation_id="payment_get",
        parameters=[_PAYMENT],
        responses={200: answers(PaymentDocument, paid=examples.PAID, to_be_confirmed=examples.CONFIRMABLE)},
    )
    def get(self, request: Request, number: str) -> Response:
        """One payment.

        While the buyer can still confirm it, with the `client_secret` that their browser needs.
        """
        payment = payment_document(number, merchant_id=caller(request).merchant_id)
        secret = services.client_secret(number) if is_confirmable(payment) else ""
        document = {**payment, **({"client_secret": secret} if secret else {})}
        return Response(document, headers={"Cache-Control": "no-store"})


class RefundsView(APIView):
    """POST /payments/{number}/refunds"""

    scopes: ClassVar = {"POST": {"operations"}}

    @extend_schema(
        operation_id="refund_create",
        parameters=[_PAYMENT, idempotency_header()],
        request=takes(RefundRequest, a_part=examples.REFUND_A_PART, all_of_it=examples.REFUND_ALL),
        responses={201: answers(RefundDocument, refund=examples.REFUND)},
    )
    @refuses(PaymentNotRefundable, RefundExceedsCaptured, PaymentDisputed, RefundWindowClosed)
    def post(self, request: Request, number: str) -> Response:
        """Refund a payment.

        Without an amount: all that the merchant's policy allows. The money is on its way when the refund has succeeded; until
        then ask for it, or listen to our webhooks.
        """
        body = validated(RefundRequest, request.data)
        merchant = catalog.get_merchant(caller(request).merchant_id)

        def effect() -> Answer:
            refund = services.request_refund(
                payment=number,
                amount_minor=body.get("amount"),
                reason=body["reason"],
                requested_by="api",  # the merchant's system: above the limit any member of staff is a second person
                policy=RefundPolicy(
                    merchant.refund_window_days, merchant.refund_ratio_bp, merchant.refund_fee_minor, merchant.currency
                ),
                merchant_id=merchant.id,
            )
            return Answer(201, refund_json(selectors.get_refund(refund)))

        return answer_once(request, effect)


class RefundView(APIView):
    """GET /refunds/{number}"""

    scopes: ClassVar = {"GET": READERS}

    @extend_schema(
        operation_id="refund_get",
        parameters=[in_path("number", "The refund's number.", examples.REFUND_NUMBER)],
        responses={200: answers(RefundDocument, refund=examples.REFUNDED)},
    )
    def get(self, request: Request, number: str) -> Response:
        """One refund."""
        return Response(refund_json(selectors.get_refund(number, merchant_id=caller(request).merchant_id)))


@csrf_exempt
def provider_webhook(request: HttpRequest) -> HttpResponse:
    """POST /webhooks/stripe: 200 once stored, 400 for a bad signature. The work is a worker's."""
    if request.method != "POST":
        return _refusal(request, 405, "method_not_allowed", "Webhooks are posted.", headers={"Allow": "POST"})
    try:
        new = services.receive_webhook(payload=request.body, headers=request.headers)
    except SignatureInvalid as error:
        return _refusal(request, error.status, error.code, error.detail)
    return JsonResponse({"received": True, "new": new})


def _refusal(
    request: HttpRequest, status: int, code: str, detail: str, *, headers: dict[str, str] | None = None
) -> HttpResponse:
    document = problem(status=status, code=code, detail=detail, instance=request.path)
    return JsonResponse(document, status=status, content_type=PROBLEM_TYPE, headers=headers)
