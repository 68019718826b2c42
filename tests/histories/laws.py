"""The laws of conservation: what has to be true of the books whatever happened, each a function with one sentence.

`ALWAYS` holds after every single operation, also while webhooks are held back, leases are abandoned and the provider
does not answer. `AT_REST` holds when everything that was under way has ended. A law yields a line for each place where
it is broken; the auditor of the campaigns (tests/campaigns/audit.py) is asked where it knows the answer.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any
from uuid import UUID

from tests.campaigns.audit import Audit, Finding
from tests.campaigns.evidence import number


@dataclass
class Books:
    """What laws judge by. All but `rows` is asked for by laws that hold at rest."""

    rows: Callable[[str], Sequence[Any]]  # a query of ours → its rows
    audited: Callable[[], Audit]
    kept_promises: Callable[[], Sequence[Finding]] = tuple  # of the answers that clients had
    reconciled: Callable[[], Sequence[str]] = tuple  # what a reconciliation of today finds
    proved: Callable[[], Sequence[str]] = tuple  # what the product's own daily proofs of books and stock find
    shown_orders: Callable[[], Sequence[dict[str, Any]]] = tuple  # as the API shows them
    named: set[str] = field(default_factory=set)  # codes of the auditor that some law has asked for

    @cached_property
    def audit(self) -> Audit:
        return self.audited()

    def found(self, *codes: str) -> Iterator[str]:
        """What the auditor found under these codes."""
        self.named.update(codes)
        yield from (str(finding) for finding in self.audit.findings if finding.code in codes)


@cache
def numbered(prefix: str, value: UUID) -> str:
    """An id as the API spells it, and as payments and holds refer to it."""
    return number(prefix, value)


Law = Callable[[Books], Iterator[str]]
ALWAYS: list[Law] = []
AT_REST: list[Law] = []


def always(law: Law) -> Law:
    ALWAYS.append(law)
    return law


def at_rest(law: Law) -> Law:
    AT_REST.append(law)
    return law


class Broken(AssertionError):
    """A law does not hold. `law` is its name."""

    def __init__(self, law: Callable[..., object], lines: Sequence[str]) -> None:
        self.law = law.__name__
        says = " ".join((law.__doc__ or "").split())
        super().__init__("\n  ".join([f"{self.law}: {says}", *lines[:10]]))


def uphold(laws: Sequence[Law], books: Books) -> None:
    """Raises Broken for the first law that does not hold."""
    for law in laws:
        lines = list(law(books))
        if lines:
            raise Broken(law, lines)


# --- After every operation: money --------------------------------------------------------------------


@always
def every_entry_sums_to_zero(books: Books) -> Iterator[str]:
    """The postings of each journal entry sum to zero in each currency, and there are at least two."""
    yield from map(
        str,
        books.rows(
            """
            SELECT e.key, a.currency, sum(p.amount_minor), count(p.id)
            FROM payments_journalentry e
            LEFT JOIN payments_posting p ON p.entry_id = e.id LEFT JOIN payments_account a ON a.id = p.account_id
            GROUP BY e.id, a.currency HAVING coalesce(sum(p.amount_minor), 0) <> 0 OR count(p.id) < 2
            """
        ),
    )


@always
def a_balance_is_the_sum_of_its_postings(books: Books) -> Iterator[str]:
    """What stands as the balance of an account is the sum of its postings, and never below zero."""
    yield from map(
        str,
        books.rows(
            """
            SELECT a.kind, a.customer, a.currency, a.balance_minor, coalesce(-p.posted, 0)
            FROM payments_account a
            LEFT JOIN (SELECT account_id, sum(amount_minor) AS posted FROM payments_posting GROUP BY account_id) p
                   ON p.account_id = a.id
            WHERE a.balance_minor < 0
               OR (a.kind LIKE 'customer%' OR a.balance_minor <> 0) AND a.balance_minor <> coalesce(-p.posted, 0)
            """
        ),
    )


@always
def the_ledger_says_captured_less_refunded(books: Books) -> Iterator[str]:
    """Of each order the clearing account holds what its payments captured less what its refunds paid back."""
    yield from map(
        str,
        books.rows(
            """
            WITH money AS (
                SELECT payment.reference, payment.currency, payment.captured_minor
                       - coalesce((SELECT sum(r.amount_minor) FROM payments_refund r
                                   WHERE r.payment_id = payment.id AND r.status = 'succeeded'
                                     AND NOT r.paid_outside), 0) AS cents
                FROM payments_payment payment
            ), booked AS (
                SELECT e.reference, e.currency, p.amount_minor AS cents
                FROM payments_journalentry e
                JOIN payments_posting p ON p.entry_id = e.id JOIN payments_account a ON a.id = p.account_id
                WHERE a.kind = 'provider_clearing' AND e.kind IN ('capture', 'refund', 'refund_failed_late')
            )
            SELECT reference, currency, sum(money), sum(booked) FROM (
                SELECT reference, currency, cents AS money, 0 AS booked FROM money
                UNION ALL SELECT reference, currency, 0, cents FROM booked
            ) both_sides GROUP BY reference, currency HAVING sum(money) <> sum(booked)
            """
        ),
    )


@always
def what_is_in_flight_is_on_its_way(books: Books) -> Iterator[str]:
    """Of each order the account of refunds in flight holds what its open refunds ask of the provider, and at most what
    they will give as store credit.
    """
    yield from map(
        str,
        books.rows(
            """
            WITH asked AS (
                SELECT payment.reference, r.amount_minor AS cents, r.credit_minor AS credit
                FROM payments_refund r JOIN payments_payment payment ON payment.id = r.payment_id
                WHERE r.status NOT IN ('succeeded', 'failed', 'cancelled')
            ), booked AS (
                SELECT e.reference, e.kind LIKE 'refund_credit%' AS is_credit, -p.amount_minor AS cents
                FROM payments_journalentry e
                JOIN payments_posting p ON p.entry_id = e.id JOIN payments_account a ON a.id = p.account_id
                WHERE a.kind = 'refunds_in_flight'
            ), told AS (
                SELECT reference, cents AS asked, credit, 0 AS booked, 0 AS booked_credit FROM asked
                UNION ALL
                SELECT reference, 0, 0, CASE WHEN is_credit THEN 0 ELSE cents END, CASE WHEN is_credit THEN cents ELSE 0 END
                FROM booked
            )
            SELECT reference, sum(asked), sum(booked), sum(credit), sum(booked_credit) FROM told
            GROUP BY reference
            HAVING sum(asked) <> sum(booked) OR sum(booked_credit) < 0 OR sum(booked_credit) > sum(credit)
            """
        ),
    )


@always
def what_is_owed_to_customers_is_told_by_the_payments(books: Books) -> Iterator[str]:
    """Of each order the account of debts to customers holds what its payments say is owed since refunds came back."""
    yield from map(
        str,
        books.rows(
            """
            WITH booked AS (
                SELECT e.reference, -p.amount_minor AS cents
                FROM payments_journalentry e
                JOIN payments_posting p ON p.entry_id = e.id JOIN payments_account a ON a.id = p.account_id
                WHERE a.kind = 'refunds_owed'
            )
            SELECT reference, sum(owed), sum(booked) FROM (
                SELECT reference, refunds_owed_minor AS owed, 0 AS booked FROM payments_payment
                UNION ALL SELECT reference, 0, cents FROM booked
            ) both_sides GROUP BY reference HAVING sum(owed) <> sum(booked)
            """
        ),
    )


@always
def refunds_stay_within_what_was_captured(books: Books) -> Iterator[str]:
    """The open and the paid refunds of a payment are at most what it captured, and its columns say their sums."""
    yield from map(
        str,
        books.rows(
            """
            SELECT payment.id, payment.captured_minor, payment.refunds_committed_minor, payment.refunded_minor,
                   payment.refunds_excess_minor, r.held, r.paid
            FROM payments_payment payment
            JOIN LATERAL (
                SELECT coalesce(sum(amount_minor) FILTER (WHERE status NOT IN ('failed', 'cancelled')), 0) AS held,
                       coalesce(sum(amount_minor) FILTER (WHERE status = 'succeeded'), 0) AS paid,
                       coalesce(bool_or(made_elsewhere), false) AS is_elsewhere
                FROM payments_refund WHERE payment_id = payment.id
            ) r ON true
            WHERE r.held > payment.captured_minor AND NOT r.is_elsewhere
               OR payment.refunds_committed_minor <> least(r.held, payment.captured_minor)
               OR payment.refunded_minor <> least(r.paid, payment.captured_minor)
               OR payment.refunds_excess_minor <> greatest(r.held - payment.captured_minor, 0)
            """
        ),
    )


@always
def points_taken_back_were_earned(books: Books) -> Iterator[str]:
    """Of each payment no more loyalty points are taken back than its sale earned, and none are without a sale."""
    yield from map(
        str,
        books.rows(
            """
            SELECT e.subject, -sum(p.amount_minor) FROM payments_journalentry e
            JOIN payments_posting p ON p.entry_id = e.id JOIN payments_account a ON a.id = p.account_id
            WHERE a.kind = 'points' GROUP BY e.subject HAVING sum(p.amount_minor) > 0
            """
        ),
    )


@always
def one_payment_settles_an_order(books: Books) -> Iterator[str]:
    """At most one payment settles an order, it has succeeded, and at most one more is under way."""
    yield from map(
        str,
        books.rows(
            """
            SELECT merchant_id, reference, array_agg(status) FROM payments_payment
            GROUP BY merchant_id, reference
            HAVING count(*) FILTER (WHERE settling) > 1
                OR count(*) FILTER (WHERE settling AND status <> 'succeeded') > 0
                OR count(*) FILTER (WHERE status IN ('pending', 'processing', 'requires_action', 'unknown')) > 1
            """
        ),
    )


@always
def a_payment_is_captured_once_and_whole(books: Books) -> Iterator[str]:
    """A payment that has succeeded has captured what it asked for; any other has captured nothing."""
    yield from map(
        str,
        books.rows(
            """
            SELECT id, status, amount_minor, captured_minor FROM payments_payment
            WHERE captured_minor <> CASE WHEN status = 'succeeded' THEN amount_minor ELSE 0 END
            """
        ),
    )


# --- After every operation: goods --------------------------------------------------------------------


@always
def the_stock_log_sums_to_the_stock(books: Books) -> Iterator[str]:
    """What is on hand and reserved is the sum of the log; what is reserved is what somebody holds; none is oversold."""
    yield from map(
        str,
        books.rows(
            """
            SELECT stock.product_id, stock.on_hand, stock.reserved, log.on_hand, log.reserved, held.reserved
            FROM inventory_stock stock
            LEFT JOIN (SELECT product_id, sum(on_hand_change) AS on_hand, sum(reserved_change) AS reserved
                       FROM inventory_stockmovement GROUP BY product_id) log USING (product_id)
            LEFT JOIN (SELECT product_id, sum(reserved) AS reserved
                       FROM inventory_stockhold GROUP BY product_id) held USING (product_id)
            WHERE stock.on_hand <> coalesce(log.on_hand, 0) OR stock.reserved <> coalesce(log.reserved, 0)
               OR stock.reserved <> coalesce(held.reserved, 0)
               OR stock.reserved < 0 OR stock.reserved > stock.on_hand
            """
        ),
    )


@always
def an_order_holds_what_its_state_says(books: Books) -> Iterator[str]:
    """A pending order has its items reserved, a sold one has them reserved or sold, a cancelled one has nothing."""
    held = {
        reference: (int(reserved), int(sold))
        for reference, reserved, sold in books.rows(
            "SELECT reference, sum(reserved), sum(sold) FROM inventory_stockhold GROUP BY reference"
        )
    }
    for order, status, wanted in books.rows(
        """
        SELECT o.id, o.status, sum(item.quantity) FROM orders_order o JOIN orders_orderitem item ON item.order_id = o.id
        GROUP BY o.id
        """
    ):
        reserved, sold = held.get(numbered("ord", order), (0, 0))
        right = {"pending": (reserved, sold) == (wanted, 0), "cancelled": (reserved, sold) == (0, 0)}
        if not right.get(status, reserved + sold == wanted):
            yield f"{numbered('ord', order)}: {status}, {wanted} wanted, {reserved} reserved, {sold} sold"


@always
def what_is_sold_is_paid(books: Books) -> Iterator[str]:
    """A paid, shipped or completed order has a payment that settles it: card and store credit are its total."""
    settled = dict(
        books.rows("SELECT reference, captured_minor + credit_captured_minor FROM payments_payment WHERE settling")
    )
    for order, status, total in books.rows(
        "SELECT id, status, total_minor FROM orders_order WHERE status IN ('paid', 'shipped', 'completed')"
    ):
        if settled.get(numbered("ord", order)) != total:
            yield f"{numbered('ord', order)}: {status}, {total} asked for, {settled.get(numbered('ord', order))} paid"


# --- At rest: our books are the provider's -----------------------------------------------------------


@at_rest
def every_charge_stands_in_both_books(books: Books) -> Iterator[str]:
    """Each charge of the provider's is a captured payment of ours to the cent, and the other way round."""
    yield from books.found(
        "charge_unknown_to_us",
        "charge_not_succeeded_with_us",
        "captured_amount",
        "captured_in_the_ledger",
        "capture_without_a_charge",
        "capture_of_an_unpaid_payment",
    )


