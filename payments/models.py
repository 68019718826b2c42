"""Payments, refunds, the ledger and the webhook inbox. Every invariant stands here as a constraint or a trigger."""

from collections.abc import Iterable

import pgtrigger
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from foundation.ids import Numbered, uuid7
from foundation.money import POINTS
from foundation.transition import TransitionRecord, never_emptied, protect_append_only, transition_guard
from payments.states import (
    DISPUTE_CLOSED,
    DISPUTE_EDGES,
    DISPUTE_OPEN,
    GRANT_EDGES,
    PAYMENT_EDGES,
    PAYMENT_LIVE,
    PAYOUT_EDGES,
    REFUND_EDGES,
    REFUND_OPEN,
    REFUND_STARTED,
    REFUND_UNAPPROVED,
    GrantStatus,
    PaymentStatus,
    RefundStatus,
)

# Accounts of one customer at one merchant: they alone keep a balance, are locked, and are never overdrawn.
CUSTOMER_KINDS = ("customer", "store_credit", "store_credit_held", "points")
POINTS_KINDS = ("points", "points_issued")


def notes_late_change(*, moment: str, says: Iterable[str]) -> pgtrigger.Trigger:
    """What a movement says to whoever compares days (`says`) changed after its day (that of `moment`, UTC) was over: the day is
    noted (`LateChange`). From a little before midnight on: a transaction may see the new day before it is committed."""
    before, now = (", ".join(f"{row}.{name}" for name in (moment, *says)) for row in ("OLD", "NEW"))
    return pgtrigger.Trigger(
        name="notes_late_change",
        level=pgtrigger.Row,
        when=pgtrigger.After,
        operation=pgtrigger.Insert | pgtrigger.Update,
        condition=pgtrigger.Condition(
            f"((NEW.{moment} AT TIME ZONE 'UTC')::date <"
            f" ((clock_timestamp() + interval '10 minutes') AT TIME ZONE 'UTC')::date)"
        ),
        func=f"""
            IF TG_OP = 'UPDATE' THEN
                IF ({before}) IS NOT DISTINCT FROM ({now}) THEN
                    RETURN NULL;
                END IF;
                INSERT INTO payments_latechange (day)
                SELECT (OLD.{moment} AT TIME ZONE 'UTC')::date WHERE OLD.{moment} <> NEW.{moment};
            END IF;
            INSERT INTO payments_latechange (day) VALUES ((NEW.{moment} AT TIME ZONE 'UTC')::date);
            RETURN NULL;
        """,  # noqa: S608  columns, of the models below
    )


