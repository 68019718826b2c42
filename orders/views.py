"""The API of orders: check out, look, cancel, pay again, ship, complete."""

from typing import Any, ClassVar

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from durability import selectors as durability_reads
from durability import services as durability
from durability.errors import IdempotencyKeyInUse
from durability.http import answer_in_two, answer_once
from durability.types import Answer, Lease
from foundation.api import page, problem, validated
from foundation.errors import InvalidInput
from foundation.permissions import caller
from foundation.schema import idempotency_header, page_schema
from orders import selectors, services
from orders.errors import OrderAlreadyPaid, OrderNotOpen, PaymentStillProcessing
from orders.serializers import (
    CheckoutDocument,
    CheckoutRequest,
    NothingRequest,
    OrderDocument,
    PaymentRequest,
    ShipRequest,
    order_json,
    wish_of,
)
from orders.states import OrderStatus
from orders.types import Customer, OrderView, Wanted
from payments import services as payments
from payments.documents import PaymentDocument, payment_json
from payments.errors import PaymentInProgress, ProviderUnavailable, StoreCreditInsufficient
from payments.metrics import PAYMENT_REQUEST_DURATION
from payments.states import PAYMENT_LIVE, PaymentStatus
from payments.types import PaymentView

READERS = {"storefront", "operations"}
_STATUSES = {"pending", "paid", "shipped", "completed", "cancelled"}


def with_secret(payment: dict[str, Any]) -> dict[str, Any]:
    """A payment's document with the secret that the buyer's browser confirms with, while it is of use."""
    secret = payments.client_secret(payment["number"]) if payment["status"] in ("pending", "requires_action") else ""
    return {**payment, "client_secret": secret} if secret else payment


def payment_answer(order: OrderView, payment: PaymentView, *, path: str, body: dict[str, Any]) -> Answer:
    """201 with the payment as it stands, 402 where our confirmation was declined, 424 where it was refused."""
    if payment.status != PaymentStatus.FAILED or payment.failure is None:
        return Answer(201, body, final=payment.status != PaymentStatus.UNKNOWN)
    failure = payment.failure
    members: dict[str, Any] = {"order": order_json(order), "payment": payment_json(payment)}
    if failure.code.startswith("card_") or failure.decline_code:
        members["decline_code"] = failure.decline_code or failure.code
        return Answer(
            402, problem(status=402, code="card_declined", detail=failure.message, instance=path, members=members)
        )
    return Answer(
        424,
        problem(
            status=424,
            code="provider_error",
            detail=f"The payment provider refused to open the payment: {failure.message}",
            instance=path,
            members=members,
        ),
    )


class CheckoutView(APIView):
    """POST /checkout"""

    scopes: ClassVar = {"POST": {"storefront"}}

    @extend_schema(
        operation_id="checkout",
        parameters=[
            idempotency_header(),
            OpenApiParameter("Prefer", location=OpenApiParameter.HEADER, description="respond-async"),
        ],
        request=CheckoutRequest,
        responses={201: CheckoutDocument},
    )
    @PAYMENT_REQUEST_DURATION.time()
    def post(self, request: Request) -> Response:
        body = validated(CheckoutRequest, request.data)
        at_once = "respond-async" not in request.headers.get("Prefer", "")
        leases: list[Lease] = []

        def begin() -> str:
            placed = services.place_order(
                merchant_id=caller(request).merchant_id,
                customer=Customer(**body["customer"]),
                wanted=[Wanted(**item) for item in body["items"]],
                wish=wish_of(body.get("payment", {})),
                hold=at_once,
            )
            leases[:] = [placed.lease] if placed.lease else []
            return placed.order

        def finish(number: str) -> Answer:
            held = at_once and go_on("orders.checkout", number, leases)
            order = selectors.get_order(number)
            payment = order.payments[0]
            if held and payment.status == PaymentStatus.PENDING and not payment.provider_reference:
                raise IdempotencyKeyInUse  # the request that took the key is at it right now
            answer = {"order": order_json(order), "payment": payment_json(payment)}
            return payment_answer(order, payment, path=request.path, body=answer)

        def decorate(answer: dict[str, Any]) -> dict[str, Any]:
            return {**answer, "payment": with_secret(answer["payment"])} if "code" not in answer else answer

        return answer_in_two(request, begin=begin, finish=finish, decorate=decorate)


def go_on(recipe: str, key: str, leases: list[Lease]) -> bool:
    """Work on a saga within its request: under the lease that it began with, or by taking over where a try died.

    True if somebody else is at it, or it rests until its next attempt.
    """
    if leases:
        durability.advance_saga(leases[0])
        return False
    durability.resume_saga(recipe, key=key)
    return durability_reads.saga_is_held(recipe, key=key)


class OrdersView(APIView):
    """GET /orders"""

    scopes: ClassVar = {"GET": READERS}

    @extend_schema(
        operation_id="order_list",
        parameters=[OpenApiParameter("customer"), OpenApiParameter("status", enum=sorted(_STATUSES))],
        responses=page_schema("OrderPage", OrderDocument),
    )
    def get(self, request: Request) -> Response:
        status = request.query_params.get("status", "")
        if status and status not in _STATUSES:
            raise InvalidInput(f"status is one of {', '.join(sorted(_STATUSES))}.", param="status")
        rows = selectors.orders_of(
            merchant_id=caller(request).merchant_id,
            customer=request.query_params.get("customer", ""),
            status=status,
        )
        return page(request, rows, lambda shown: [order_json(order) for order in selectors.views(shown)])