@at_rest
def every_refund_stands_in_both_books(books: Books) -> Iterator[str]:
    """Each refund of the provider's is one of ours, of the same amount, state and posting, and the other way round."""
    yield from books.found(
        "refund_unknown_to_us",
        "refund_status",
        "refunded_amount",
        "refunded_in_the_ledger",
        "refund_without_the_provider",
        "refund_sums",
        "over_refunded",
    )


@at_rest
def every_dispute_and_payout_stands_in_both_books(books: Books) -> Iterator[str]:
    """Each dispute and payout of the provider's is one of ours, of the same state, and what it moved is posted once."""
    yield from books.found(
        "dispute_unknown_to_us",
        "dispute_status",
        "dispute_mark",
        "withdrawn_amount",
        "withdrawn_in_the_ledger",
        "open_in_the_ledger",
        "payout_unknown_to_us",
        "payout_status",
        "payout_in_the_ledger",
        "payout_transactions",
    )


@at_rest
def every_fee_is_posted_once(books: Books) -> Iterator[str]:
    """Each fee in the provider's books is posted once in ours."""
    yield from books.found("fee", "fee_unknown_to_the_provider")


@at_rest
def the_clearing_account_is_the_provider_s_balance(books: Books) -> Iterator[str]:
    """Per currency our clearing account is the provider's balance to the cent."""
    yield from books.found("clearing")


