"""The shop in which histories happen: the product's API and services in this process, workers that work as far as they are
told to, and everybody outside: customers with their browsers, the provider's webhooks, the bank.

PostgreSQL, Valkey and the provider's sandbox are real. Nothing runs by itself: what happens next is the history's
choice alone, so that a history can be played again.
"""

import json
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import requests
from django.conf import settings
from django.db import connection, transaction
from django.db.models.functions import Least, Now
from django.test import override_settings
from rest_framework.test import APIClient

from durability import services as durability
from durability import shares
from durability.types import Lane
from foundation import redis
from foundation.database import database_now
from foundation.errors import DomainError
from inventory import services as inventory
from orders.models import Order
from orders.states import OrderStatus
from payments import services as payments
from payments.models import Payment, Refund
from payments.sandbox.background import sign
from reconciliation import services as reconciliation
from tests.campaigns.audit import Accepted, Finding, audit_accepted, judge
from tests.campaigns.boundaries.recorder import watch
from tests.campaigns.boundaries.world import Performance, World, beat_tasks, run_task, worker_tasks
from tests.campaigns.evidence import read_theirs
from tests.histories.laws import Books
from tests.sandbox_process import PUBLISHABLE_KEY, SECRET_KEY
from tests.shop import open_shop

Json = dict[str, Any]

# Product → (price in minor units, currency, copies at first). Currencies of two, of no and of three decimals.
BOOKS = {
    "novel": (1500, "usd", 100),
    "atlas": (4999, "usd", 3),
    "manga": (980, "jpy", 60),
    "poems": (1250, "kwd", 60),
}
APPROVED_ABOVE = 3000  # cents; refunds in other currencies always wait for a second person
LOYALTY_BP = 500
PROVIDER_PATIENCE_S = 2  # in place of 10: so long a history waits for a provider that hangs
# The same draw is the same history, however slow the machine is: nothing is due, or over, because real time has passed.
_FOR_EVER_S = 24 * 3600
_TIMELESS = {
    "PROVIDER_READ_TIMEOUT_S": PROVIDER_PATIENCE_S,
    "LEASE_S": _FOR_EVER_S,
    "DELIVERY_BACKOFF_FIRST_S": _FOR_EVER_S,
    "SAGA_BACKOFF_FIRST_S": _FOR_EVER_S,
    "BACKOFF_LONGEST_S": _FOR_EVER_S,
    "WORK_FOR_S": 60,
    "BOOKS_CUT_POSTINGS": 60,  # so that a history has some cuts in it
}
_ROUNDS = 40  # of everybody, until all is at rest; what is not then never will be
_CHILD_LIVES_S = 60
_IN_NO_HURRY = {"payments.catch_up_events", "durability.clean_up", "payments.clean_up", "reconciliation.nightly"}
# What waits for news that the bank sends by itself.
_AWAITED = """
SELECT (SELECT count(*) FROM payments_payment WHERE status IN ('processing', 'unknown'))
     + (SELECT count(*) FROM payments_refund WHERE status IN ('requested', 'processing')),
       (SELECT count(*) FROM payments_refund WHERE status = 'pending')
"""
_STUCK = """
SELECT handler, key, last_error FROM durability_delivery WHERE state IN ('pending', 'running', 'parked')
UNION ALL SELECT recipe, key, error FROM durability_sagarun WHERE state IN ('running', 'compensating')
"""
_BANK_ROUNDS = 4  # of waiting for news of pending refunds; the bank may also have chosen to let them wait


class NeverAtRest(AssertionError):
    """Something goes on for ever."""


@dataclass(frozen=True)
class Request:
    """A POST with its Idempotency-Key, which a client may send again."""

    path: str
    body: Json
    key: str
    scope: str = "storefront"
    respond_async: bool = False


@dataclass(frozen=True)
class Answer:
    status: int
    document: Json
    replayed: bool = False

    @property
    def is_final(self) -> bool:
        """Stored with the key. What is being worked on, or could not be answered, is asked again under the same key."""
        return self.status < 300 or self.status in (402, 424)

    @property
    def is_open(self) -> bool:
        return self.status >= 500 or self.document.get("code") == "idempotency_key_in_use"

    @property
    def code(self) -> str:
        return "ok" if self.status < 300 else str(self.document.get("code", self.status))


