"""The API of orders: check out, look, cancel, pay again, ship, complete."""

from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from durability import selectors as durability_reads
from durability import services as durability
from durability.errors import IdempotencyKeyInUse
from durability.http import answer_begun, answer_in_two, answer_once
from durability.types import Answer, Claimed, Fingerprint, Lease, NoAnswer
from foundation.api import known_params, page, problem, text_param, validated
from foundation.errors import DomainError, IllegalTransition, InvalidInput
from foundation.permissions import caller
from foundation.schema import (
    PAGE,
    answers,
    answers_page,
    idempotency_header,
    in_header,
    in_path,
    in_query,
    refuses,
    takes,
)
from inventory.errors import InsufficientStock
from orders import examples, selectors, services
from orders.errors import (
    CardDeclined,
    CurrencyMixed,
    NothingToPay,
    OrderAlreadyPaid,
    OrderDisputed,
    OrderNotOpen,
    PaymentNotOpened,
    PaymentStillProcessing,
    ProductNotFound,
)
from orders.serializers import (
    ORDER_STATUSES,
    CheckoutDocument,
    CheckoutRequest,
    NothingRequest,
    OrderDocument,
    PaymentRequest,
    ShipRequest,
    order_document,
    order_json,
    wish_of,
)
from orders.states import OrderStatus
from orders.types import Customer, OrderView, Wanted
from payments import examples as payment_examples
from payments import services as payments
from payments.documents import PaymentDocument, payment_json
from payments.errors import (
    PaymentDisputed,
    PaymentInProgress,
    ProviderUnavailable,
    StoreCreditExceedsTotal,
    StoreCreditInsufficient,
)
from payments.metrics import PAYMENT_REQUEST_DURATION
from payments.states import PAYMENT_CONFIRMABLE, PAYMENT_LIVE, PaymentStatus
from payments.types import PaymentView

READERS = {"storefront", "operations"}
_ORDER = in_path("number", "The order's number.", examples.ORDER_NUMBER)


def _by(request: Request) -> str:
    """Who caused it, for the order's history: the key, by its name and the part of it that may be shown."""
    return f"API key {caller(request)}"[:100]


def with_secret(payment: dict[str, Any]) -> dict[str, Any]:
    """A payment's document with the secret that the buyer's browser confirms with, while it is of use."""
    secret = payments.client_secret(payment["number"]) if payment["status"] in PAYMENT_CONFIRMABLE else ""
    return {**payment, "client_secret": secret} if secret else payment


def payment_answer(order: OrderView, payment: PaymentView, *, path: str, body: dict[str, Any]) -> Answer:
    """201 with the payment as it stands, 402 where our confirmation was declined, 424 where it was refused."""
    if payment.status != PaymentStatus.FAILED or payment.failure is None:
        return Answer(201, body, final=payment.status != PaymentStatus.UNKNOWN)
    failure = payment.failure
    members: dict[str, Any] = {"order": order_json(order), "payment": payment_json(payment)}
    if failure.code.startswith("card_") or failure.decline_code:
        members["decline_code"] = failure.decline_code or failure.code
        return _refused(CardDeclined(failure.message, members=members), path)
    refused = f"The payment provider refused to open the payment: {failure.message}"
    return _refused(PaymentNotOpened(refused, members=members), path)


def _refused(error: DomainError, path: str) -> Answer:
    """A refusal that is an answer: it is kept with its key, and so is what it left behind."""
    document = problem(status=error.status, code=error.code, detail=error.detail, instance=path, members=error.members)
    return Answer(error.status, document)