class Payment(Numbered, models.Model):
    """One attempt to collect an amount for a reference (an order's number, opaque here).

    Two parts make the whole: `amount_minor` is asked at the provider, `credit_minor` is taken from the customer's store
    credit. Either may be 0. What is captured, refunded and compared with the provider's books is counted per part.
    """

    PREFIX = "pay"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    merchant_id = models.UUIDField()
    reference = models.CharField(max_length=64)
    customer = models.CharField(max_length=255)
    status = models.CharField(max_length=20, default=PaymentStatus.PENDING)
    amount_minor = models.BigIntegerField()
    currency = models.CharField(max_length=3)
    # Held on the customer's account from the first moment; given back where the attempt fails or is cancelled.
    credit_minor = models.BigIntegerField(default=0, db_default=0)
    method = models.CharField(max_length=32, default="card")
    payment_method = models.CharField(max_length=255, blank=True)  # the provider's token, if we confirm
    confirm = models.BooleanField(default=False)
    # What the provider says. The moment of the first send is committed before it: from 23 h on we only look up.
    first_sent_at = models.DateTimeField(null=True)
    last_sent_at = models.DateTimeField(null=True)  # under the same key: between the two it was made, if it was
    provider_reference = models.CharField(max_length=255, null=True)  # noqa: DJ001  unique where known
    charge_reference = models.CharField(max_length=255, null=True)  # noqa: DJ001  unique where known
    captured_minor = models.BigIntegerField(default=0)
    corrected_minor = models.BigIntegerField(default=0)  # Σ of correcting entries that finance posted against it
    captured_at = models.DateTimeField(null=True)  # the provider's clock: decides the day in the books
    credit_captured_minor = models.BigIntegerField(default=0, db_default=0)  # all of it, once this success settles
    # The one success that pays the reference; another one is stored as not settling and refunded.
    settling = models.BooleanField(default=False)
    # Σ open + succeeded refunds, and Σ succeeded, kept under this row's lock; both end at what was captured.
    refunds_committed_minor = models.BigIntegerField(default=0)
    refunded_minor = models.BigIntegerField(default=0)
    # What refunds made at the provider behind our back commit beyond what was captured.
    refunds_excess_minor = models.BigIntegerField(default=0)
    # What refunds that failed left as a debt to the customer: it can be refunded again, and is not the merchant's.
    refunds_owed_minor = models.BigIntegerField(default=0)
    # The same for what goes back as store credit: it may exceed the credit part, not what was collected in all.
    credit_refunds_committed_minor = models.BigIntegerField(default=0, db_default=0)
    credit_refunded_minor = models.BigIntegerField(default=0, db_default=0)
    # Set while a dispute is open: nothing is refunded meanwhile, or the customer would be paid twice.
    disputed_at = models.DateTimeField(null=True)
    disputed_lost_minor = models.BigIntegerField(default=0)  # what lost disputes took: it cannot be refunded any more
    failure_code = models.CharField(max_length=64, blank=True)
    failure_decline_code = models.CharField(max_length=64, blank=True)
    failure_message = models.TextField(blank=True)
    fraud_marked_at = models.DateTimeField(null=True)
    # What the provider says and cannot be: a line a contradiction, each told once. Such an attempt is never marked paid.
    contradicted_at = models.DateTimeField(null=True)
    contradiction = models.TextField(blank=True, default="", db_default="")
    # Nobody but a person can settle it: why, and since when. What was tried stands in ProviderTry.
    person_needed_at = models.DateTimeField(null=True)
    person_needed_why = models.TextField(blank=True, default="", db_default="")
    paid_at = models.DateTimeField(null=True)
    next_check_at = models.DateTimeField(null=True)
    checks = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        permissions = [
            ("recheck_payment", "Can read payments and refunds again at the provider"),
            ("refund_payment", "Can refund payments"),
            ("decide_payment", "Can decide over payments and refunds that need a person"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(amount_minor__gte=0, credit_minor__gte=0) & (Q(amount_minor__gt=0) | Q(credit_minor__gt=0)),
                name="payment_amount_positive",
            ),
            # A success whose credit was given back before it came cannot pay the reference: it is refunded.
            models.CheckConstraint(
                condition=Q(settling=True, credit_captured_minor=F("credit_minor"))
                | Q(settling=False, credit_captured_minor=0),
                name="payment_settles_with_its_credit",
            ),
            models.CheckConstraint(
                condition=Q(
                    credit_refunded_minor__gte=0,
                    credit_refunds_committed_minor__gte=F("credit_refunded_minor"),
                    credit_refunds_committed_minor__lte=F("captured_minor")
                    + F("credit_captured_minor")
                    - F("refunds_committed_minor"),
                ),
                name="payment_refunds_within_collected",
            ),
            models.CheckConstraint(
                condition=Q(refunds_committed_minor__gte=0) & Q(refunds_committed_minor__lte=F("captured_minor")),
                name="payment_refunds_within_captured",
            ),
            models.CheckConstraint(
                condition=Q(refunded_minor__gte=0) & Q(refunded_minor__lte=F("captured_minor")),
                name="payment_refunded_within_captured",
            ),
            models.CheckConstraint(
                condition=Q(refunds_owed_minor=0)
                | Q(refunds_owed_minor__gt=0)
                & Q(refunds_owed_minor__lte=F("captured_minor") - F("refunds_committed_minor")),
                name="payment_owes_what_is_not_refunded",
            ),
            models.CheckConstraint(condition=Q(refunds_excess_minor__gte=0), name="payment_refund_excess_not_negative"),
            models.CheckConstraint(condition=Q(disputed_lost_minor__gte=0), name="payment_lost_not_negative"),
            models.CheckConstraint(
                condition=~Q(status=PaymentStatus.SUCCEEDED)
                | Q(captured_at__isnull=False, captured_minor__gt=0)
                | Q(amount_minor=0, credit_captured_minor__gt=0),
                name="payment_succeeded_has_capture",
            ),
            models.UniqueConstraint(
                fields=["merchant_id", "reference"],
                condition=Q(status__in=PAYMENT_LIVE),
                name="payment_one_live_attempt_per_reference",
            ),
            models.UniqueConstraint(
                fields=["merchant_id", "reference"], condition=Q(settling=True), name="payment_one_settles_a_reference"
            ),
            models.UniqueConstraint(fields=["provider_reference"], name="payment_provider_reference_unique"),
            models.UniqueConstraint(fields=["charge_reference"], name="payment_charge_reference_unique"),
        ]
        indexes = [
            models.Index(fields=["merchant_id", "reference"], name="payment_by_reference"),
            models.Index(fields=["captured_at"], name="payment_captured", condition=Q(captured_at__isnull=False)),
            # What is open goes first; what has ended is read again with what is left of the rate.
            models.Index(
                fields=["next_check_at"],
                name="payment_to_recheck",
                condition=Q(next_check_at__isnull=False, status__in=PAYMENT_LIVE),
            ),
            models.Index(
                fields=["next_check_at"],
                name="payment_to_reread",
                condition=Q(next_check_at__isnull=False) & ~Q(status__in=PAYMENT_LIVE),
            ),
            models.Index(fields=["id"], name="payment_needs_a_person", condition=Q(person_needed_at__isnull=False)),
            models.Index(fields=["id"], name="payment_owes_a_refund", condition=Q(refunds_owed_minor__gt=0)),
        ]
        triggers = [
            transition_guard(field="status", edges=PAYMENT_EDGES),
            notes_late_change(
                moment="captured_at",
                says=(
                    "status",
                    "captured_minor",
                    "corrected_minor",
                    "currency",
                    "charge_reference",
                    "provider_reference",
                ),
            ),
        ]