@dataclass(frozen=True)
class Tab:
    """A customer's browser on the page of a payment: it holds the secret, whatever becomes of the payment."""

    payment: str
    intent: str
    secret: str


@dataclass
class Memory:
    """What everybody outside knows."""

    names: dict[str, str] = field(default_factory=dict)  # number → what the diary calls it
    tabs: list[Tab] = field(default_factory=list)
    asked: list[tuple[Request, Answer]] = field(default_factory=list)  # with their final answers
    unanswered: list[Request] = field(default_factory=list)
    deducted: list[tuple[str, int, str]] = field(default_factory=list)
    accepted: list[Accepted] = field(default_factory=list)
    refunds: list[str] = field(default_factory=list)
    statuses: dict[str, str] = field(default_factory=dict)  # order → what it was told to be, of what is final
    posted: list[Json] = field(default_factory=list)  # events that no webhook has brought yet, oldest first
    lost: list[Json] = field(default_factory=list)
    newest: str = ""  # event that the postman has seen
    keys: int = 0

    def name(self, number: str) -> str:
        kind = {"ord": "order", "pay": "payment", "ref": "refund"}[number.partition("_")[0]]
        if number not in self.names:
            count = sum(name.startswith(kind) for name in self.names.values())
            self.names[number] = f"{kind} {count + 1}"
        return self.names[number]