@at_rest
def no_money_is_kept_that_no_order_explains(books: Books) -> Iterator[str]:
    """A sold order keeps one charge less its refunds; for any other order no money is kept."""
    yield from books.found("kept_money", "money_without_an_order", "sold_order_is_paid_once", "sale_given_back")


@at_rest
def store_credit_is_conserved(books: Books) -> Iterator[str]:
    """What a customer has of store credit, free and held, is what was granted and refunded, less what paid for orders."""
    yield from map(
        str,
        books.rows(
            """
            SELECT merchant_id, customer, currency, sum(has), sum(should_have) FROM (
                SELECT merchant_id, customer, currency, balance_minor AS has, 0 AS should_have
                FROM payments_account WHERE kind IN ('store_credit', 'store_credit_held')
                UNION ALL SELECT merchant_id, customer, currency, 0, amount_minor
                FROM payments_creditgrant WHERE status = 'granted'
                UNION ALL SELECT merchant_id, customer, currency, 0, credit_refunded_minor - credit_captured_minor
                FROM payments_payment
            ) told GROUP BY merchant_id, customer, currency HAVING sum(has) <> sum(should_have)
            """
        ),
    )


@at_rest
def credit_and_points_follow_their_payments(books: Books) -> Iterator[str]:
    """Held credit is that of live attempts, credit refunds are those of refunds, points what sales earned and kept."""
    yield from books.found("store_credit_held", "credit_refund_sums", "points")


