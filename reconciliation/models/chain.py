"""The audit chain: each block seals rows of the audit trail and the block before it."""

import pgtrigger
from django.db import models
from django.db.models.functions import Now

from foundation.transition import never_emptied, protect_append_only


class AuditBlock(models.Model):
    """Some rows of one kind and month, chained to all blocks before: sha256 of a header that names the block before.

    PostgreSQL itself numbers it, writes the header and hashes it. Built by a daily job, never beside what it is about.
    """

    number = models.BigIntegerField(primary_key=True)  # counted without a gap
    kind = models.CharField(max_length=16)  # reconciliation.types.AUDITED
    period = models.DateField()  # the first day of the month
    rows = models.PositiveIntegerField()
    root = models.BinaryField(max_length=32)  # sha256 of its rows' hashes, in their order
    before = models.BinaryField(max_length=32)  # of the block before; zeros for the first
    header = models.TextField()
    sha256 = models.BinaryField(max_length=32)  # of the header, in UTF-8
    made_at = models.DateTimeField(db_default=Now())

    class Meta:
        indexes = [models.Index(fields=["period", "kind", "number"], name="audit_block_by_period")]
        triggers = [
            protect_append_only(),
            never_emptied(),
            pgtrigger.Trigger(
                name="chained_by_the_database",
                level=pgtrigger.Row,
                when=pgtrigger.Before,
                operation=pgtrigger.Insert,
                declare=[("last", "record")],
                func="""
                    SELECT b.number, b.sha256 INTO last FROM reconciliation_auditblock b ORDER BY b.number DESC LIMIT 1;
                    NEW.number := coalesce(last.number, 0) + 1;
                    NEW.before := coalesce(last.sha256, decode(repeat('00', 32), 'hex'));
                    NEW.header := jsonb_build_object(
                        'number', NEW.number, 'kind', NEW.kind, 'period', to_char(NEW.period, 'YYYY-MM'),
                        'rows', NEW.rows, 'root', encode(NEW.root, 'hex'), 'before', encode(NEW.before, 'hex'))::text;
                    NEW.sha256 := sha256(convert_to(NEW.header, 'UTF8'));
                    RETURN NEW;
                """,
            ),
            pgtrigger.Trigger(
                name="root_is_of_its_rows",
                level=pgtrigger.Row,
                when=pgtrigger.After,
                operation=pgtrigger.Insert,
                timing=pgtrigger.Deferred,
                declare=[("found", "record")],
                func="""
                    SELECT count(*) AS rows,
                           sha256(string_agg(sha256(convert_to(r.body, 'UTF8')), ''::bytea ORDER BY r.position)) AS root
                    INTO found FROM reconciliation_auditrow r WHERE r.block_id = NEW.number;
                    IF found.rows <> NEW.rows OR found.root IS DISTINCT FROM NEW.root THEN
                        RAISE EXCEPTION 'audit block % is not what its rows say', NEW.number USING ERRCODE = '23514';
                    END IF;
                    RETURN NULL;
                """,
            ),
        ]

    def __str__(self) -> str:
        return f"{self.number}: {self.kind} of {self.period:%Y-%m}"


class AuditRow(models.Model):
    """One fact as it stood when it was chained: JSON text, whose bytes are hashed."""

    id = models.BigAutoField(primary_key=True)
    block = models.ForeignKey(AuditBlock, on_delete=models.PROTECT, related_name="contents", db_index=False)
    position = models.PositiveIntegerField()  # in its block, from 0
    object = models.CharField(max_length=300)  # `raw:txn_…`: what it is about; a later row of the same name follows it
    body = models.TextField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["block", "position"], name="audit_row_once_per_position")]
        indexes = [models.Index(fields=["object", "-block"], name="audit_row_by_object")]
        triggers = [
            protect_append_only(),
            never_emptied(),
            pgtrigger.Trigger(
                name="belongs_to_an_open_block",
                level=pgtrigger.Statement,
                when=pgtrigger.After,
                operation=pgtrigger.Insert,
                referencing=pgtrigger.Referencing(new="added"),  # type: ignore[no-untyped-call]
                func="""
                    IF EXISTS (
                        SELECT FROM (SELECT DISTINCT block_id FROM added) a
                        JOIN reconciliation_auditblock b ON b.number = a.block_id
                        WHERE b.rows < (SELECT count(*) FROM reconciliation_auditrow r WHERE r.block_id = a.block_id)
                    ) THEN
                        RAISE EXCEPTION 'an audit block is complete' USING ERRCODE = '23514';
                    END IF;
                    RETURN NULL;
                """,
            ),
        ]

    def __str__(self) -> str:
        return self.object