class PaymentHistory(TransitionRecord):
    subject = models.ForeignKey(Payment, on_delete=models.PROTECT, related_name="history")

    class Meta:
        verbose_name_plural = "payment history"
        triggers = [protect_append_only()]


class Refund(Numbered, models.Model):
    """Money on its way back to a customer: `amount_minor` by the provider, `credit_minor` as store credit."""

    PREFIX = "ref"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    merchant_id = models.UUIDField()
    payment = models.ForeignKey(Payment, on_delete=models.PROTECT, related_name="refunds")
    status = models.CharField(max_length=20, default=RefundStatus.REQUESTED)
    amount_minor = models.BigIntegerField()
    credit_minor = models.BigIntegerField(default=0, db_default=0)
    corrected_minor = models.BigIntegerField(default=0)
    currency = models.CharField(max_length=3)
    reason = models.TextField()
    requested_by = models.CharField(max_length=150)
    # The merchant's limit as it was when the refund was asked for: above it a second person approves. Null: none applied.
    approval_above_minor = models.BigIntegerField(null=True)
    approved_by = models.CharField(max_length=150, blank=True)
    approved_at = models.DateTimeField(null=True)
    # Nobody decided it: money that no order explains goes back. It waits for nobody, and where it fails it is a debt.
    automatic = models.BooleanField(default=False)
    # True where the provider made it behind our back: it may break the sum, and is recorded all the same.
    made_elsewhere = models.BooleanField(default=False)
    # Paid by our bank, not by the provider: what is owed after a refund that failed.
    paid_outside = models.BooleanField(default=False)
    again_of = models.ForeignKey("self", on_delete=models.PROTECT, null=True, related_name="again", db_index=False)
    failed_late_at = models.DateTimeField(null=True)  # it had succeeded, and the bank sent it back
    first_sent_at = models.DateTimeField(null=True)
    provider_reference = models.CharField(max_length=255, null=True)  # noqa: DJ001  unique where known
    provider_created_at = models.DateTimeField(null=True)  # the provider's clock: decides the day in the books
    failure_code = models.CharField(max_length=64, blank=True)
    failure_message = models.TextField(blank=True)
    contradicted_at = models.DateTimeField(null=True)
    contradiction = models.TextField(blank=True, default="", db_default="")  # as on a payment
    person_needed_at = models.DateTimeField(null=True)
    person_needed_why = models.TextField(blank=True, default="", db_default="")
    completed_at = models.DateTimeField(null=True)
    next_check_at = models.DateTimeField(null=True)
    checks = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(amount_minor__gte=0, credit_minor__gte=0) & (Q(amount_minor__gt=0) | Q(credit_minor__gt=0)),
                name="refund_amount_positive",
            ),
            models.CheckConstraint(condition=~Q(reason=""), name="refund_has_a_reason"),
            # Maker and checker: nobody approves what they asked for, and nothing above the limit goes without.
            models.CheckConstraint(
                condition=Q(approved_by="") | ~Q(approved_by=F("requested_by")),
                name="refund_approver_is_a_second_person",
            ),
            models.CheckConstraint(
                condition=Q(approved_by="", approved_at__isnull=True)
                | ~Q(approved_by="") & Q(approved_at__isnull=False),
                name="refund_approval_is_dated",
            ),
            models.CheckConstraint(
                condition=Q(approval_above_minor__isnull=True)
                | Q(amount_minor__lte=F("approval_above_minor") - F("credit_minor"))
                | ~Q(approved_by="")
                | Q(status__in=REFUND_UNAPPROVED),
                name="refund_above_the_limit_is_approved",
            ),
            models.UniqueConstraint(fields=["provider_reference"], name="refund_provider_reference_unique"),
            models.UniqueConstraint(
                fields=["again_of"],
                # Of what we start: one that we gave up and the provider had made is recorded beside its successor.
                condition=Q(again_of__isnull=False, status__in=REFUND_STARTED),
                name="refund_made_again_once",
            ),
        ]
        indexes = [
            models.Index(
                fields=["provider_created_at"],
                name="refund_provider_created",
                condition=Q(provider_created_at__isnull=False),
            ),
            models.Index(
                fields=["next_check_at"],
                name="refund_to_recheck",
                condition=Q(next_check_at__isnull=False, status__in=REFUND_OPEN),
            ),
            models.Index(
                fields=["next_check_at"],
                name="refund_to_reread",
                condition=Q(next_check_at__isnull=False) & ~Q(status__in=REFUND_OPEN),
            ),
            models.Index(fields=["id"], name="refund_needs_a_person", condition=Q(person_needed_at__isnull=False)),
            # The desk's views of what waits or went wrong, beside millions that succeeded.
            models.Index(fields=["status", "id"], name="refund_not_succeeded", condition=~Q(status="succeeded")),
            models.Index(fields=["again_of"], name="refund_made_again", condition=Q(again_of__isnull=False)),
        ]
        permissions = [("approve_refund", "Can approve and reject refunds that somebody else asked for")]
        triggers = [
            transition_guard(field="status", edges=REFUND_EDGES),
            # What was asked for, and under which limit, is no matter of later opinion.
            pgtrigger.ReadOnly(
                name="terms_are_final",
                fields=["payment", "amount_minor", "credit_minor", "currency", "requested_by", "approval_above_minor"],
            ),
            pgtrigger.Protect(
                name="approved_once",
                operation=pgtrigger.Update,
                condition=~pgtrigger.Q(old__approved_by="")
                & pgtrigger.Q(old__approved_by__df=pgtrigger.F("new__approved_by")),
            ),
            # A refund and a dispute together pay the customer twice. What was made elsewhere is recorded all the same.
            pgtrigger.Trigger(
                name="never_while_disputed",
                level=pgtrigger.Row,
                when=pgtrigger.Before,
                operation=pgtrigger.Insert | pgtrigger.Update,
                func="""
                    IF NEW.made_elsewhere OR (
                        TG_OP = 'UPDATE' AND NOT (NEW.status = 'processing' AND OLD.status <> 'processing')
                    ) THEN
                        RETURN NEW;
                    END IF;
                    IF EXISTS (SELECT FROM payments_payment p
                               WHERE p.id = NEW.payment_id AND p.disputed_at IS NOT NULL) THEN
                        RAISE EXCEPTION 'payment % is disputed: it cannot be refunded', NEW.payment_id
                            USING ERRCODE = '23514', CONSTRAINT = 'refund_never_while_disputed';
                    END IF;
                    IF TG_OP = 'INSERT' AND EXISTS (
                        SELECT FROM payments_payment p WHERE p.id = NEW.payment_id AND p.disputed_lost_minor > 0
                        AND p.refunds_committed_minor + p.disputed_lost_minor + NEW.amount_minor > p.captured_minor
                    ) THEN
                        RAISE EXCEPTION 'a dispute took what is to be refunded of payment %', NEW.payment_id
                            USING ERRCODE = '23514', CONSTRAINT = 'refund_within_what_disputes_left';
                    END IF;
                    RETURN NEW;
                """,
            ),
            notes_late_change(
                moment="provider_created_at",
                says=("status", "amount_minor", "corrected_minor", "currency", "provider_reference"),
            ),
        ]