@at_rest
def nothing_stays_with_the_customer_or_in_flight(books: Books) -> Iterator[str]:
    """When a sale is over, nothing of it is left on the customer's account or in flight."""
    yield from books.found("money_left_over")


@at_rest
def a_refund_status_is_that_of_its_refunds(books: Books) -> Iterator[str]:
    """What the API calls an order's refund status follows from the refunds of the payment that settled it."""
    told = {
        (reference, currency): status
        for reference, currency, status in books.rows(
            """
            SELECT payment.reference, payment.currency,
                   CASE WHEN bool_or(r.status NOT IN ('succeeded', 'failed', 'cancelled')) THEN 'refunding'
                        WHEN coalesce(sum(r.amount_minor) FILTER (WHERE r.status = 'succeeded'), 0)
                             + max(payment.credit_refunded_minor) = 0 THEN 'none'
                        WHEN coalesce(sum(r.amount_minor) FILTER (WHERE r.status = 'succeeded'), 0)
                             + max(payment.credit_refunded_minor)
                             >= max(payment.captured_minor + payment.credit_captured_minor) THEN 'refunded'
                        ELSE 'partial' END
            FROM payments_payment payment JOIN payments_refund r ON r.payment_id = payment.id
            WHERE payment.settling GROUP BY payment.reference, payment.currency
            """
        )
    }
    for order in books.shown_orders():
        right = told.get((order["number"], order["currency"]), "none")
        if order["refund_status"] != right:
            yield f"{order['number']}: {order['refund_status']}, its refunds say {right}"


