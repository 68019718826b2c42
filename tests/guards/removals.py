"""The fifteen ways to lose or double money, the guard against each, and what removes it: edits of our code, SQL."""

from dataclasses import dataclass, field
from pathlib import Path

ORDINARY_SALE = "tests/orders/test_checkout.py::test_a_confirmed_checkout_becomes_a_paid_order_with_stock_and_books"


class NotFoundOnceError(Exception):
    """The text that a removal replaces is not there exactly once: the code moved on, mend the removal."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A text that occurs once in a file, and what stands there without the guard."""

    path: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Guard:
    """A failure, its guard, and how to remove it: `statements` run on the test database after its migrations."""

    number: int
    failure: str
    guard: str
    edits: list[Edit] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)


def remove(guard: Guard, tree: Path) -> None:
    """Edit a copy of the tree. Raises NotFoundOnceError, and has changed nothing then."""
    texts: dict[Path, str] = {}
    for edit in guard.edits:
        path = tree / edit.path
        text = texts.get(path) or path.read_text()
        if text.count(edit.old) != 1:
            raise NotFoundOnceError(f"guard {guard.number}: {text.count(edit.old)} times in {edit.path}: {edit.old!r}")
        texts[path] = text.replace(edit.old, edit.new)
    for path, text in texts.items():
        path.write_text(text)


_STRIPE = "payments/providers/stripe.py"
_ATTEMPTS = "payments/services/attempts.py"
_SENDING = "payments/services/refund_sending.py"