class RefundHistory(TransitionRecord):
    subject = models.ForeignKey(Refund, on_delete=models.PROTECT, related_name="history")

    class Meta:
        verbose_name_plural = "refund history"
        triggers = [protect_append_only()]


class Dispute(Numbered, models.Model):
    """A customer's bank takes a payment back, or asks about it. What became of it is the provider's word."""

    PREFIX = "dsp"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    merchant_id = models.UUIDField()
    payment = models.ForeignKey(Payment, on_delete=models.PROTECT, related_name="disputes")
    provider_reference = models.CharField(max_length=255)
    status = models.CharField(max_length=24)
    amount_minor = models.BigIntegerField()  # what the customer disputes
    currency = models.CharField(max_length=3)
    reason = models.CharField(max_length=64, blank=True)
    # Refunding the customer settles it: an inquiry does not keep anybody from refunding.
    refundable = models.BooleanField(default=False)
    withdrawn_minor = models.BigIntegerField(default=0)  # what the provider took and did not give back: Σ its bookings
    lost_minor = models.BigIntegerField(default=0)  # how much of that was posted as the merchant's loss
    evidence_due_at = models.DateTimeField(null=True)
    opened_at = models.DateTimeField()  # the provider's clock
    closed_at = models.DateTimeField(null=True)
    # Grows with each reading that was applied: one made before another was applied is not applied over it.
    readings = models.PositiveIntegerField(default=0)
    next_check_at = models.DateTimeField(null=True)
    checks = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(amount_minor__gt=0), name="dispute_amount_positive"),
            models.CheckConstraint(
                condition=Q(status__in=DISPUTE_CLOSED, closed_at__isnull=False)
                | (~Q(status__in=DISPUTE_CLOSED) & Q(closed_at__isnull=True)),
                name="dispute_closed_has_a_moment",
            ),
            models.UniqueConstraint(fields=["provider_reference"], name="dispute_provider_reference_unique"),
        ]
        indexes = [
            models.Index(fields=["evidence_due_at"], name="dispute_evidence_due", condition=Q(status__in=DISPUTE_OPEN)),
            models.Index(fields=["next_check_at"], name="dispute_due_check", condition=Q(next_check_at__isnull=False)),
        ]
        triggers = [
            transition_guard(field="status", edges=DISPUTE_EDGES),
            notes_late_change(moment="opened_at", says=("status", "withdrawn_minor", "currency", "provider_reference")),
        ]


