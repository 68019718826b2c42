"""The provider's books as we imported them."""

import pgtrigger
from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from foundation.ids import uuid7
from foundation.transition import protect_append_only
from reconciliation.models.choices import choices
from reconciliation.types import (
    LAYOUTS,
    ReadPart,
    Whose,
)

# All that a run looks at. Whether a row is available yet is none of it: each one becomes so, days later.
_COMPARED = (
    "created_at",
    "reporting_category",
    "source",
    "amount_minor",
    "fee_minor",
    "net_minor",
    "currency",
    "payment_intent",
    "charge",
    "source_status",
    "order_reference",
    "payment_number",
    "instance",
    "withdrawn_at",
)
_BEFORE, _NOW = (", ".join(f"{row}.{name}" for name in _COMPARED) for row in ("b", "n"))


TOLD_BY_A_FILE = ""  # the status of a row that the API has not told of


class ProviderTransaction(models.Model):
    """One row of the provider's books (a balance transaction, `txn_…`), as it was last read there.

    Amounts are minor units with the provider's sign: a charge is positive, a refund negative; net = amount − fee.
    """

    id = models.CharField(max_length=255, primary_key=True)
    type = models.CharField(max_length=64)
    reporting_category = models.CharField(max_length=64)
    source = models.CharField(max_length=255)  # ch_…, re_…, po_…: what is matched on
    amount_minor = models.BigIntegerField()
    fee_minor = models.BigIntegerField()
    net_minor = models.BigIntegerField()
    currency = models.CharField(max_length=3)
    status = models.CharField(max_length=16)  # available, pending; TOLD_BY_A_FILE
    created_at = models.DateTimeField()  # the provider's clock: decides the day
    available_at = models.DateTimeField()
    payment_intent = models.CharField(max_length=255, blank=True)
    charge = models.CharField(max_length=255, blank=True)
    source_status = models.CharField(max_length=32, blank=True)
    # What the source's metadata say: our own numbers where we opened it, anything where we did not.
    order_reference = models.CharField(max_length=500, blank=True)
    payment_number = models.CharField(max_length=500, blank=True)
    instance = models.CharField(max_length=500, blank=True)
    # Its voucher: of the row in the API's own words (RawRow), or of the page of a statement file that it stands in (RawPage).
    sha256 = models.BinaryField(max_length=32)
    page_row = models.IntegerField(null=True)  # which row of that page, from 1
    imported_at = models.DateTimeField(db_default=Now())
    seen_at = models.DateTimeField(db_default=Now())
    # Set where a later complete read of its day did not bring the row any more. Never matched from then on.
    withdrawn_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(fields=["created_at"], name="provider_txn_by_day"),
            models.Index(fields=["source"], name="provider_txn_by_source"),
            models.Index(fields=["payment_number"], name="provider_txn_by_payment", condition=~Q(payment_number="")),
            # What went back of a charge. Of refunds alone: they are few beside the charges, each of which names itself.
            models.Index(fields=["charge"], name="provider_refund_by_charge", condition=Q(reporting_category="refund")),
            # What was read or withdrawn since the audit chain was extended: a few pages for each gigabyte of rows.
            BrinIndex(fields=["seen_at", "withdrawn_at"], name="provider_txn_by_change", autosummarize=True),
        ]
        # By statement, not by row: a statement file writes millions of rows, of a few days.
        triggers = [
            pgtrigger.Trigger(
                name="notes_days_of_new_rows",
                level=pgtrigger.Statement,
                when=pgtrigger.After,
                operation=pgtrigger.Insert,
                referencing=pgtrigger.Referencing(new="now_there"),  # type: ignore[no-untyped-call]
                func="""
                    INSERT INTO reconciliation_changedday (day)
                    SELECT DISTINCT (created_at AT TIME ZONE 'UTC')::date FROM now_there;
                    RETURN NULL;
                """,
            ),
            pgtrigger.Trigger(
                name="notes_days_of_changed_rows",
                level=pgtrigger.Statement,
                when=pgtrigger.After,
                operation=pgtrigger.Update,
                referencing=pgtrigger.Referencing(old="before", new="now_there"),  # type: ignore[no-untyped-call]
                func=f"""
                    INSERT INTO reconciliation_changedday (day)
                    SELECT DISTINCT (moment AT TIME ZONE 'UTC')::date
                    FROM before b JOIN now_there n ON n.id = b.id
                    CROSS JOIN LATERAL (VALUES (b.created_at), (n.created_at)) AS side (moment)
                    WHERE ({_BEFORE}) IS DISTINCT FROM ({_NOW});
                    RETURN NULL;
                """,  # noqa: S608  columns
            ),
        ]

    def __str__(self) -> str:
        return self.id