class OrderDetailView(APIView):
    """GET /orders/{number}"""

    scopes: ClassVar = {"GET": READERS}

    @extend_schema(operation_id="order_get", responses=OrderDocument)
    def get(self, request: Request, number: str) -> Response:
        return Response(order_json(selectors.get_order(number, merchant_id=caller(request).merchant_id)))


class CancelView(APIView):
    """POST /orders/{number}/cancel"""

    scopes: ClassVar = {"POST": READERS}

    @extend_schema(
        operation_id="order_cancel",
        parameters=[idempotency_header()],
        request=NothingRequest,
        responses=OrderDocument,
    )
    def post(self, request: Request, number: str) -> Response:
        validated(NothingRequest, request.data)
        leases: list[Lease] = []

        def begin() -> str:
            lease = services.request_cancel(
                number=number,
                merchant_id=caller(request).merchant_id,
                unpaid_only="operations" not in caller(request).scopes,
                by="api",
                hold=True,
            )
            leases[:] = [lease] if lease else []
            return number

        def finish(subject: str) -> Answer:
            if leases:
                durability.advance_saga(leases[0])
            return cancel_answer(selectors.get_order(subject), first=bool(leases))

        return answer_in_two(request, begin=begin, finish=finish)


def cancel_answer(order: OrderView, *, first: bool) -> Answer:
    """200 once the order is cancelled, or its refund is on the way. Nothing else is final: a retry asks again.

    Raises OrderAlreadyPaid where the customer's payment was faster than the cancellation, PaymentStillProcessing,
    and, where the provider has not answered yet, ProviderUnavailable (to the first) or IdempotencyKeyInUse.
    """
    if order.status == OrderStatus.CANCELLED or order.refund_status in ("refunding", "refunded"):
        return Answer(200, order_json(order))
    paid = [payment.number for payment in order.payments if payment.settling]
    if paid:
        raise OrderAlreadyPaid(members={"payment": paid[0]})
    if any(payment.status == PaymentStatus.PROCESSING for payment in order.payments):
        raise PaymentStillProcessing
    if first:
        raise ProviderUnavailable(
            "The cancellation is under way: ask again in a moment, with the same Idempotency-Key."
        )
    raise IdempotencyKeyInUse


class ShipView(APIView):
    """POST /orders/{number}/ship"""

    scopes: ClassVar = {"POST": {"operations"}}

    @extend_schema(
        operation_id="order_ship",
        parameters=[idempotency_header()],
        request=ShipRequest,
        responses=OrderDocument,
    )
    def post(self, request: Request, number: str) -> Response:
        body = validated(ShipRequest, request.data)

        def effect() -> Answer:
            services.ship_order(
                number=number,
                merchant_id=caller(request).merchant_id,
                carrier=body.get("carrier", ""),
                tracking=body.get("tracking", ""),
                by="api",
            )
            return Answer(200, order_json(selectors.get_order(number)))

        return answer_once(request, effect)


class CompleteView(APIView):
    """POST /orders/{number}/complete"""

    scopes: ClassVar = {"POST": {"operations"}}

    @extend_schema(
        operation_id="order_complete",
        parameters=[idempotency_header()],
        request=NothingRequest,
        responses=OrderDocument,
    )
    def post(self, request: Request, number: str) -> Response:
        validated(NothingRequest, request.data)

        def effect() -> Answer:
            services.complete_order(number=number, merchant_id=caller(request).merchant_id, by="api")
            return Answer(200, order_json(selectors.get_order(number)))

        return answer_once(request, effect)


class AttemptsView(APIView):
    """POST /orders/{number}/payments"""

    scopes: ClassVar = {"POST": {"storefront"}}

    @extend_schema(
        operation_id="payment_create",
        parameters=[idempotency_header()],
        request=PaymentRequest,
        responses={201: PaymentDocument},
    )
    @PAYMENT_REQUEST_DURATION.time()
    def post(self, request: Request, number: str) -> Response:
        wish = wish_of(validated(PaymentRequest, request.data))
        leases: list[Lease] = []

        def begin() -> str:
            payment, lease = services.begin_attempt(number=number, merchant_id=caller(request).merchant_id, wish=wish)
            leases[:] = [lease] if lease else []
            return payment

        def finish(payment: str) -> Answer:
            go_on("orders.new_attempt", payment, leases)
            order = selectors.get_order(number)
            made = [one for one in order.payments if one.number == payment]
            if not made:
                paid = [one.number for one in order.payments if one.settling]
                if paid or order.status != OrderStatus.PENDING:
                    raise OrderAlreadyPaid(members={"payment": paid[0]}) if paid else OrderNotOpen()
                if durability_reads.saga_is_finished("orders.new_attempt", key=payment):
                    if wish.store_credit_minor and not any(one.status in PAYMENT_LIVE for one in order.payments):
                        raise StoreCreditInsufficient  # another checkout of this customer was faster
                    raise PaymentInProgress  # another attempt was faster, or the earlier one went on
                raise IdempotencyKeyInUse  # the earlier attempt is still being cancelled; a worker goes on
            return payment_answer(order, made[0], path=request.path, body=payment_json(made[0]))

        def decorate(answer: dict[str, Any]) -> dict[str, Any]:
            return answer if "type" in answer else with_secret(answer)

        return answer_in_two(request, begin=begin, finish=finish, decorate=decorate)
