"""The product as a stage: a shop, the provider's sandbox, the workers and beat, and how things stand at the end."""

import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import psycopg
from celery import current_app
from django.apps import apps
from django.conf import settings
from django.db import connection, models
from django.db.models.functions import Now
from django.test import override_settings
from psycopg.rows import namedtuple_row

from durability import doorbell, shares
from foundation import redis, throttle
from foundation.database import database_now
from foundation.errors import DomainError
from orders.models import MerchantCall
from orders.services import merchant_calls
from payments.models import InboxEvent
from payments.providers import stripe as provider
from tests import cleaning
from tests.campaigns.audit import judge
from tests.campaigns.boundaries.runner import State, leave_connections_to_the_parent
from tests.campaigns.evidence import Ours, read_ours, read_theirs
from tests.sandbox_process import SandboxProcess
from tests.shop import Shop, open_shop

# Columns that say "not before": the end of a lease, of a pause. A resumed run does not wait for them.
WAITING_COLUMNS = {"available_at", "lease_until", "leased_until", "next_check_at"}
_NEWS_ROUNDS = 3  # of beat: what one round does at the provider, the next one hears of
_ROUNDS = 25  # of the workers; what is not at rest after them never will be
_SEVERAL_DAYS = 400  # older than anything is kept
_MESSAGE_ID = re.compile(r"^Message-ID: (.+)$", re.M | re.I)