GUARDS = [
    Guard(
        1,
        "a timeout recorded as a failure",
        "state `unknown`; the same key and parameters again; a replayed 500 is looked up, never resent",
        [
            Edit(
                _ATTEMPTS,
                "    except (ProviderUnsure, ProviderBusy) as doubt:\n        return Unknown(str(doubt))\n    _fresh",
                '    except (ProviderUnsure, ProviderBusy) as doubt:\n        return Refused("error", str(doubt))\n    _fresh',
            ),
        ],
    ),
    Guard(
        2,
        "a new key on each retry",
        "the provider's key is our own row's number, stored before the first send",
        [
            Edit(
                _STRIPE,
                '    return {"idempotency_key": number}',
                '    import uuid\n\n    return {"idempotency_key": f"{number}-{uuid.uuid4()}"}',
            )
        ],
    ),
    Guard(
        3,
        "posted again after 24 hours",
        "the moment of the first send; from 23 h on it is looked up instead of sent",
        [
            Edit(
                _ATTEMPTS,
                "if passed > timedelta(seconds=settings.PROVIDER_KEY_SAFE_FOR_S):",
                "if False:",
            ),
            Edit(
                _SENDING,
                "if database_now() - refund.first_sent_at > timedelta(seconds=settings.PROVIDER_KEY_SAFE_FOR_S):",
                "if False:",
            ),
        ],
    ),
    Guard(
        4,
        "a key bound to the wrong tenant",
        "keys are unique per merchant, and bound to method, path and body",
        [
            Edit(
                "durability/keys.py",
                "return Fingerprint(caller, bare,",
                "return Fingerprint(UUID(int=0), bare,",
            )
        ],
    ),
    Guard(
        5,
        "check, then act",
        "unique inserts first; a partial unique index on the live attempt",
        statements=[
            "DROP INDEX payment_one_live_attempt_per_reference",
            "DROP INDEX payment_one_settles_a_reference",
        ],
    ),
    Guard(
        6,
        "committed, then the news are lost",
        "the outbox row commits with the change; Redis is only a wake-up",
        [
            Edit(
                "durability/outbox.py",
                "    with connection.cursor() as cursor:\n        cursor.execute(_PUBLISH, [json.dumps(news)])",
                "    transaction.on_commit(lambda: _publish_late(news))\n"
                "    return [0] * len(events)\n\n\n"
                "def _publish_late(news: Any) -> Any:\n"
                "    with connection.cursor() as cursor:\n        cursor.execute(_PUBLISH, [json.dumps(news)])",
            )
        ],
    ),
    Guard(
        7,
        "the relay passes over what commits late",
        "claimed by state with SKIP LOCKED, finished by exact id",
        [
            Edit(
                "durability/outbox.py",
                "      AND d.available_at <= clock_timestamp()\n      AND NOT EXISTS (",
                "      AND d.available_at <= clock_timestamp()\n"
                "      AND d.id > (SELECT coalesce(max(id), 0) FROM durability_delivery WHERE state = 'done')\n"
                "      AND NOT EXISTS (",
            )
        ],
    ),
    Guard(
        8,
        "redelivery, or a worker that comes back from the dead",
        "a lease with a version; each commit of a worker proves its own",
        [
            Edit(
                "durability/engine.py",
                "AND lease_version = %(lease_version)s AND state = %(was)s AND current_step = %(stood_at)s",
                "AND %(lease_version)s IS NOT NULL AND %(was)s IS NOT NULL AND %(stood_at)s IS NOT NULL",
            ),
            Edit(
                "durability/outbox.py",
                "Delivery.objects.filter(pk=one.id, state=Delivery.State.RUNNING, lease_version=one.lease_version)",
                "Delivery.objects.filter(pk=one.id)",
            ),
        ],
    ),
    Guard(
        9,
        "expiry races the payment",
        "cancelled at the provider first; what is paid all the same is refunded",
        [
            Edit(
                _ATTEMPTS,
                "        if payment.first_sent_at is None:\n            return Accepted(None)",
                "        if payment.first_sent_at is not None:\n            return Succeeded(None)\n"
                "        if payment.first_sent_at is None:\n            return Accepted(None)",
            ),
            Edit(
                "orders/services/sales.py",
                "    try:\n        with transaction.atomic():\n            payments.request_refund(\n",
                "    if True:\n        return\n"
                "    try:\n        with transaction.atomic():\n            payments.request_refund(\n",
            ),
        ],
    ),
    Guard(
        10,
        "refunded beyond the capture, or beside a dispute",
        "the payment's lock; Σ open + succeeded ≤ captured as a CHECK; none while disputed",
        [
            Edit(
                "payments/locks.py",
                "payment = Payment.objects.select_for_update().filter(pk=payment_id).first()",
                "payment = Payment.objects.filter(pk=payment_id).first()",
            ),
            Edit(
                "payments/services/refunds.py",
                "    if payment.disputed_at:\n        raise PaymentDisputed\n    if policy and",
                "    if policy and",
            ),
            Edit(
                "payments/services/refunds.py",
                "        raise SecondPersonNeeded\n    if payment.disputed_at:\n        raise PaymentDisputed\n",
                "        raise SecondPersonNeeded\n",
            ),
            Edit(
                _SENDING,
                "    payment, sent_at = refund.payment, refund.first_sent_at\n",
                "    return\n    payment = sent_at = None\n",
            ),
            Edit(
                "payments/services/credit.py",
                "collected_minor = payment.captured_minor - payment.disputed_lost_minor +",
                "collected_minor = payment.captured_minor +",
            ),
            Edit(
                "payments/services/credit.py",
                "captured_minor = payment.captured_minor - payment.disputed_lost_minor - payment",
                "captured_minor = payment.captured_minor - payment",
            ),
        ],
        [
            "ALTER TABLE payments_payment DROP CONSTRAINT payment_refunds_within_captured",
            "ALTER TABLE payments_payment DROP CONSTRAINT payment_refunds_within_collected",
            "ALTER TABLE payments_payment DROP CONSTRAINT payment_owes_what_is_not_refunded",
            "DROP TRIGGER pgtrigger_never_while_disputed_bd1b5 ON payments_refund",
        ],
    ),
    Guard(
        11,
        "a refund succeeds and fails weeks later",
        "`succeeded` is not the end: the failure opens the debt again",
        [Edit("payments/states.py", "        (_R.SUCCEEDED, _R.FAILED),", "        #")],
    ),
    Guard(
        12,
        "a webhook lost, doubled or out of order",
        "a unique inbox; the object is read again; the provider's event list catches up",
        [
            Edit(
                "payments/services/inbox.py",
                "    for page in _pages(gateway.list_events(since=since)):",
                "    for page in list(_pages(gateway.list_events(since=since)))[:0]:",
            ),
            Edit(
                "payments/services/rereads.py",
                "    begun = time.monotonic()\n    halfway,",
                "    if True:\n        return 0\n    begun = time.monotonic()\n    halfway,",
            ),
        ],
    ),
    Guard(
        13,
        "the wrong amount",
        "integers of minor units beside a currency; amount, currency and mode checked before anything is paid",
        [
            Edit(
                "payments/services/payment_news.py",
                "    contradicts = contradiction(payment, intent)\n",
                '    contradicts = ""\n',
            ),
            Edit("foundation/money.py", "    return _STEPS.get(currency, 1)\n", "    return 1\n"),
        ],
        statements=["DROP TRIGGER pgtrigger_entry_balances_7ab5a ON payments_journalentry"],
    ),
    Guard(
        14,
        "a reconciler that does not see",
        "all types, an overlapping re-read, matched both ways, unknown types alarm",
        [
            Edit(
                "reconciliation/matching/agreement.py",
                "m.source FROM {_VIEWS[kind]} m\n    WHERE m.booked AND",
                "m.source FROM {_VIEWS[kind]} m\n    WHERE false AND",
            ),
            Edit(
                "reconciliation/matching/pairs.py",
                "AND t.withdrawn_at IS NULL\n      AND NOT t.reporting_category = ANY(%(stand_beside)s)\n    UNION",
                "AND t.withdrawn_at IS NULL\n      AND false\n    UNION",
            ),
            Edit(
                "reconciliation/services/importing.py",
                "since - timedelta(days=settings.RECONCILE_TRAILING_DAYS),",
                "since,",
            ),
        ],
    ),
    Guard(
        15,
        "a person or the scheduler repeats",
        "one run a day, one action a key, two persons where it matters: all held by the database",
        [
            Edit(
                "reconciliation/services/actions.py",
                "known = DiscrepancyAction.objects.filter(discrepancy=item, key=key)",
                "known = DiscrepancyAction.objects.none()",
            ),
            Edit(
                "payments/services/refunds.py",
                "        id=refund_id or uuid7(),\n        merchant_id=row.merchant_id,",
                "        merchant_id=row.merchant_id,",
            ),
            Edit(
                "payments/services/refunds.py",
                "    if by == refund.requested_by:\n        raise SecondPersonNeeded\n",
                "",
            ),
            Edit(
                "reconciliation/services/approvals.py",
                "    if record.by == by:\n        raise SecondPersonNeeded\n",
                "",
            ),
        ],
        [
            "ALTER TABLE payments_refund DROP CONSTRAINT refund_approver_is_a_second_person",
            "ALTER TABLE payments_refund DROP CONSTRAINT refund_above_the_limit_is_approved",
            "ALTER TABLE payments_creditgrant DROP CONSTRAINT credit_grant_takes_two",
            "ALTER TABLE payments_creditgrant DROP CONSTRAINT credit_grant_above_the_limit_is_approved",
            "ALTER TABLE reconciliation_discrepancyaction DROP CONSTRAINT discrepancy_action_approver_is_a_second_person",
            "ALTER TABLE reconciliation_discrepancyaction DROP CONSTRAINT discrepancy_action_above_the_limit_is_approved",
            "ALTER TABLE reconciliation_periodreopening DROP CONSTRAINT period_reopening_takes_a_second_person",
            "DROP INDEX run_one_at_a_time_per_date",
            "DROP INDEX discrepancy_action_once_per_key",
            "DROP INDEX discrepancy_one_action_at_a_time",
        ],
    ),
]