class ChangedDay(models.Model):
    """A day (UTC) of which rows of the provider's came or changed. Written by triggers, in the transaction of the change; a run of that
    day forgets those that it sees. What it leaves came too late for it: the day is run again."""

    id = models.BigAutoField(primary_key=True)
    day = models.DateField()

    class Meta:
        indexes = [models.Index(fields=["day"], name="changed_day_by_day")]

    def __str__(self) -> str:
        return f"{self.day}"


class RawRow(models.Model):
    """A row of the provider's books, or a line of a bank's, in its teller's own words, kept by its hash: the voucher behind our copy.

    An answer of the API holds all that it said of the row, and of the row's source (a charge, a refund) only what we read: the rest of
    that changes while the row does not, and names who paid.
    """

    sha256 = models.BinaryField(primary_key=True, max_length=32)  # of `body`, in UTF-8
    # JSON: what the API answered (its names and values, by rising name; before, our own names for some of it), or the columns of a
    # bank's line; of a row of a statement file where it was taken in before pages were.
    body = models.TextField()
    first_seen_at = models.DateTimeField(db_default=Now())

    class Meta:
        triggers = [protect_append_only()]

    def __str__(self) -> str:
        return bytes(self.sha256).hex()[:12]


class RawPage(models.Model):
    """Some rows of a statement file exactly as they came, below the file's header, kept by their hash: the voucher behind many rows.

    A voucher for each row would take more than a fifth of a file's time (docs/decisions/0028-files-are-kept-in-pages.md).
    """

    sha256 = models.BinaryField(primary_key=True, max_length=32)  # of the CSV: header and rows, byte for byte
    rows = models.PositiveIntegerField()
    body = models.BinaryField()  # the CSV, compressed (zlib)
    first_seen_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(rows__gt=0), name="raw_page_has_rows")]
        triggers = [protect_append_only()]

    def __str__(self) -> str:
        return bytes(self.sha256).hex()[:12]


class ProviderRead(models.Model):
    """One reading of the provider's books for a window: how far it came. One that was cut short is gone on with."""

    since = models.DateTimeField()
    until = models.DateTimeField()
    # Rows come newest first: the first one that this reading brought, and the last one that is stored.
    newest = models.CharField(max_length=255, blank=True)
    reached = models.CharField(max_length=255, blank=True)
    rows = models.PositiveIntegerField(default=0)
    resumed = models.PositiveIntegerField(default=0)  # how often it was gone on with
    began_at = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True)
    statement = models.CharField(max_length=64, blank=True)  # the file's hash, where it was a file that told it all
    # What such a file holds; empty: everything, in all currencies.
    part = models.CharField(
        max_length=8, blank=True, default="", db_default="", choices=choices(ReadPart.ACTIVITY, ReadPart.PAYOUTS)
    )
    currency = models.CharField(max_length=3, blank=True, default="", db_default="")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["since", "until"],
                condition=Q(finished_at__isnull=True),
                name="provider_read_one_open_per_window",
            ),
            models.CheckConstraint(condition=Q(until__gt=models.F("since")), name="provider_read_window_has_a_length"),
        ]

    def __str__(self) -> str:
        return f"{self.since:%Y-%m-%d %H:%M} to {self.until:%Y-%m-%d %H:%M}"