class CheckoutView(APIView):
    """POST /checkout"""

    scopes: ClassVar = {"POST": {"storefront"}}

    @extend_schema(
        operation_id="checkout",
        parameters=[
            idempotency_header(),
            in_header(
                "Prefer", "`respond-async`: a worker opens the payment, the answer does not wait.", "respond-async"
            ),
        ],
        request=takes(
            CheckoutRequest,
            in_the_browser=examples.CART,
            at_once=examples.CART_AT_ONCE,
            with_store_credit=examples.CART_WITH_STORE_CREDIT,
        ),
        responses={
            201: answers(
                CheckoutDocument,
                to_be_confirmed=examples.CHECKED_OUT,
                respond_async=examples.CHECKED_OUT_ASYNC,
            )
        },
    )
    @refuses(
        ProductNotFound,
        CurrencyMixed,
        NothingToPay,
        StoreCreditExceedsTotal,
        CardDeclined,
        InsufficientStock,
        StoreCreditInsufficient,
        PaymentNotOpened,
        ProviderUnavailable,
    )
    @PAYMENT_REQUEST_DURATION.time()
    def post(self, request: Request) -> Response:
        """Check out.

        Prices the cart, places the order, reserves the stock and opens the payment: all of it, or nothing. The buyer's browser
        confirms with the payment's `client_secret`; until `expires_at` the stock is theirs. With `Prefer: respond-async` a
        worker opens the payment: ask for it until it has a `client_secret`.

        402 and 424 are answers about the payment: the order stands, and takes another attempt.
        """
        body = validated(CheckoutRequest, request.data)
        at_once = "respond-async" not in request.headers.get("Prefer", "")
        leases: list[Lease] = []
        unopened = ""  # the payment that this request has left to a worker

        def begin(claim: Fingerprint) -> Claimed:
            nonlocal unopened
            try:
                placed = services.place_order(
                    merchant_id=caller(request).merchant_id,
                    claim=claim,
                    customer=Customer(**body["customer"]),
                    wanted=[Wanted(**item) for item in body["items"]],
                    wish=wish_of(body.get("payment", {})),
                    hold=at_once,
                    answer=None if at_once else placed_answer,
                )
            except StoreCreditInsufficient as refusal:
                refusal.param = "payment.store_credit"  # where it stands in this body
                raise
            leases[:] = [placed.lease] if placed.lease else []
            unopened = "" if at_once else placed.payment
            return placed.claimed

        def finish(number: str) -> Answer:
            held = at_once and go_on("orders.checkout", number, leases)
            order = selectors.get_order(number)
            payment = order.payments[0]
            if held and payment.status == PaymentStatus.PENDING and not payment.provider_reference:
                raise IdempotencyKeyInUse  # the request that took the key is at it right now
            return payment_answer(order, payment, path=request.path, body=placed_answer(order).body)

        def decorate(answer: dict[str, Any]) -> dict[str, Any]:
            if "code" in answer or answer["payment"]["number"] == unopened:
                return answer
            return {**answer, "payment": with_secret(answer["payment"])}

        return answer_begun(request, begin=begin, finish=finish, decorate=decorate)


def placed_answer(order: OrderView) -> Answer:
    """201 with the order and its payment."""
    return Answer(201, {"order": order_json(order), "payment": payment_json(order.payments[0])})


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
        parameters=[
            in_query("customer", "Orders of this customer.", examples.CART["customer"]["id"]),
            in_query("status", "Orders that are at this.", "paid", enum=ORDER_STATUSES),
            *PAGE,
        ],
        responses={200: answers_page("OrderPage", OrderDocument, examples.PAID)},
    )
    def get(self, request: Request) -> Response:
        """Orders, the newest first."""
        known_params(request, "customer", "status")
        status = request.query_params.get("status", "")
        if "status" in request.query_params and status not in ORDER_STATUSES:
            raise InvalidInput(f"status is one of {', '.join(ORDER_STATUSES)}.", param="status")
        rows = selectors.orders_of(
            merchant_id=caller(request).merchant_id,
            customer=text_param(request, "customer", longest=255),
            status=status,
        )
        return page(request, rows, lambda shown: [order_json(order) for order in selectors.views(shown)])


class OrderDetailView(APIView):
    """GET /orders/{number}"""

    scopes: ClassVar = {"GET": READERS}

    @extend_schema(
        operation_id="order_get",
        parameters=[_ORDER],
        responses={200: answers(OrderDocument, paid=examples.PAID)},
    )
    def get(self, request: Request, number: str) -> Response:
        """One order, with its items and payments."""
        return Response(order_document(number, merchant_id=caller(request).merchant_id))


class CancelView(APIView):
    """POST /orders/{number}/cancel"""

    scopes: ClassVar = {"POST": READERS}

    @extend_schema(
        operation_id="order_cancel",
        parameters=[_ORDER, idempotency_header()],
        request=takes(NothingRequest, nothing={}),
        responses={200: answers(OrderDocument, cancelled=examples.CANCELLED)},
    )
    @refuses(IllegalTransition, OrderAlreadyPaid, PaymentStillProcessing, PaymentDisputed, ProviderUnavailable)
    def post(self, request: Request, number: str) -> Response:
        """Cancel an order.

        A storefront's key cancels what is not paid; a key for operations also what is paid and not shipped, by a refund.
        """
        validated(NothingRequest, request.data)
        leases: list[Lease] = []

        def begin() -> str:
            lease = services.request_cancel(
                number=number,
                merchant_id=caller(request).merchant_id,
                unpaid_only="operations" not in caller(request).scopes,
                by=_by(request),
                hold=True,
            )
            leases[:] = [lease] if lease else []
            return number

        def finish(subject: str) -> Answer | NoAnswer:
            if leases:
                durability.advance_saga(leases[0])
            return cancel_answer(selectors.get_order(subject), first=bool(leases))

        return answer_in_two(request, begin=begin, finish=finish)