class DisputeHistory(TransitionRecord):
    subject = models.ForeignKey(Dispute, on_delete=models.PROTECT, related_name="history")

    class Meta:
        verbose_name_plural = "dispute history"
        triggers = [protect_append_only()]


class Payout(Numbered, models.Model):
    """Money on its way from the provider to the operator's bank."""

    PREFIX = "pot"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    provider_reference = models.CharField(max_length=255)
    status = models.CharField(max_length=20)
    amount_minor = models.BigIntegerField()  # negative where the provider takes from the bank what the balance owes
    currency = models.CharField(max_length=3)
    automatic = models.BooleanField()
    arrives_on = models.DateField()
    trace_id = models.CharField(
        max_length=255, blank=True, default="", db_default=""
    )  # of the banks, once they told it
    failure_code = models.CharField(max_length=64, blank=True)
    failure_message = models.TextField(blank=True)
    # When all its transactions were stored; only those of automatic payouts can be listed.
    listed_at = models.DateTimeField(null=True)
    provider_created_at = models.DateTimeField()
    readings = models.PositiveIntegerField(default=0)  # as a dispute's
    next_check_at = models.DateTimeField(null=True)
    checks = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.CheckConstraint(condition=~Q(amount_minor=0), name="payout_not_zero"),
            models.UniqueConstraint(fields=["provider_reference"], name="payout_provider_reference_unique"),
        ]
        indexes = [
            models.Index(fields=["next_check_at"], name="payout_due_check", condition=Q(next_check_at__isnull=False)),
        ]
        triggers = [
            transition_guard(field="status", edges=PAYOUT_EDGES),
            notes_late_change(
                moment="provider_created_at", says=("status", "amount_minor", "currency", "provider_reference")
            ),
        ]


class PayoutHistory(TransitionRecord):
    subject = models.ForeignKey(Payout, on_delete=models.PROTECT, related_name="history")

    class Meta:
        verbose_name_plural = "payout history"
        triggers = [protect_append_only()]


class PayoutTransaction(models.Model):
    """A booking of the provider's that a payout pays out, as the provider lists it; net = amount − fee."""

    id = models.CharField(max_length=255, primary_key=True)  # txn_…
    payout = models.ForeignKey(Payout, on_delete=models.PROTECT, related_name="transactions")
    type = models.CharField(max_length=64)
    reporting_category = models.CharField(max_length=64)
    source = models.CharField(max_length=255, blank=True)
    amount_minor = models.BigIntegerField()
    fee_minor = models.BigIntegerField()
    net_minor = models.BigIntegerField()
    currency = models.CharField(max_length=3)
    booked_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(net_minor=F("amount_minor") - F("fee_minor")), name="payout_transaction_net"
            ),
        ]
        indexes = [models.Index(fields=["payout", "booked_at"], name="payout_transaction_in_order")]

    def __str__(self) -> str:
        return self.id


class LateChange(models.Model):
    """A day (UTC) on which a movement of ours came, or changed, after the day was over: whoever has compared that day with the
    provider's books has not seen it. Written by triggers, in the transaction of the change; forgotten by the comparison that saw it.
    """

    id = models.BigAutoField(primary_key=True)
    day = models.DateField()

    def __str__(self) -> str:
        return f"{self.day}"