@dataclass
class Workshop(World):
    """A boundary campaign's world, in which nothing happens unless it is asked for."""

    memory: Memory = field(default_factory=Memory)
    slack_s: float = 0  # how late anything may be when all is at rest

    def open(self) -> override_settings:
        opened = super().open()
        self._timeless = override_settings(**_TIMELESS)
        self._timeless.enable()
        self._browser = requests.Session()
        self._browser.trust_env = False
        return opened

    def close(self) -> None:
        self._timeless.disable()
        self._browser.close()
        super().close()

    def fresh(self) -> None:
        super().fresh()
        self.memory = Memory()
        self.open_shop()

    def open_shop(self) -> None:
        self.shop = open_shop(refund_approval_above_minor=APPROVED_ABOVE, loyalty_rate_bp=LOYALTY_BP)
        for book, (price, currency, copies) in BOOKS.items():
            self.shop.stock(book, copies, price=price, currency=currency)

    @contextmanager
    def at_one_moment(self) -> Iterator[None]:
        """What is read within is of one moment, whoever commits meanwhile."""
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield

    def rows(self, query: str, *values: Any) -> Sequence[Any]:
        with connection.cursor() as cursor:
            cursor.execute(query, values or None)
            found: list[Any] = cursor.fetchall()
            return found

    # --- Clients ------------------------------------------------------------------------------------

    def new_key(self) -> str:
        self.memory.keys += 1
        return f"key-{self.memory.keys}"

    def client(self, scope: str) -> APIClient:
        return self.shop.operations if scope == "operations" else self.shop.storefront

    def send(self, request: Request) -> Answer:
        return self.answer_here(request)

    def answer_here(self, request: Request) -> Answer:
        """By this very process."""
        headers = {"Idempotency-Key": request.key} | ({"Prefer": "respond-async"} if request.respond_async else {})
        response = self.client(request.scope).post(
            f"/api/v1{request.path}", request.body, format="json", headers=headers
        )
        return Answer(response.status_code, response.json(), response.headers.get("Idempotent-Replayed") == "true")

    def ask(self, request: Request) -> Answer:
        """Send it, and remember what came of it. What has no answer yet will be asked again."""
        answer = self.send(request)
        if answer.is_open:
            if request not in self.memory.unanswered:
                self.memory.unanswered.append(request)
            return answer
        self.memory.unanswered = [one for one in self.memory.unanswered if one != request]
        if answer.is_final:
            self.memory.asked.append((request, answer))
            self._believe(request, answer)
        return answer

    def dies_of(self, request: Request, *, at: int) -> bool:
        """The process that answers is killed at its nth boundary: the client hears nothing. False if it ended before."""
        self.memory.unanswered.append(request)
        return self.dies(lambda: self.answer_here(request), at=at)

    def get(self, path: str, scope: str = "storefront") -> Answer:
        response = self.client(scope).get(f"/api/v1{path}")
        return Answer(response.status_code, response.json())

    def _believe(self, request: Request, answer: Answer) -> None:
        document = answer.document
        order: Json = document["order"] if isinstance(document.get("order"), dict) else document
        if request.path == "/checkout":
            self.memory.accepted.append(Accepted(request.key, order["number"]))
        if request.path.endswith("/refunds") and answer.status == 201:
            self.memory.refunds.append(document["number"])
        if str(order.get("number", "")).startswith("ord_") and order["status"] in ("cancelled", "shipped", "completed"):
            self.memory.statuses[order["number"]] = order["status"]
        payment = document.get("payment", document)
        if isinstance(payment, dict) and payment.get("client_secret"):
            self.open_tab(payment)

    def open_tab(self, payment: Json) -> Tab:
        tab = Tab(payment["number"], payment["provider_reference"], payment["client_secret"])
        if tab not in self.memory.tabs:
            self.memory.tabs.append(tab)
        return tab

    # --- Outside: browsers, the bank, the provider's dashboard --------------------------------------------

    def confirm(self, tab: Tab, card: str) -> str:
        """What Stripe.js does. The intent's status, `declined`, or the code of a refusal."""
        return self._at_provider(
            f"/v1/payment_intents/{tab.intent}/confirm",
            key=PUBLISHABLE_KEY,
            data={"client_secret": tab.secret, "payment_method": card},
        )

    def authenticate(self, intent: str, *, passed: bool) -> str:
        """What the customer does in the bank's window."""
        outcome = {"payment_intent": intent, "outcome": "succeed" if passed else "fail"}
        return self._at_provider("/_sandbox/authenticate", json=outcome)

    def bank(self, call: str, **body: Any) -> str:
        """What happens at somebody's bank, or in the provider's dashboard: a call of the sandbox's control interface."""
        return self._at_provider(f"/_sandbox/{call}", json=body)

    def _at_provider(self, path: str, *, key: str = "", **request: Any) -> str:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            answer = self._browser.post(
                f"{self.sandbox.url}{path}", headers=headers, timeout=PROVIDER_PATIENCE_S, **request
            )
        except requests.RequestException:
            return "no answer"
        document = answer.json()
        if answer.status_code == 200:
            return str(document.get("status", "ok"))
        error = document["error"]
        return "declined" if answer.status_code == 402 else str(error.get("code") or error.get("type") or "refused")

    def total(self, number: str) -> int:
        """What a payment asks for, by card and from store credit; the API would ask the provider for its secret, too."""
        payment = Payment.objects.get(pk=Payment.id_of(number))
        return payment.amount_minor + payment.credit_minor

    def refund_reference(self, number: str) -> str:
        """What the provider calls one of our refunds; empty while it has not told."""
        return Refund.objects.values_list("provider_reference", flat=True).get(pk=Refund.id_of(number)) or ""

    # --- The provider's webhooks ------------------------------------------------------------------------

    def collect(self) -> int:
        """The postman fetches what has happened at the provider since. Returns how much that is."""
        found = [event for page in self._new_events() for event in page]
        self.memory.posted += found
        if found:
            self.memory.newest = found[-1]["id"]
        return len(found)

    def _new_events(self) -> Iterator[list[Json]]:
        """Pages of events that the postman has not seen, oldest first."""
        newest = self.memory.newest
        if not newest:
            yield self.provider_objects("events")[::-1]
            return
        while True:
            answer = self._browser.get(
                f"{self.sandbox.url}/v1/events",
                params={"limit": "100", "ending_before": newest},
                headers={"Authorization": f"Bearer {SECRET_KEY}"},
                timeout=30,
            )
            answer.raise_for_status()
            page = answer.json()
            yield page["data"][::-1]
            if not page["has_more"]:
                return
            newest = page["data"][0]["id"]

    def deliver(self, event: Json, *, secret: str = "") -> int:
        """One webhook, signed as the provider signs. The status that it was answered with."""
        body = json.dumps(event).encode()
        response = APIClient().post(
            "/api/v1/webhooks/stripe",
            body,
            content_type="application/json",
            headers={
                "Stripe-Signature": sign(
                    body, (secret or settings.STRIPE_WEBHOOK_SECRETS[0]).encode(), int(time.time())
                )
            },
        )
        return int(response.status_code)

    def catch_up(self) -> int:
        """List the provider's events since the oldest that no webhook will ever bring."""
        lost, self.memory.lost = self.memory.lost, []
        if not lost:
            return 0
        age_s = time.time() - min(event["created"] for event in lost)
        _, new = payments.replay_events(since=database_now() - timedelta(seconds=age_s + 2))
        return new

    # --- Inside: staff, workers, clocks -----------------------------------------------------------------------

    def grant(self, customer: str, currency: str, amount: int) -> bool:
        """Store credit, given by staff; False where it waits for a second person."""
        with transaction.atomic(durable=True):
            return payments.grant_store_credit(
                merchant_id=self.shop.merchant_id,
                customer=customer,
                currency=currency,
                amount_minor=amount,
                reason="for the trouble",
                by="clara",
            )

    def decide_on_grant(self, grant: UUID, *, by: str, yes: bool) -> None:
        """Raises a DomainError."""
        with transaction.atomic(durable=True):
            (payments.approve_grant if yes else payments.refuse_grant)(grant_id=grant, by=by, why="looked at it")

    def refund_by_staff(self, payment: str, amount: int | None, *, as_credit: bool) -> str:
        """Without the merchant's policy, with a reason. `ok`, or the code of a refusal."""
        try:
            with transaction.atomic(durable=True):
                number = payments.request_refund(
                    payment=payment,
                    amount_minor=amount,
                    reason="a favour",
                    requested_by="clara",
                    policy=None,
                    as_credit=as_credit,
                )
        except DomainError as refusal:
            return refusal.code
        self.memory.refunds.append(number)
        return "ok"

    def decide(self, number: str, *, by: str, yes: bool) -> None:
        """Somebody's word on a refund that waits for a second person. Raises a DomainError."""
        with transaction.atomic(durable=True):
            (payments.approve_refund if yes else payments.reject_refund)(number=number, by=by, why="looked at it")

    def refund_again(self, number: str, *, outside: bool) -> None:
        """A refund that failed is made again, by the provider or by our bank. Raises a DomainError."""
        with transaction.atomic(durable=True):
            again = payments.refund_again(number=number, by="clara", why="it came back", paid_outside=outside)
        self.memory.refunds.append(again)

    def work_a_bit(self, lane: Lane, bite: int) -> int:
        """A worker takes up so many deliveries and one saga, and is then called away."""
        shares.forget()
        with override_settings(WORK_FOR_S=0, OUTBOX_BATCH=bite, OUTBOX_BATCH_OUTSIDE=bite):
            return durability.work(lane)

    def work_now(self) -> int:
        """Workers do what is due at this moment, and do not wait for what is due later."""
        shares.forget()
        return sum(durability.work(lane) for lane in Lane)

    def dies(self, work: Callable[[], object], *, at: int) -> bool:
        """Do it in a process of its own, which SIGKILL ends at its nth boundary. False if it was done before."""
        pid = os.fork()
        if pid == 0:
            self._be_doomed(work, at)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code not in (0, -signal.SIGKILL):
            raise AssertionError(f"a process that was to be killed ended with {code}")
        return code != 0

    def _be_doomed(self, work: Callable[[], object], at: int) -> None:
        status = 1
        left = at

        def reached(_: object) -> None:
            nonlocal left
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            signal.alarm(_CHILD_LIVES_S)
            Performance(self, _no_scene).in_child()
            watch(reached)
            work()
            status = 0
        except BaseException:  # noqa: BLE001  the parent tells of it
            traceback.print_exc()
        finally:
            os._exit(status)

    def expire(self, number: str = "") -> None:
        """The time to pay of one order is over, or of all; then the timer ticks."""
        orders = Order.objects.filter(status=OrderStatus.PENDING)
        if number:
            orders = orders.filter(pk=Order.id_of(number))
        orders.update(expires_at=Least("expires_at", Now()))
        run_task("orders.rearm_timer")
        run_task("orders.expire_due")

    def recheck(self) -> None:
        """All open payments and refunds are due to be read again."""
        for model in (Payment, Refund):
            model.objects.filter(next_check_at__gt=Now()).update(next_check_at=Now())
        run_task("payments.recheck")

    def flush(self) -> None:
        redis.client().flushdb()

    # --- Rest -------------------------------------------------------------------------------------------

    def rest(self) -> None:
        """Faults end, held webhooks come, clients ask again, beat ticks, workers work: until nothing is left to do."""
        self.sandbox.control("DELETE", "faults")
        for played in range(_ROUNDS):
            self.collect()
            for event in self.memory.posted:
                assert self.deliver(event) == 200, event
            self.memory.posted = []
            self.catch_up()
            for request in self.memory.unanswered[:]:
                self.ask(request)
            self.wait_no_longer()
            for name in [*beat_tasks(), *worker_tasks()]:
                if name not in _IN_NO_HURRY:
                    run_task(name)
            awaited, pending = self.rows(_AWAITED)[0]
            if awaited or pending:
                time.sleep(0.05)  # the bank's news are a matter of milliseconds here
            awaited += pending if played < _BANK_ROUNDS else 0
            if not (awaited or self.unfinished() or self.memory.unanswered or self.collect()):
                return
        left = f"{self.unfinished()} deliveries, sagas and messages, {awaited} payments and refunds"
        stuck = "\n  ".join(f"{what} {key}: {error[-300:]}" for what, key, error in self.rows(_STUCK))
        raise NeverAtRest(
            f"after {_ROUNDS} rounds: {left}, {len(self.memory.unanswered)} unanswered requests\n  {stuck}"
        )

    # --- What laws judge by -------------------------------------------------------------------------------

    def books(self) -> Books:
        return Books(
            rows=self.rows,
            audited=lambda: judge(self._read_ours(), read_theirs(self.sandbox.url), slack_s=self.slack_s),
            kept_promises=self._promises_broken,
            reconciled=self._differences,
            proved=self._differences_within,
            shown_orders=lambda: self.get("/orders?limit=100").document["data"],
        )

    def _promises_broken(self) -> Sequence[Finding]:
        names = connection.settings_dict
        url = "postgresql://{USER}:{PASSWORD}@{HOST}:{PORT}/{NAME}".format(**names)
        told = self.memory
        return audit_accepted(url, told.accepted, statuses=told.statuses, refunds=told.refunds)

    def _differences_within(self) -> Sequence[str]:
        """What the product's own daily proofs find."""
        today = database_now().date()
        proofs = (payments.check_books(day=today), inventory.check_stock(day=today))
        return [str(one) for proof in proofs for one in proof.differences]

    def _differences(self) -> Sequence[str]:
        report = reconciliation.reconcile_day(day=database_now().date(), by="the history")
        lines = [f"a residual of {cents} {currency}" for currency, cents in report.residual.items() if cents]
        # A refund that came back late is a person's to look at, whatever the books say.
        unexplained = self.rows(
            """
            SELECT d.kind, d.state, d.order_reference, d.source FROM reconciliation_discrepancy d
            LEFT JOIN payments_refund r ON r.id = d.refund_id
            WHERE d.state <> 'resolved' AND NOT (d.kind = 'refund_failed_late' AND r.failed_late_at IS NOT NULL)
            """
        )
        for kind, state, reference, source in unexplained:
            lines.append(f"{kind} is {state}: {reference or source}")
        return lines


def _no_scene(world: World) -> Any:
    """A process that dies plays no scene."""
