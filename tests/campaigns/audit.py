"""Was anything lost or doubled? Our database against the provider's books, by SQL and HTTP alone.

For a system at rest: no request under way, no worker busy. What only needs more time is given `slack_s`.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.campaigns.evidence import Ours, Row, Theirs, connect, read_ours, read_theirs

_SOLD = ("paid", "shipped", "completed")
_KEEP_A_BALANCE = ("customer", "store_credit", "store_credit_held", "points")
_LIVE = ("pending", "processing", "requires_action", "unknown")
_REFUND_UNDER_WAY = ("requested", "processing")
_REFUND_WAITS = ("awaiting_approval", "pending", "requires_action")  # for a person or a bank: nobody of us is late
_SAGA_OF_A_SALE = "payment-success"  # who asks for a refund where a sale is turned back
_REFUND_FAILED = ("failed", "cancelled")


@dataclass(frozen=True)
class Finding:
    """`code` says which law is broken, `object` where, `text` how."""

    code: str
    object: str
    text: str

    def __str__(self) -> str:
        return f"{self.code} {self.object}: {self.text}"


@dataclass(frozen=True)
class Accepted:
    """A checkout that a client had an accepted answer for: its Idempotency-Key, and the order that it was told."""

    key: str
    order: str


@dataclass(frozen=True)
class Audit:
    """`cents_off`: currency → Σ |theirs − ours| over charges, refunds and fees, in minor units."""

    findings: tuple[Finding, ...]
    cents_off: dict[str, int]
    orders: Counter[str] = field(default_factory=Counter)  # by status
    charges: int = 0
    refunds: int = 0

    @property
    def is_clean(self) -> bool:
        return not self.findings and not any(self.cents_off.values())

    def __str__(self) -> str:
        return "\n".join(map(str, self.findings)) or "no finding"


def audit(database_url: str, sandbox_url: str, *, slack_s: float = 5) -> Audit:
    """Check every law on everything there is. `slack_s`: how late scans and retries may be."""
    with connect(database_url) as connection:
        ours = read_ours(connection)
    return judge(ours, read_theirs(sandbox_url), slack_s=slack_s)


def judge(ours: Ours, theirs: Theirs, *, slack_s: float) -> Audit:
    """The same for what was read before."""
    return _Auditor(ours, theirs, slack_s).audit()


def audit_accepted(
    database_url: str,
    accepted: Iterable[Accepted],
    *,
    refused: Iterable[str] = (),
    statuses: Mapping[str, str] | None = None,
    refunds: Iterable[str] = (),
) -> tuple[Finding, ...]:
    """Every accepted checkout is there, under its key and once; a key that was finally refused made nothing.

    `statuses`: order → what a client was told, of what cannot be taken back (cancelled, shipped, completed).
    `refunds`: numbers that a client was told.
    """
    with connect(database_url) as connection:
        ours = read_ours(connection)
    orders_of: dict[str, list[str]] = defaultdict(list)
    for row in ours.keys:
        if row.path.endswith("/checkout"):
            orders_of[row.key].append(row.subject)
    findings = []
    for one in accepted:
        made = orders_of.get(one.key, [])
        if one.order not in ours.orders:
            findings.append(Finding("accepted_order_missing", one.order, f"key {one.key} was answered with it"))
        elif made != [one.order]:
            findings.append(Finding("key_made_other_orders", one.order, f"key {one.key} stands for {made}"))
    for key in refused:
        if orders_of.get(key):
            findings.append(Finding("refused_checkout_made_an_order", key, f"{orders_of[key]}"))
    for order, told in (statuses or {}).items():
        now = ours.orders[order].status if order in ours.orders else "missing"
        if now != told and (told, now) != ("shipped", "completed"):
            findings.append(Finding("promise_broken", order, f"a client was told {told}; it is {now}"))
    for refund in refunds:
        if refund not in ours.refunds:
            findings.append(Finding("accepted_refund_missing", refund, "a client was told its number"))
    return tuple(findings)


class _Auditor:
    def __init__(self, ours: Ours, theirs: Theirs, slack_s: float) -> None:
        self.ours = ours
        self.theirs = theirs
        self.slack_s = slack_s
        self.cents_off: Counter[str] = Counter()
        self.findings: list[Finding] = []
        self.payments_of: dict[str, list[tuple[str, Row]]] = defaultdict(list)
        for name, payment in ours.payments.items():
            self.payments_of[payment.reference].append((name, payment))
        self.refunds_of: dict[Any, list[tuple[str, Row]]] = defaultdict(list)
        for name, refund in ours.refunds.items():
            self.refunds_of[refund.payment_id].append((name, refund))
        lines: dict[Any, list[Row]] = defaultdict(list)
        for posting in ours.postings:
            lines[posting.entry_id].append(posting)
        self.lines = lines
        self.posted = {entry.key for entry in ours.entries}
        # What entries say by (kind, subject): the clearing account's side, debit positive.
        self.cleared: Counter[tuple[str, str]] = Counter()
        for entry in ours.entries:
            for posting in lines[entry.id]:
                if ours.accounts[posting.account_id].kind == "provider_clearing":
                    subject = entry.key.removeprefix("fee:") if entry.kind == "fee" else entry.subject
                    self.cleared[entry.kind, subject] += posting.amount_minor

    def audit(self) -> Audit:
        checks: tuple[Callable[[], None], ...] = (
            self.charges,
            self.refunds,
            self.disputes,
            self.payouts,
            self.fees,
            self.clearing,
            self.kept_money,
            self.entries,
            self.customers,
            self.store_credit,
            self.points,
            self.stock,
            self.shelves_of_orders,
            self.stuck_orders,
            self.stuck_money,
            self.sagas,
            self.sales,
            self.messages,
            self.idempotency_keys,
        )
        for check in checks:
            check()
        charged = [charge for charge in self.theirs.charges.values() if charge["status"] == "succeeded"]
        return Audit(
            tuple(self.findings),
            {currency: cents for currency, cents in self.cents_off.items() if cents},
            Counter(order.status for order in self.ours.orders.values()),
            charges=len(charged),
            refunds=len(self.theirs.refunds),
        )

    def found(self, code: str, where: object, text: str) -> None:
        self.findings.append(Finding(code, str(where), text))

    def differs(self, code: str, where: str, currency: str, theirs: int, ours: int) -> None:
        """Compare two amounts of one thing, and count what they are apart."""
        if theirs != ours:
            self.cents_off[currency] += abs(theirs - ours)
            self.found(code, where, f"the provider has {theirs} {currency}, we have {ours}")

    # --- Our books against theirs -------------------------------------------------------------------

    def charges(self) -> None:
        by_charge = {row.charge_reference: (name, row) for name, row in self.ours.payments.items()}
        for charge in self.theirs.charges.values():
            if charge["status"] != "succeeded":
                continue
            taken = charge["amount_captured"]
            name, payment = by_charge.pop(charge["id"], ("", None))
            if payment is None:
                self.cents_off[charge["currency"]] += taken
                self.found("charge_unknown_to_us", charge["id"], f"{taken} {charge['currency']} {charge['metadata']}")
                continue
            if payment.status != "succeeded":
                self.found("charge_not_succeeded_with_us", name, f"ours is {payment.status}")
            self.differs("captured_amount", name, charge["currency"], taken, payment.captured_minor)
            posted = self.cleared["capture", name]
            self.differs("captured_in_the_ledger", name, charge["currency"], taken, posted)
        for name, payment in self.ours.payments.items():
            by_credit_alone = not payment.amount_minor
            if (
                payment.status == "succeeded"
                and not by_credit_alone
                and (payment.charge_reference not in self.theirs.charges)
            ):
                self.cents_off[payment.currency] += payment.captured_minor
                self.found("capture_without_a_charge", name, f"{payment.captured_minor} {payment.currency}")
            if payment.status != "succeeded" and (payment.captured_minor or self.cleared["capture", name]):
                self.found("capture_of_an_unpaid_payment", name, f"it is {payment.status}")

    def refunds(self) -> None:
        by_reference = {row.provider_reference: (name, row) for name, row in self.ours.refunds.items()}
        for refund in self.theirs.refunds.values():
            gone = refund["amount"] if refund["status"] == "succeeded" else 0
            name, ours = by_reference.get(refund["id"], ("", None))
            if ours is None and refund["status"] in ("failed", "canceled"):
                continue  # made behind our back, and came to nothing before we heard of it
            if ours is None:
                self.cents_off[refund["currency"]] += refund["amount"]
                self.found("refund_unknown_to_us", refund["id"], f"{refund['amount']} {refund['currency']}")
                continue
            if refund["status"].replace("canceled", "cancelled") != ours.status:
                self.found("refund_status", name, f"the provider has {refund['status']}, we have {ours.status}")
            self.differs("refunded_amount", name, refund["currency"], refund["amount"], ours.amount_minor)
            posted = -self.cleared["refund", name] - self.cleared["refund_failed_late", name]
            self.differs("refunded_in_the_ledger", name, refund["currency"], gone, posted)
        for name, ours in self.ours.refunds.items():
            # What our own bank paid, or what went back as store credit alone, is none of the provider's business.
            theirs_to_pay = ours.amount_minor and not ours.paid_outside
            if ours.status == "succeeded" and theirs_to_pay and ours.provider_reference not in self.theirs.refunds:
                self.cents_off[ours.currency] += ours.amount_minor
                self.found("refund_without_the_provider", name, f"{ours.amount_minor} {ours.currency}")
        for name, payment in self.ours.payments.items():
            mine = [row for _, row in self.refunds_of[payment.id]]
            paid = sum(row.amount_minor for row in mine if row.status == "succeeded")
            held = sum(row.amount_minor for row in mine if row.status not in _REFUND_FAILED)
            if (paid, held) != (payment.refunded_minor, payment.refunds_committed_minor):
                sums = f"{payment.refunded_minor} refunded, {payment.refunds_committed_minor} committed"
                self.found("refund_sums", name, f"{sums}; its refunds say {paid} and {held}")
            if held > payment.captured_minor:
                self.found("over_refunded", name, f"{held} of {payment.captured_minor}")
            self.credit_refunds(name, payment)
        self._debts()

    def _debts(self) -> None:
        """What payments owe since refunds failed stands on the accounts of their customers."""
        owed: Counter[str] = Counter()
        for posting in self.ours.postings:
            account = self.ours.accounts[posting.account_id]
            if account.kind == "refunds_owed":
                owed[account.currency] -= posting.amount_minor
        for payment in self.ours.payments.values():
            owed[payment.currency] -= payment.refunds_owed_minor
        for currency, cents in owed.items():
            if cents:
                self.found("debts_to_customers", currency, f"the ledger owes {cents} more than payments say")

    def disputes(self) -> None:
        """Each has its provider's status; what was withdrawn is posted; none of it stays on `disputes` once it is over."""
        by_reference = {row.provider_reference: (name, row) for name, row in self.ours.disputes.items()}
        charges = {row.charge_reference for row in self.ours.payments.values()}
        held: Counter[str] = Counter()
        for entry in self.ours.entries:
            for line in self.lines[entry.id]:
                if self.ours.accounts[line.account_id].kind == "disputes":
                    held[entry.subject] += line.amount_minor
        for dispute in self.theirs.disputes.values():
            name, ours = by_reference.get(dispute["id"], ("", None))
            taken = -sum(row["amount"] for row in dispute["balance_transactions"])
            if ours is None:
                if dispute["charge"] in charges:  # else its charge is told of
                    self.cents_off[dispute["currency"]] += abs(taken)
                    self.found("dispute_unknown_to_us", dispute["id"], f"{taken} {dispute['currency']} withdrawn")
                continue
            if dispute["status"].replace("warning", "inquiry") != ours.status:
                self.found("dispute_status", name, f"the provider has {dispute['status']}, we have {ours.status}")
            self.differs("withdrawn_amount", name, dispute["currency"], taken, ours.withdrawn_minor)
            posted = -self.cleared["dispute_withdrawn", name] - self.cleared["dispute_reinstated", name]
            self.differs("withdrawn_in_the_ledger", name, dispute["currency"], taken, posted)
            still_open = 0 if ours.status in {"lost", "prevented"} else taken
            self.differs("open_in_the_ledger", name, dispute["currency"], still_open, held[name])
        for name, payment in self.ours.payments.items():
            mine = [row for row in self.ours.disputes.values() if row.payment_id == payment.id]
            is_open = any(row.status in ("needs_response", "under_review") and not row.refundable for row in mine)
            lost = sum(row.lost_minor for row in mine)
            if (is_open, lost) != (payment.disputed, payment.disputed_lost_minor):
                self.found("dispute_mark", name, f"disputed {payment.disputed}, lost {payment.disputed_lost_minor}")

    def payouts(self) -> None:
        """Each has its provider's status; it is posted while it is paid; what is listed adds up to nothing."""
        by_reference = {row.provider_reference: (name, row) for name, row in self.ours.payouts.items()}
        for payout in self.theirs.payouts.values():
            name, ours = by_reference.get(payout["id"], ("", None))
            if ours is None:
                self.cents_off[payout["currency"]] += payout["amount"]
                self.found("payout_unknown_to_us", payout["id"], f"{payout['amount']} {payout['currency']}")
                continue
            if payout["status"].replace("canceled", "cancelled") != ours.status:
                self.found("payout_status", name, f"the provider has {payout['status']}, we have {ours.status}")
            gone = payout["amount"] if payout["status"] == "paid" else 0
            posted = -self.cleared["payout", name] - self.cleared["payout_failed", name]
            self.differs("payout_in_the_ledger", name, payout["currency"], gone, posted)
            if not ours.listed or ours.net_minor or ours.rows < 2:
                self.found("payout_transactions", name, f"{ours.rows} rows, {ours.net_minor} off, listed {ours.listed}")

    def credit_refunds(self, name: str, payment: Row) -> None:
        """What goes back as store credit is the customer's once the refund succeeded, also if the card's part fails."""
        given = open_minor = 0
        for refund_name, refund in self.refunds_of[payment.id]:
            if f"refund_credit:{refund_name}" in self.posted:
                given += refund.credit_minor
            elif refund.status not in _REFUND_FAILED:
                open_minor += refund.credit_minor
        sums = (payment.credit_refunded_minor, payment.credit_refunds_committed_minor)
        if sums != (given, given + open_minor):
            self.found("credit_refund_sums", name, f"{sums}; its refunds say {given} and {given + open_minor}")
        if sums[1] + payment.refunds_committed_minor > payment.captured_minor + payment.credit_captured_minor:
            self.found("over_refunded", name, f"{sums[1]} as store credit, {payment.refunds_committed_minor} besides")

    def fees(self) -> None:
        booked = {row["id"]: row for row in self.theirs.balance_transactions.values() if row["fee"]}
        for name, row in booked.items():
            self.differs("fee", name, row["currency"], row["fee"], -self.cleared["fee", name])
        for kind, name in self.cleared:
            if kind == "fee" and name not in booked:
                self.found("fee_unknown_to_the_provider", name, "posted with us")

    def clearing(self) -> None:
        ours: Counter[str] = Counter()
        for posting in self.ours.postings:
            account = self.ours.accounts[posting.account_id]
            if account.kind == "provider_clearing":
                ours[account.currency] += posting.amount_minor
        # A refund that the bank still works on is off their balance at once, off ours when it succeeded.
        for refund in self.theirs.refunds.values():
            if refund["status"] in ("pending", "requires_action"):
                ours[refund["currency"]] -= refund["amount"]
        # So is a payout on its way to the bank.
        for payout in self.theirs.payouts.values():
            if payout["status"] in ("pending", "in_transit"):
                ours[payout["currency"]] -= payout["amount"]
        for currency in ours.keys() | self.theirs.balance.keys():
            theirs = self.theirs.balance.get(currency, 0)
            if theirs != ours[currency]:
                self.cents_off[currency] = max(self.cents_off[currency], abs(theirs - ours[currency]))
                self.found("clearing", currency, f"the provider's balance is {theirs}, our account {ours[currency]}")

    def kept_money(self) -> None:
        """What the provider keeps for an order after refunds: one charge of a sold order, nothing of any other."""
        kept: Counter[str] = Counter()
        refunded: Counter[str] = Counter()
        for refund in self.theirs.refunds.values():
            if refund["status"] in ("succeeded", "pending", "requires_action"):
                refunded[refund["charge"]] += refund["amount"]
        for charge in self.theirs.charges.values():
            if charge["status"] == "succeeded":
                kept[charge["metadata"].get("order", "")] += charge["amount_captured"] - refunded[charge["id"]]
        for name, cents in kept.items():
            order = self.ours.orders.get(name)
            if order is None:
                self.found("money_without_an_order", name, f"{cents} kept")
                continue
            settling = [payment for _, payment in self.payments_of[name] if payment.settling]
            explained = sum(row.captured_minor - row.refunded_minor for row in settling) if order.status in _SOLD else 0
            for _, payment in self.payments_of[name]:
                kept_for_a_sale = payment.settling and order.status in _SOLD
                # A refund failed and is owed: a person has to look; the money is explained.
                explained += 0 if kept_for_a_sale else payment.refunds_owed_minor
                # Given back as store credit beyond what was paid with it: the provider keeps that part of the card's.
                became_credit = max(0, payment.credit_refunded_minor - payment.credit_captured_minor)
                explained += 0 if kept_for_a_sale else became_credit
                # Our own bank paid it, so the provider still has it.
                outside = [one for _, one in self.refunds_of[payment.id] if one.paid_outside]
                explained += sum(one.amount_minor for one in outside if one.status == "succeeded")
            # What waits for a person is with the provider still, what waits for a bank not any more.
            waits = [
                (payment.settling and order.status in _SOLD, refund.amount_minor)
                for _, payment in self.payments_of[name]
                for _, refund in self.refunds_of[payment.id]
                if refund.status in _REFUND_WAITS
            ]
            least = explained - sum(cents for is_sold, cents in waits if is_sold)
            most = explained + sum(cents for is_sold, cents in waits if not is_sold)
            if not least <= cents <= most:
                self.found("kept_money", name, f"{cents} {order.currency} kept, {explained} explained ({order.status})")

    # --- Our books in themselves --------------------------------------------------------------------

    def entries(self) -> None:
        for entry in self.ours.entries:
            lines = self.lines[entry.id]
            if len(lines) < 2 or sum(line.amount_minor for line in lines):
                self.found("entry_unbalanced", entry.key, f"{[line.amount_minor for line in lines]}")
            if {self.ours.accounts[line.account_id].currency for line in lines} - {entry.currency}:
                self.found("entry_mixes_currencies", entry.key, entry.currency)

    def customers(self) -> None:
        """Balances are the sums of their postings; of a sale nothing stays with the customer or in flight."""
        credited: Counter[Any] = Counter()
        left: Counter[tuple[str, str]] = Counter()
        for entry in self.ours.entries:
            for line in self.lines[entry.id]:
                account = self.ours.accounts[line.account_id]
                if account.kind in _KEEP_A_BALANCE:
                    credited[account.id] -= line.amount_minor
                if account.kind in ("customer", "refunds_in_flight"):
                    left[entry.reference, account.kind] -= line.amount_minor
        for account in self.ours.accounts.values():
            if account.kind in _KEEP_A_BALANCE and account.balance_minor != credited[account.id]:
                self.found("customer_balance", account.customer, f"{account.balance_minor}, not {credited[account.id]}")
        for (reference, kind), cents in left.items():
            refunds = [refund for _, row in self.payments_of[reference] for _, refund in self.refunds_of[row.id]]
            if cents and not any(refund.status in (*_REFUND_FAILED, *_REFUND_WAITS) for refund in refunds):
                self.found("money_left_over", reference, f"{cents} on {kind}")

    def store_credit(self) -> None:
        """What is held is what live attempts, and successes whose sale is not in the books, set aside: no more, no less."""
        right: Counter[tuple[Any, str, str]] = Counter()
        refunds_took: Counter[str] = Counter()  # by the refund's number
        for entry in self.ours.entries:
            if entry.kind.startswith("refund_credit"):
                for line in self.lines[entry.id]:
                    if self.ours.accounts[line.account_id].kind == "store_credit_held":
                        refunds_took[entry.subject] += line.amount_minor
        for name, payment in self.ours.payments.items():
            whose = (payment.merchant_id, payment.customer, payment.currency)
            if payment.status in _LIVE:
                right[whose] += payment.credit_minor
            elif payment.credit_captured_minor and f"credit_spent:{name}" not in self.posted:
                taken = sum(refunds_took[refund] for refund, _ in self.refunds_of[payment.id])
                right[whose] += payment.credit_captured_minor - taken
        for account in self.ours.accounts.values():
            if account.kind == "store_credit_held":
                right[account.merchant_id, account.customer, account.currency] -= account.balance_minor
        for whose, cents in right.items():
            if cents:
                self.found("store_credit_held", whose[1], f"{cents} {whose[2]} should be held, and is not")

    def points(self) -> None:
        """Of each payment: what its sale earned, less the share that was refunded, or lost to disputes."""
        of_payment: dict[str, Counter[str]] = defaultdict(Counter)
        for entry in self.ours.entries:
            for line in self.lines[entry.id]:
                if self.ours.accounts[line.account_id].kind == "points":
                    of_payment[entry.subject][entry.kind] -= line.amount_minor
        for name, kinds in of_payment.items():
            payment = self.ours.payments[name]
            collected = payment.captured_minor + payment.credit_captured_minor
            gone = payment.refunded_minor + payment.credit_refunded_minor + payment.disputed_lost_minor
            earned = kinds["points_earned"]
            right = 0 if "points_reversed" in kinds else earned - earned * min(gone, collected) // collected
            if sum(kinds.values()) != right:
                self.found("points", name, f"{sum(kinds.values())} points, {right} earned and kept")

    # --- Stock --------------------------------------------------------------------------------------

    def stock(self) -> None:
        for row in self.ours.stock:
            if (row.on_hand, row.reserved) != (row.logged_on_hand, row.logged_reserved):
                logged = f"the log says {row.logged_on_hand} and {row.logged_reserved}"
                self.found("stock_log", row.product_id, f"{row.on_hand} on hand, {row.reserved} reserved; {logged}")
            if row.reserved != row.held:
                self.found("stock_reserved", row.product_id, f"{row.reserved} reserved, {row.held} held by orders")
            if not 0 <= row.reserved <= row.on_hand:
                self.found("oversold", row.product_id, f"{row.on_hand} on hand, {row.reserved} reserved")

    def shelves_of_orders(self) -> None:
        """Pending orders hold their items reserved, sold ones sold, cancelled ones not at all."""
        holds = {(row.reference, row.product_id): (row.reserved, row.sold) for row in self.ours.holds}
        names = {order.id: name for name, order in self.ours.orders.items()}
        for item in self.ours.items:
            name = names.get(item.order_id)
            if name is None:
                self.found("item_without_an_order", item.order_id, f"{item.quantity} of {item.product_id}")
                continue
            status = self.ours.orders[name].status
            right = (item.quantity if status == "pending" else 0, item.quantity if status in _SOLD else 0)
            held = holds.pop((name, item.product_id), (0, 0))
            if held != right:
                self.found("shelf_of_an_order", name, f"{status}: (reserved, sold) is {held}, not {right}")
        for (reference, _), held in holds.items():
            if reference.startswith("ord_") and held != (0, 0):
                self.found("hold_without_an_order", reference, f"(reserved, sold) is {held}")

    # --- Nothing stuck, nothing without an owner ------------------------------------------------------

    def stuck_orders(self) -> None:
        for name, order in self.ours.orders.items():
            if order.status == "pending" and order.overdue_s > self.slack_s:
                self.found("order_not_expired", name, f"due for {order.overdue_s:.0f} s")
            waits = any(
                refund.status in _REFUND_WAITS
                for _, payment in self.payments_of[name]
                for _, refund in self.refunds_of[payment.id]
            )
            # A cancelled or shipped order may keep the moment at which it was asked for.
            asked = order.status in ("pending", "paid") and order.cancelling_s is not None
            if asked and not waits and order.cancelling_s > self.slack_s:
                self.found("cancel_requested_for_ever", name, f"{order.status}, for {order.cancelling_s:.0f} s")

    def stuck_money(self) -> None:
        for name, payment in self.ours.payments.items():
            order = self.ours.orders.get(payment.reference)
            if payment.status in ("unknown", "processing") and payment.age_s > self.slack_s:
                self.found("payment_stuck", name, f"{payment.status} for {payment.age_s:.0f} s")
            if payment.status in _LIVE and order is not None and order.status != "pending":
                self.found("payment_open_for_a_closed_order", name, f"{payment.status}, the order is {order.status}")
            intent = self.theirs.intents.get(payment.provider_reference or "")
            if (
                payment.status in ("cancelled", "failed")
                and intent
                and intent["status"] not in ("canceled", "succeeded")
            ):
                self.found("intent_left_open", name, f"ours is {payment.status}, the provider's {intent['status']}")
        for name, refund in self.ours.refunds.items():
            if refund.status in _REFUND_UNDER_WAY and refund.age_s > self.slack_s:
                self.found("refund_stuck", name, f"{refund.status} for {refund.age_s:.0f} s")
        known = {payment.provider_reference for payment in self.ours.payments.values()}
        for intent in self.theirs.intents.values():
            confirmable = intent["status"] in ("requires_payment_method", "requires_confirmation", "requires_action")
            if confirmable and intent["id"] not in known:
                self.found("intent_unknown_to_us", intent["id"], f"{intent['status']} {intent['metadata']}")

    def sagas(self) -> None:
        for run in self.ours.sagas:
            name = f"{run.recipe} {run.key}"
            if run.state == "compensation_failed":
                self.found("compensation_failed", name, run.error[-300:])
            elif run.state in ("running", "compensating") and run.overdue_s > self.slack_s:
                self.found("saga_without_an_owner", name, f"{run.state}, overdue for {run.overdue_s:.0f} s")

    def sales(self) -> None:
        """Each success that settles has been carried through; each sold order has one."""
        runs = {run.key: run.state for run in self.ours.sagas if run.recipe == "orders.payment_success"}
        for name, payment in self.ours.payments.items():
            if payment.reference not in self.ours.orders or not payment.settling:
                continue
            state = runs.get(name)
            if state not in ("completed", "compensated"):
                self.found("sale_not_carried_through", name, f"its saga is {state}")
            if state == "compensated" and self.ours.orders[payment.reference].status != "cancelled":
                self.found("sale_undone_but_order_open", payment.reference, "its saga was compensated")
            given_back = [refund for _, refund in self.refunds_of[payment.id] if refund.requested_by == _SAGA_OF_A_SALE]
            if given_back and self.ours.orders[payment.reference].was_paid:
                self.found(
                    "sale_given_back", payment.reference, "it was paid, and nobody but its own saga wanted it undone"
                )
        for name, order in self.ours.orders.items():
            settling = [payment for _, payment in self.payments_of[name] if payment.settling]
            if order.status in _SOLD and len(settling) != 1:
                self.found("sold_order_is_paid_once", name, f"{len(settling)} payments settle it")

    def messages(self) -> None:
        for row in self.ours.handlers:
            self.found("delivery_missing", row.id, f"{row.name} {row.key} has none for {row.handler}")
        for row in self.ours.deliveries:
            if row.state == "parked":
                self.found("delivery_parked", row.id, f"{row.handler} {row.key}: {row.last_error[-300:]}")
            elif row.overdue_s > self.slack_s:
                self.found("delivery_open", row.id, f"{row.handler} {row.key} due for {row.overdue_s:.0f} s")
        for row in self.ours.messages:
            if row.age_s > self.slack_s:
                self.found("message_not_in_the_stream", row.id, f"{row.name} {row.key}")

    def idempotency_keys(self) -> None:
        of_checkout = [row for row in self.ours.keys if row.path.endswith("/checkout")]
        keys_of = Counter(row.subject for row in of_checkout)
        for row in of_checkout:
            if row.subject not in self.ours.orders:
                self.found("key_without_an_order", row.key, f"it stands for {row.subject or 'nothing'}")
        for subject, count in keys_of.items():
            if count > 1:
                self.found("order_of_several_keys", subject, f"{count} keys")