# How things stand: a name, and a query whose rows hold nothing that differs from run to run.
_BOOKS = {
    "orders": "SELECT status, cancel_requested_at IS NOT NULL, count(*) FROM orders_order GROUP BY 1, 2",
    "payments": """SELECT status, settling, amount_minor, captured_minor, refunded_minor, refunds_committed_minor,
        refunds_owed_minor, refunds_excess_minor, corrected_minor, provider_reference IS NOT NULL, failure_code,
        failure_decline_code, count(*) FROM payments_payment GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12""",
    "refunds": """SELECT status, amount_minor, corrected_minor, made_elsewhere, paid_outside, automatic, approved_by,
        again_of_id IS NOT NULL, failed_late_at IS NOT NULL, provider_reference IS NOT NULL, failure_code,
        regexp_replace(failure_message, '_[0-9a-f]{8,}', '_…'), count(*) FROM payments_refund GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12""",
    "disputes": """SELECT status, amount_minor, withdrawn_minor, lost_minor, refundable, closed_at IS NULL, count(*)
        FROM payments_dispute GROUP BY 1, 2, 3, 4, 5, 6""",
    "disputed": "SELECT disputed_at IS NULL, disputed_lost_minor, count(*) FROM payments_payment GROUP BY 1, 2",
    "payouts": """SELECT status, amount_minor, currency, failure_code, listed_at IS NULL, count(*)
        FROM payments_payout GROUP BY 1, 2, 3, 4, 5""",
    "paid out": "SELECT reporting_category, net_minor, count(*) FROM payments_payouttransaction GROUP BY 1, 2",
    "ledger": """SELECT a.kind, a.currency, sum(p.amount_minor) FROM payments_posting p
        JOIN payments_account a ON a.id = p.account_id GROUP BY 1, 2 HAVING sum(p.amount_minor) <> 0""",
    # A sale whose money was asked back before it was posted is written in two entries (payments/services/sales.py).
    "journal": "SELECT kind, count(*) FROM payments_journalentry WHERE kind <> 'sale_taken_over' GROUP BY 1",
    "cuts": "SELECT max(number) = count(*) FROM payments_bookcut",  # how many depends on when they are looked at
    "proof": "SELECT found FROM payments_bookscheck",
    "customers": """SELECT kind, currency, balance_minor, count(*) FROM payments_account
        WHERE kind IN ('customer', 'store_credit', 'store_credit_held', 'points') GROUP BY 1, 2, 3""",
    "store credit": """SELECT credit_minor, credit_captured_minor, credit_refunds_committed_minor, credit_refunded_minor,
        count(*) FROM payments_payment GROUP BY 1, 2, 3, 4""",
    "statistics": """SELECT currency, orders_paid, revenue_minor, refunds, refunded_minor, points, count(*)
        FROM orders_dailysales GROUP BY 1, 2, 3, 4, 5, 6""",
    "stock": "SELECT on_hand, reserved, low_noticed_at IS NULL, count(*) FROM inventory_stock GROUP BY 1, 2, 3",
    "stock proof": "SELECT found FROM inventory_stockcheck",
    "products": "SELECT product_id, price_minor, version FROM catalog_product",
    "stock log": "SELECT operation, quantity, count(*) FROM inventory_stockmovement GROUP BY 1, 2",
    "inbox": "SELECT type, count(*) FROM payments_inboxevent GROUP BY 1",
    "messages": "SELECT name, state, count(*) FROM durability_message GROUP BY 1, 2",
    "deliveries": "SELECT handler, state, count(*) FROM durability_delivery GROUP BY 1, 2",
    "calls to merchants": "SELECT event, state, count(*) FROM orders_merchantcall GROUP BY 1, 2",
    "sagas": "SELECT DISTINCT recipe, state FROM durability_sagarun",  # expiry may ask twice; what came of it counts
    "keys": "SELECT method, status, count(*) FROM durability_idempotencykey GROUP BY 1, 2",
    # What of the bank's leg a run finds is a matter of who looks first: it, whoever takes a file in, or who links a line.
    "runs": """SELECT date, matched, ours_count, theirs_count, residual::text,
            (kinds - ARRAY['payout_not_at_bank', 'bank_line_unexplained'])::text, count(*)
        FROM reconciliation_reconciliationrun WHERE state = 'completed' GROUP BY 1, 2, 3, 4, 5, 6""",
    "unfinished runs": "SELECT count(*) FROM reconciliation_reconciliationrun WHERE state = 'running'",
    "discrepancies": "SELECT kind, state, closed_as, cycle, count(*) FROM reconciliation_discrepancy GROUP BY 1, 2, 3, 4",
    "actions": """SELECT action, count(*) FROM reconciliation_discrepancyaction
        WHERE outcome = 'ok' GROUP BY 1""",
    "bank lines": "SELECT amount_minor, of_provider, count(*) FROM reconciliation_bankline GROUP BY 1, 2",
    "bank matches": "SELECT leg, how, ended_at IS NULL, count(*) FROM reconciliation_bankmatch GROUP BY 1, 2, 3",
    "statement files": "SELECT whose, layout, refused, rows, count(*) FROM reconciliation_statementfile GROUP BY 1, 2, 3, 4",
    "months": "SELECT starts_on, state, closings FROM reconciliation_period WHERE closings > 0",
    "closings": """SELECT period_id, number, regexp_replace(statements::text, 'read on [0-9: -]* UTC', 'read', 'g'), items::text
        FROM reconciliation_periodclosing""",
    "chained closings": """SELECT kind, count(DISTINCT object) FROM reconciliation_auditrow
        JOIN reconciliation_auditblock ON block_id = reconciliation_auditblock.number
        WHERE kind IN ('statement', 'closing') GROUP BY 1""",
    "incidents": "SELECT cause, kind, items, open_items, value::text, count(*) FROM reconciliation_incident GROUP BY 1, 2, 3, 4, 5",
    "bulk actions": """SELECT b.action, b.state, r.state, count(*) FROM reconciliation_bulkaction b
        JOIN reconciliation_bulkitem r ON r.bulk_id = b.id GROUP BY 1, 2, 3""",
    "their rows": "SELECT type, withdrawn_at IS NULL, count(*) FROM reconciliation_providertransaction GROUP BY 1, 2",
}
# What stays where two flows meet, whichever comes first: what the shop, the customer and the provider end up with.
EITHER_WAY = frozenset(
    {
        *("answer", "unfinished", "orders", "stock", "ledger", "customers", "store credit"),
        *("provider's refunds", "audit", "cents off"),
    }
)
_UNFINISHED = """
SELECT (SELECT count(*) FROM durability_delivery WHERE state IN ('pending', 'running'))
     + (SELECT count(*) FROM durability_sagarun WHERE state IN ('running', 'compensating'))
     + (SELECT count(*) FROM durability_message WHERE state = 'pending')
     + (SELECT count(*) FROM orders_merchantcall WHERE state = 'pending')
     + (SELECT count(*) FROM reconciliation_bulkaction WHERE state = 'running')
"""
Scene = Callable[["World"], Callable[[], Any]]


def worker_tasks() -> list[str]:
    """What a doorbell wakes, and what beat asks for each second."""
    return [*doorbell.TASKS.values(), "orders.call_merchants", "reconciliation.work_on_bulk"]


def beat_tasks() -> list[str]:
    """Everything that beat sends, in the order of its schedule."""
    return [str(entry["task"]) for entry in settings.CELERY_BEAT_SCHEDULE.values()]


def run_task(name: str, **arguments: Any) -> None:
    current_app.tasks[name].run(**arguments)