class Account(models.Model):
    """An account of the ledger. Only a customer's keeps a balance: it alone is locked, and never overdrawn."""

    class Kind(models.TextChoices):
        PROVIDER_CLEARING = "provider_clearing"  # what the provider holds for us
        BANK = "bank"
        UNALLOCATED_RECEIPTS = "unallocated_receipts"
        CUSTOMER = "customer"
        STORE_CREDIT = "store_credit"  # what the customer may still spend
        STORE_CREDIT_HELD = "store_credit_held"  # set aside for attempts under way and sales not posted yet
        POINTS = "points"  # a customer's loyalty points, in their own currency
        POINTS_ISSUED = "points_issued"  # the merchant's side of them
        MERCHANT_PAYABLE = "merchant_payable"
        FEES = "fees"
        REFUNDS_IN_FLIGHT = "refunds_in_flight"
        REFUNDS_OWED = "refunds_owed"  # to a customer: a refund came back, and was not made good yet
        DISPUTES = "disputes"
        WRITE_OFFS = "write_offs"
        ROUNDING = "rounding"

    id = models.UUIDField(primary_key=True, editable=False)  # derived from the other columns: no look-up to post
    kind = models.CharField(max_length=24, choices=Kind.choices)
    merchant_id = models.UUIDField(null=True)  # null: the operator's own
    customer = models.CharField(max_length=255, blank=True)
    currency = models.CharField(max_length=3)
    balance_minor = models.BigIntegerField(default=0)  # customers only, credit positive

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(balance_minor__gte=0), name="account_not_overdrawn"),
            models.CheckConstraint(
                condition=Q(kind__in=CUSTOMER_KINDS) | Q(balance_minor=0), name="account_only_customers_keep_a_balance"
            ),
            models.CheckConstraint(
                condition=Q(kind__in=POINTS_KINDS, currency=POINTS) | ~(Q(kind__in=POINTS_KINDS) | Q(currency=POINTS)),
                name="account_points_are_no_money",
            ),
        ]
        indexes = [
            # Beside millions of customers' accounts, the few others stay findable.
            models.Index(fields=["kind", "id"], name="account_of_the_books", condition=~Q(kind="customer")),
            models.Index(fields=["customer"], name="account_by_customer", condition=~Q(customer="")),
        ]
        triggers = [
            # An account that became another one would take the history of its postings with it.
            pgtrigger.ReadOnly(name="only_its_balance_changes", exclude=["balance_minor"]),
        ]

    def __str__(self) -> str:
        owner = f" {self.customer}" if self.customer else ""
        return f"{self.get_kind_display().capitalize()}{owner}, {self.currency.upper()}"