# --- At rest: nothing is stuck, lost or broken --------------------------------------------------------


@at_rest
def every_shelf_is_that_of_its_order(books: Books) -> Iterator[str]:
    """Pending orders hold their items reserved, sold ones sold, cancelled ones not at all; nobody else holds any."""
    yield from books.found(
        "shelf_of_an_order",
        "hold_without_an_order",
        "item_without_an_order",
        "stock_log",
        "stock_reserved",
        "oversold",
    )


@at_rest
def nothing_is_stuck(books: Books) -> Iterator[str]:
    """No order, payment or refund waits for anybody but a customer, a bank or a person."""
    yield from books.found(
        "order_not_expired",
        "cancel_requested_for_ever",
        "payment_stuck",
        "payment_open_for_a_closed_order",
        "intent_left_open",
        "intent_unknown_to_us",
        "refund_stuck",
    )


@at_rest
def every_saga_has_ended(books: Books) -> Iterator[str]:
    """No saga is under way, none failed to compensate, and each success that settles was carried through."""
    yield from books.found(
        "compensation_failed", "saga_without_an_owner", "sale_not_carried_through", "sale_undone_but_order_open"
    )


@at_rest
def every_message_is_delivered(books: Books) -> Iterator[str]:
    """Each message has a delivery for each of its handlers, done and not parked, and stands in the stream."""
    yield from books.found("delivery_missing", "delivery_parked", "delivery_open", "message_not_in_the_stream")


@at_rest
def one_key_is_one_order(books: Books) -> Iterator[str]:
    """Each checkout's idempotency key stands for one order, and each order for one key."""
    yield from books.found("key_without_an_order", "order_of_several_keys")


@at_rest
def every_promise_is_kept(books: Books) -> Iterator[str]:
    """What a client was told is there: its order under its key, its refund, a state that cannot be taken back."""
    yield from map(str, books.kept_promises())


@at_rest
def the_reconciler_agrees(books: Books) -> Iterator[str]:
    """A reconciliation of today has no residual, and finds nothing but refunds that came back: they wait for a person."""
    yield from books.reconciled()


@at_rest
def the_books_prove_themselves(books: Books) -> Iterator[str]:
    """The product's own proof of its books, snapshots and cuts finds no difference."""
    yield from books.proved()


@at_rest
def the_auditor_has_no_other_finding(books: Books) -> Iterator[str]:
    """What the auditor finds under a name that no law above asks for is a finding all the same; so is a cent off."""
    yield from (str(finding) for finding in books.audit.findings if finding.code not in books.named)
    yield from (f"{cents} {currency} off" for currency, cents in books.audit.cents_off.items() if cents)