class StatementFile(models.Model):
    """A statement file, the provider's or a bank's: taken in as a whole, or refused with what is wrong with which line.

    The same file a second time changes nothing, once it was taken in.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    sha256 = models.CharField(max_length=64)  # of the file's bytes
    name = models.CharField(max_length=255)
    # Empty where it could not be told.
    layout = models.CharField(max_length=16, blank=True, choices=choices(*LAYOUTS))
    whose = models.CharField(
        max_length=8,
        choices=choices(Whose.PROVIDER, Whose.BANK),
        default=Whose.PROVIDER,
        db_default=Whose.PROVIDER,
    )
    rows = models.PositiveIntegerField()
    added = models.PositiveIntegerField()  # rows that nobody had told us before
    first_day = models.DateField(null=True)  # of its rows, UTC; null where it holds none
    last_day = models.DateField(null=True)
    by = models.CharField(max_length=150)
    imported_at = models.DateTimeField(db_default=Now())
    refused = models.BooleanField(default=False, db_default=False)
    problem_count = models.PositiveIntegerField(default=0, db_default=0)
    problems = models.JSONField(default=list, db_default=[])  # the first of them: [line, reason]

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["sha256"], condition=Q(refused=False), name="statement_file_once"),
            models.CheckConstraint(
                condition=Q(refused=False, problem_count=0) | Q(refused=True, problem_count__gt=0, added=0),
                name="statement_file_taken_in_or_refused",
            ),
        ]
        permissions = [("import_statement", "Can import statement files")]
        triggers = [protect_append_only()]

    def __str__(self) -> str:
        return self.name


class BooksStart(models.Model):
    """Since when our books answer for the provider's account, and what it held for us then. One row, written at go-live.

    Older rows are no breaks: they are in the opening balances.
    """

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    starts_on = models.DateField()  # its first moment, UTC
    balances = models.JSONField(default=dict)  # currency → minor units
    by = models.CharField(max_length=150)
    note = models.TextField()
    made_at = models.DateTimeField(db_default=Now())

    class Meta:
        verbose_name_plural = "start of the books"
        constraints = [
            models.CheckConstraint(condition=Q(id=1), name="books_start_is_one_row"),
            models.CheckConstraint(condition=~Q(note=""), name="books_start_has_a_note"),
        ]
        triggers = [protect_append_only()]

    def __str__(self) -> str:
        return f"{self.starts_on}"


class DayTotal(models.Model):
    """What the provider booked on one UTC day, by currency and reporting category: Σ of its rows as we hold them."""

    id = models.BigAutoField(primary_key=True)
    date = models.DateField()
    currency = models.CharField(max_length=3)
    reporting_category = models.CharField(max_length=64)
    rows = models.PositiveIntegerField()
    gross_minor = models.BigIntegerField()
    fee_minor = models.BigIntegerField()
    net_minor = models.BigIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["date", "currency", "reporting_category"], name="day_total_once_per_category"
            ),
            models.CheckConstraint(
                condition=Q(net_minor=models.F("gross_minor") - models.F("fee_minor")), name="day_total_net"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.date} {self.currency} {self.reporting_category}"


class ProviderBalanceReading(models.Model):
    """What the provider said that it held for us, and which of its rows that included (payments.types.BalanceReading)."""

    id = models.BigAutoField(primary_key=True)
    taken_at = models.DateTimeField(db_default=Now())
    balances = models.JSONField()  # currency → {"available", "pending"} in minor units
    through_at = models.DateTimeField(null=True)
    edge = models.JSONField(default=list)
    unsure = models.JSONField(default=list)

    class Meta:
        indexes = [models.Index(fields=["through_at"], name="balance_reading_by_moment")]
        triggers = [protect_append_only()]

    def __str__(self) -> str:
        return f"{self.taken_at:%Y-%m-%d %H:%M:%S}"