class JournalEntry(models.Model):
    """One balanced posting, written once. `key` says what caused it: the same cause posts once.

    It declares how many lines it has. They are all there when it commits, and no line is added to it later: so an
    entry and its lines are of one transaction.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    merchant_id = models.UUIDField(null=True)
    kind = models.CharField(max_length=32)
    key = models.CharField(max_length=150)
    subject = models.CharField(max_length=64, blank=True)  # the payment's or refund's number
    reference = models.CharField(max_length=64, blank=True)  # the order's number
    currency = models.CharField(max_length=3)
    lines = models.PositiveSmallIntegerField(db_default=2)
    memo = models.TextField(blank=True)
    by = models.CharField(max_length=150)
    corrects = models.ForeignKey("self", on_delete=models.PROTECT, null=True, related_name="+")
    created_at = models.DateTimeField(db_default=Now())  # PostgreSQL's clock, whatever an INSERT says

    class Meta:
        verbose_name_plural = "journal entries"
        permissions = [("correct_ledger", "Can post corrections to the ledger")]
        constraints = [
            models.UniqueConstraint(fields=["key"], name="journal_entry_once_per_cause"),
            models.CheckConstraint(condition=Q(lines__gte=2), name="journal_entry_has_two_lines_at_least"),
            models.UniqueConstraint(
                fields=["corrects"], condition=Q(kind="reversal"), name="journal_entry_reversed_once"
            ),
            models.CheckConstraint(
                condition=~Q(kind__in=["reversal", "adjustment"]) | Q(corrects__isnull=False),
                name="journal_entry_correction_names_the_old_one",
            ),
            models.CheckConstraint(
                condition=Q(corrects__isnull=True) | ~Q(corrects=F("id")), name="journal_entry_corrects_another"
            ),
        ]
        indexes = [
            models.Index(fields=["reference"], name="journal_entry_by_reference"),
            models.Index(fields=["subject"], name="journal_entry_by_subject"),
        ]
        triggers = [
            protect_append_only(),
            never_emptied(),
            # First the transaction has its number, then the entry its moment; and no moment lies before a cut of the
            # books, even if a clock was turned back. Why that matters: payments/books.py, `settled_moment`.
            pgtrigger.Trigger(
                name="dated_by_the_database",
                level=pgtrigger.Row,
                when=pgtrigger.Before,
                operation=pgtrigger.Insert,
                func="""
                    PERFORM pg_current_xact_id();
                    NEW.created_at := greatest(clock_timestamp(), (SELECT max(at) FROM payments_bookcut));
                    RETURN NEW;
                """,
            ),
            # Deferred to the commit, when all lines are there. One currency an entry, so one sum.
            pgtrigger.Trigger(
                name="entry_balances",
                level=pgtrigger.Row,
                when=pgtrigger.After,
                operation=pgtrigger.Insert,
                timing=pgtrigger.Deferred,
                declare=[("found", "record")],
                func="""
                    SELECT count(*) AS lines, coalesce(sum(p.amount_minor), 0) AS total,
                           coalesce(bool_or(a.currency <> NEW.currency), false) AS mixed INTO found
                    FROM payments_posting p LEFT JOIN payments_account a ON a.id = p.account_id
                    WHERE p.entry_id = NEW.id;
                    IF found.lines <> NEW.lines THEN
                        RAISE EXCEPTION 'journal entry % has % lines, not the % that it declares',
                            NEW.id, found.lines, NEW.lines USING ERRCODE = '23514';
                    ELSIF found.total <> 0 THEN
                        RAISE EXCEPTION 'journal entry % does not balance', NEW.id USING ERRCODE = '23514';
                    ELSIF found.mixed THEN
                        RAISE EXCEPTION 'journal entry % mixes currencies', NEW.id USING ERRCODE = '23514';
                    END IF;
                    RETURN NULL;
                """,
            ),
        ]

    def __str__(self) -> str:
        return self.key


class Posting(models.Model):
    """One line of an entry: debit positive, credit negative, in minor units."""

    id = models.BigAutoField(primary_key=True)
    entry = models.ForeignKey(JournalEntry, on_delete=models.PROTECT, related_name="postings")
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="+", db_index=False)
    amount_minor = models.BigIntegerField()
    posted_at = models.DateTimeField(db_default=Now())  # its entry's `created_at`, whatever an INSERT says

    class Meta:
        constraints = [
            models.CheckConstraint(condition=~Q(amount_minor=0), name="posting_not_zero"),
        ]
        indexes = [
            # An account's lines in their order: its statement, and its balance since a snapshot from the index alone.
            models.Index(fields=["account", "posted_at", "id"], include=["amount_minor"], name="posting_of_account"),
            models.Index(fields=["posted_at"], name="posting_by_time"),  # all lines since a cut, in their order
        ]
        triggers = [
            protect_append_only(),
            never_emptied(),
            pgtrigger.Trigger(
                name="belongs_to_an_open_entry",
                level=pgtrigger.Row,
                when=pgtrigger.Before,
                operation=pgtrigger.Insert,
                declare=[("entry", "record")],
                func="""
                    SELECT e.created_at, e.lines,
                           (SELECT count(*) FROM payments_posting p WHERE p.entry_id = e.id) AS there
                    INTO entry FROM payments_journalentry e WHERE e.id = NEW.entry_id;
                    IF entry.there >= entry.lines THEN
                        RAISE EXCEPTION 'journal entry % is complete', NEW.entry_id USING ERRCODE = '23514';
                    END IF;
                    NEW.posted_at := entry.created_at;
                    RETURN NEW;
                """,
            ),
        ]

    def __str__(self) -> str:
        return f"{self.amount_minor}"


class BookCut(models.Model):
    """A moment before which nothing can be posted any more. What snapshots say of it is true for ever."""

    number = models.BigIntegerField(primary_key=True)  # counted without a gap: two jobs cannot make the same cut
    at = models.DateTimeField(unique=True)  # every posting with `posted_at` < at is in
    postings = models.IntegerField()  # between the cut before and this one
    made_at = models.DateTimeField(db_default=Now())

    class Meta:
        triggers = [protect_append_only(), never_emptied()]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S.%f} UTC"


class BalanceSnapshot(models.Model):
    """An account's balance at a cut: Σ of its postings before `at`. Written where enough were posted since the last."""

    id = models.BigAutoField(primary_key=True)
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="+", db_index=False)
    at = models.DateTimeField()
    balance_minor = models.BigIntegerField()  # debit positive
    postings = models.BigIntegerField()  # how many there were before `at`

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["account", "at"], name="snapshot_once_per_account_and_cut"),
        ]
        triggers = [protect_append_only(), never_emptied()]

    def __str__(self) -> str:
        return f"{self.balance_minor}"


class KindTotal(models.Model):
    """All accounts of a kind and currency at a cut: what was debited and credited before it, ever."""

    id = models.BigAutoField(primary_key=True)
    cut = models.ForeignKey(BookCut, on_delete=models.PROTECT, related_name="totals", db_index=False)
    kind = models.CharField(max_length=24)
    currency = models.CharField(max_length=3)
    debit_minor = models.BigIntegerField()
    credit_minor = models.BigIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["cut", "kind", "currency"], name="total_once_per_cut_kind_and_currency"),
        ]
        triggers = [protect_append_only(), never_emptied()]

    def __str__(self) -> str:
        return f"{self.kind} {self.currency}"