class _Told(BaseHTTPRequestHandler):
    """The merchant's own system: it drops what it was told before, as ids make it able to."""

    ids: ClassVar[set[str]] = set()
    refusals: ClassVar[int] = 0  # so many calls are still refused

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if _Told.refusals:
            _Told.refusals -= 1
            self.send_response(500)
        else:
            self.ids.add(self.headers["webhook-id"])
            self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@dataclass
class World:
    """What all scenarios share: the provider, the mails' folder, the merchant's system, and the present scene's shop."""

    sandbox: SandboxProcess
    mails: Path
    shop: Shop = field(init=False)
    _merchant: ThreadingHTTPServer = field(init=False)
    is_tampered: bool = False  # whether the present scene made the books differ: then the auditor has findings
    _auditors: psycopg.Connection[Any] | None = None

    def open(self) -> override_settings:
        """Point the product at the sandbox and the folder; nothing is asked to be patient. Until `disable()`."""
        current_app.loader.import_default_modules()  # tasks, as a worker does when it starts
        opened = override_settings(
            STRIPE_API_BASE=self.sandbox.url,
            EMAIL_BACKEND="django.core.mail.backends.filebased.EmailBackend",
            EMAIL_FILE_PATH=str(self.mails),
            WEBHOOK_ALLOWED_NETWORKS=["127.0.0.0/8"],
            BOOKS_SETTLE_WAIT_S=20,  # for the transactions of whatever else this server serves meanwhile
            BOOKS_CUT_POSTINGS=2,  # a cut after each entry, so that a short scene has some
            PROVIDER_LOOKUP_GRACE_S=0,  # resumed runs do not wait for the provider's list to catch up
        )
        opened.enable()
        # Sent once to a server that does not know it: a first play would show boundaries that no later one reaches.
        redis.client().script_load(throttle._TAKE)
        self._merchant = ThreadingHTTPServer(("127.0.0.1", 0), _Told)
        Thread(target=self._merchant.serve_forever, daemon=True).start()
        return opened

    def close(self) -> None:
        self._merchant.shutdown()
        self._merchant.server_close()
        if self._auditors:
            self._auditors.close()

    def fresh(self) -> None:
        """Nothing is left of earlier scenes, here or at the provider."""
        cleaning.forget_all_rows()
        redis.client().flushdb()
        self.sandbox.control("POST", "reset")
        self.sandbox.control("POST", "webhooks", {"mode": "drop"})  # no web process listens; scenes bring the news
        shutil.rmtree(self.mails, ignore_errors=True)
        self.mails.mkdir()
        self.is_tampered = False
        _Told.ids.clear()
        _Told.refusals = 0
        self.shop = open_shop(webhook_url=f"http://127.0.0.1:{self._merchant.server_port}/")
        self.shop.stock("book", 10)

    # --- What the product does ------------------------------------------------------------------------

    def work(self) -> None:
        """What workers do when they are woken, until nothing is due. Pauses between attempts are over at once."""
        for _ in range(_ROUNDS):
            for name in worker_tasks():
                run_task(name)
            if not self.unfinished():
                return
            self.wait_no_longer()

    def rest(self) -> None:
        """Everything that beat sends, and what comes of it, until nothing is left to do."""
        for _ in range(_NEWS_ROUNDS):
            self.wait_no_longer()
            for name in beat_tasks():
                run_task(name)
            if self.unfinished():
                self.wait_no_longer()
                self.work()
            if not self._news_on_the_way():
                return

    def _news_on_the_way(self) -> bool:
        """Whether the provider has told what no beat has fetched yet."""
        told = {event["id"] for event in self.provider_objects("events")}
        return bool(told - set(InboxEvent.objects.filter(pk__in=told).values_list("pk", flat=True)))

    def unfinished(self) -> int:
        with connection.cursor() as cursor:
            cursor.execute(_UNFINISHED)
            return int(cursor.fetchone()[0])

    def wait_no_longer(self) -> None:
        """Every lease, pause and delay that is written down is over now, whatever the table."""
        shares.forget()
        merchant_calls.forget_rests()
        for model in apps.get_models():
            columns = {one.name for one in model._meta.local_fields}
            open_rows = (
                model._base_manager.filter(finished_at=None) if "finished_at" in columns else model._base_manager
            )
            for column in WAITING_COLUMNS & columns:
                open_rows.filter(**{f"{column}__gt": Now()}).update(**{column: Now()})

    def age(self) -> None:
        """Messages, sagas, keys, the inbox and calls to merchants are of long ago; the auditor misses what is deleted then."""
        self.is_tampered = True
        models_aged: list[Any] = [*apps.get_app_config("durability").get_models(), InboxEvent, MerchantCall]
        for model in models_aged:
            moments = [one.name for one in model._meta.local_fields if isinstance(one, models.DateTimeField)]
            model._base_manager.update(**{name: models.F(name) - timedelta(days=_SEVERAL_DAYS) for name in moments})

    # --- The provider ---------------------------------------------------------------------------------

    def provider_objects(self, resource: str) -> list[dict[str, Any]]:
        return list(provider._listing(resource, {}))

    def merchant_refuses(self, times: int) -> None:
        """The merchant's system answers so many of the next calls with 500."""
        _Told.refusals = times

    def plant(self, kind: str) -> None:
        """The provider's books differ from ours in silence."""
        self.is_tampered = True
        self.sandbox.control("POST", "plant", {"kind": kind})

    def fail(self, call: str, kind: str) -> None:
        """The next such call fails, in one of the sandbox's ways."""
        self.sandbox.control("POST", "faults", {"match": call, "kind": kind, "times": 1})

    def trade_on(self, moment: datetime) -> None:
        """The provider's objects are made at that moment from now on."""
        self.sandbox.control("POST", "clock", {"advance_s": int((moment - database_now()).total_seconds())})

    # --- How things stand -----------------------------------------------------------------------------

    def state(self) -> State:
        stands: dict[str, Any] = {}
        with connection.cursor() as cursor:
            for name, query in _BOOKS.items():
                cursor.execute(query)
                stands[name] = sorted(cursor.fetchall(), key=str)
            cursor.execute("SELECT id FROM durability_message")
            messages = {str(row[0]) for row in cursor.fetchall()}
        stream: Any = redis.client().xrange(settings.OUTBOX_STREAM)
        mirrored = {entry["id"] for _, entry in stream}
        stands["not in the stream"] = len(messages - mirrored)
        stands["mails"] = len(self._mails_sent())
        stands["the merchant was told"] = len(_Told.ids)
        stands["provider's books"] = {
            name: value for name, value in self.sandbox.books().items() if name != "idempotent_replays"
        }
        theirs = read_theirs(self.sandbox.url)
        for name, found in (("intents", theirs.intents), ("refunds", theirs.refunds)):
            counted = Counter((one["status"], one["amount"]) for one in found.values())
            stands[f"provider's {name}"] = sorted(counted.items())
        verdict = judge(self._read_ours(), theirs, slack_s=0)
        stands["audit"] = sorted(finding.code for finding in verdict.findings)
        stands["cents off"] = verdict.cents_off
        return stands

    def _read_ours(self) -> Ours:
        if self._auditors is None:
            names = connection.settings_dict
            self._auditors = psycopg.connect(
                host=names["HOST"],
                port=names["PORT"],
                user=names["USER"],
                password=names["PASSWORD"],
                dbname=names["NAME"],
                row_factory=namedtuple_row,
            )
        with self._auditors.transaction():
            return read_ours(self._auditors)

    def _mails_sent(self) -> set[str]:
        """Mails by their Message-ID: a mail server drops the repeat."""
        return {one for path in self.mails.iterdir() for one in _MESSAGE_ID.findall(path.read_text())}


@dataclass
class Performance:
    """A scenario on the stage (runner.Stage): its scene prepares, and returns what is interrupted."""

    world: World
    scene: Scene
    meets: bool = False  # scenarios.scenario says what that is
    _play: Callable[[], Any] = field(init=False)
    _answer: str = field(init=False, default="")

    def set_up(self) -> None:
        self.world.fresh()
        self._play = self.scene(self.world)

    def in_child(self) -> None:
        """What the parent has open stays the parent's: nothing may be said over it from here."""
        leave_connections_to_the_parent()
        _kept.append(dict(provider._thread.__dict__))
        provider._thread.__dict__.clear()

    def play(self) -> None:
        try:
            answer = self._play()
        except DomainError as refusal:
            self._answer = refusal.code
        else:
            self._answer = str(getattr(answer, "status_code", ""))
        self.world.work()

    def rest(self) -> None:
        self.world.rest()

    def state(self) -> State:
        stands = {"answer": self._answer, "unfinished": self.world.unfinished(), **self.world.state()}
        return {name: value for name, value in stands.items() if name in EITHER_WAY} if self.meets else stands


_kept: list[Any] = []  # never closed by a child: closing would speak to the server