def cancel_answer(order: OrderView, *, first: bool) -> Answer | NoAnswer:
    """200 once the order is cancelled, or its refund is on the way. Nothing else is final: a retry asks again.

    Refused: OrderAlreadyPaid where the customer's payment was faster than the cancellation, PaymentStillProcessing,
    and, where the provider has not answered yet, ProviderUnavailable (to the first) or IdempotencyKeyInUse.
    """
    if order.status == OrderStatus.CANCELLED or order.refund_status in ("refunding", "refunded"):
        return Answer(200, order_json(order))
    paid = [payment.number for payment in order.payments if payment.settling]
    if paid:
        return NoAnswer(OrderAlreadyPaid(members={"payment": paid[0]}))
    if any(payment.status == PaymentStatus.PROCESSING for payment in order.payments):
        return NoAnswer(PaymentStillProcessing())
    if first:
        return NoAnswer(
            ProviderUnavailable("The cancellation is under way: ask again in a moment, with the same Idempotency-Key.")
        )
    return NoAnswer(IdempotencyKeyInUse())


class ShipView(APIView):
    """POST /orders/{number}/ship"""

    scopes: ClassVar = {"POST": {"operations"}}

    @extend_schema(
        operation_id="order_ship",
        parameters=[_ORDER, idempotency_header()],
        request=takes(ShipRequest, parcel=examples.SHIP),
        responses={200: answers(OrderDocument, shipped=examples.SHIPPED)},
    )
    @refuses(IllegalTransition, OrderDisputed)
    def post(self, request: Request, number: str) -> Response:
        """Ship a paid order."""
        body = validated(ShipRequest, request.data)

        def effect() -> Answer:
            services.ship_order(
                number=number,
                merchant_id=caller(request).merchant_id,
                carrier=body.get("carrier", ""),
                tracking=body.get("tracking", ""),
                by=_by(request),
            )
            return Answer(200, order_json(selectors.get_order(number)))

        return answer_once(request, effect)


class CompleteView(APIView):
    """POST /orders/{number}/complete"""

    scopes: ClassVar = {"POST": {"operations"}}

    @extend_schema(
        operation_id="order_complete",
        parameters=[_ORDER, idempotency_header()],
        request=takes(NothingRequest, nothing={}),
        responses={200: answers(OrderDocument, completed=examples.COMPLETED)},
    )
    @refuses(IllegalTransition)
    def post(self, request: Request, number: str) -> Response:
        """Complete a shipped order."""
        validated(NothingRequest, request.data)

        def effect() -> Answer:
            services.complete_order(number=number, merchant_id=caller(request).merchant_id, by=_by(request))
            return Answer(200, order_json(selectors.get_order(number)))

        return answer_once(request, effect)


class AttemptsView(APIView):
    """POST /orders/{number}/payments"""

    scopes: ClassVar = {"POST": {"storefront"}}

    @extend_schema(
        operation_id="payment_create",
        parameters=[_ORDER, idempotency_header()],
        request=takes(
            PaymentRequest,
            in_the_browser=payment_examples.IN_THE_BROWSER,
            at_once=payment_examples.AT_ONCE,
            with_store_credit=payment_examples.WITH_STORE_CREDIT,
        ),
        responses={201: answers(PaymentDocument, to_be_confirmed=payment_examples.CONFIRMABLE)},
    )
    @refuses(
        StoreCreditExceedsTotal,
        CardDeclined,
        PaymentInProgress,
        PaymentStillProcessing,
        OrderAlreadyPaid,
        OrderNotOpen,
        StoreCreditInsufficient,
        PaymentNotOpened,
        ProviderUnavailable,
    )
    @PAYMENT_REQUEST_DURATION.time()
    def post(self, request: Request, number: str) -> Response:
        """Pay an order by another attempt, after one that failed.

        An earlier attempt that the buyer has not confirmed is cancelled first.
        """
        wish = wish_of(validated(PaymentRequest, request.data))
        leases: list[Lease] = []

        def begin() -> str:
            payment, lease = services.begin_attempt(number=number, merchant_id=caller(request).merchant_id, wish=wish)
            leases[:] = [lease] if lease else []
            return payment

        def finish(payment: str) -> Answer | NoAnswer:
            go_on("orders.new_attempt", payment, leases)
            order = selectors.get_order(number)
            made = [one for one in order.payments if one.number == payment]
            if not made:
                paid = [one.number for one in order.payments if one.settling]
                if paid or order.status != OrderStatus.PENDING:
                    return NoAnswer(OrderAlreadyPaid(members={"payment": paid[0]}) if paid else OrderNotOpen())
                if durability_reads.saga_is_finished("orders.new_attempt", key=payment):
                    if wish.store_credit_minor and not any(one.status in PAYMENT_LIVE for one in order.payments):
                        return NoAnswer(StoreCreditInsufficient())  # another checkout of this customer was faster
                    return NoAnswer(PaymentInProgress())  # another attempt was faster, or the earlier one went on
                raise IdempotencyKeyInUse  # the earlier attempt is still being cancelled; a worker goes on
            return payment_answer(order, made[0], path=request.path, body=payment_json(made[0]))

        def decorate(answer: dict[str, Any]) -> dict[str, Any]:
            return answer if "type" in answer else with_secret(answer)

        return answer_in_two(request, begin=begin, finish=finish, decorate=decorate)