class BooksCheck(models.Model):
    """One day's proof that the books agree with themselves. `differences` holds the first ones found."""

    id = models.BigAutoField(primary_key=True)
    day = models.DateField(unique=True)  # UTC
    began_at = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True)
    rows = models.BigIntegerField(default=0)  # accounts, payments and refunds looked at
    found = models.IntegerField(default=0)
    differences = models.JSONField(default=list)  # [{"law", "object", "text"}]

    class Meta:
        verbose_name_plural = "books checks"

    def __str__(self) -> str:
        return f"Check of {self.day}"


class CreditGrant(models.Model):
    """Store credit that staff gave, or want to give, to a customer; above the merchant's limit a second person decides."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    merchant_id = models.UUIDField()
    customer = models.CharField(max_length=255)
    currency = models.CharField(max_length=3)
    amount_minor = models.BigIntegerField()
    status = models.CharField(max_length=20, default=GrantStatus.AWAITING_APPROVAL)
    reason = models.TextField()
    requested_by = models.CharField(max_length=150)
    needs_approval = models.BooleanField()
    decided_by = models.CharField(max_length=150, blank=True)
    decided_why = models.TextField(blank=True)
    created_at = models.DateTimeField(db_default=Now())
    decided_at = models.DateTimeField(null=True)

    class Meta:
        permissions = [
            ("grant_store_credit", "Can grant store credit to customers"),
            ("approve_store_credit", "Can approve store credit that another person granted"),
        ]
        constraints = [
            models.CheckConstraint(condition=Q(amount_minor__gt=0), name="credit_grant_amount_positive"),
            models.CheckConstraint(condition=~Q(reason=""), name="credit_grant_has_a_reason"),
            models.CheckConstraint(
                condition=Q(decided_by="") | ~Q(decided_by=F("requested_by")), name="credit_grant_takes_two"
            ),
            models.CheckConstraint(
                condition=Q(needs_approval=False) | ~Q(status=GrantStatus.GRANTED) | ~Q(decided_by=""),
                name="credit_grant_above_the_limit_is_approved",
            ),
        ]
        indexes = [
            models.Index(fields=["id"], name="credit_grant_waiting", condition=Q(status=GrantStatus.AWAITING_APPROVAL)),
        ]
        triggers = [transition_guard(field="status", edges=GRANT_EDGES)]

    def __str__(self) -> str:
        return f"Store credit for {self.customer}"


class InboxEvent(models.Model):
    """A webhook that arrived: stored before it is acknowledged. The object itself is read again, never trusted.

    The event's body is not kept: it holds the client_secret.
    """

    id = models.CharField(max_length=255, primary_key=True)
    type = models.CharField(max_length=100)
    object_id = models.CharField(max_length=255)
    intent_id = models.CharField(max_length=255, blank=True)
    livemode = models.BooleanField()
    provider_created_at = models.DateTimeField()
    received_at = models.DateTimeField(db_default=Now())

    class Meta:
        permissions = [("replay_inboxevent", "Can have the provider's events worked on again")]
        indexes = [
            models.Index(fields=["object_id"], name="inbox_by_object"),
            models.Index(fields=["intent_id"], name="inbox_by_intent"),
            models.Index(fields=["received_at"], name="inbox_received"),
            models.Index(fields=["provider_created_at"], name="inbox_by_moment"),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.object_id}"


class InboxMark(models.Model):
    """Up to where the provider's list of events was read without a gap: by its clock, one row."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    listed_until = models.DateTimeField()

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="inbox_mark_is_one_row")]

    def __str__(self) -> str:
        return f"{self.listed_until:%Y-%m-%d %H:%M:%S}"


class ProviderTry(models.Model):
    """What the provider was asked about a payment or refund without a clear answer; one row an answer, however often."""

    id = models.BigAutoField(primary_key=True)
    subject = models.CharField(max_length=64)  # the payment's or refund's number
    asked = models.CharField(max_length=100)
    answer = models.CharField(max_length=300)
    times = models.PositiveIntegerField(default=1)
    first_at = models.DateTimeField(db_default=Now())
    last_at = models.DateTimeField(db_default=Now())

    class Meta:
        verbose_name_plural = "provider tries"
        constraints = [
            models.UniqueConstraint(fields=["subject", "asked", "answer"], name="provider_try_one_row_an_answer")
        ]

    def __str__(self) -> str:
        return f"{self.asked}: {self.answer}"
