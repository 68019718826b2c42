"""One guarded way to change a state: a conditional UPDATE that fails loudly, and its history row, in one transaction.

An app's `states.py` holds its table, one line an edge. PostgreSQL refuses the rest as well (`transition_guard`), so
that neither raw SQL nor a shell can take a path that the table does not name.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pgtrigger
from django.db import connection, models
from django.db.models.functions import Now

from foundation.errors import IllegalTransition

Edges = frozenset[tuple[str, str]]


class TransitionRecord(models.Model):
    """History of one object's states. A concrete app adds the foreign key `subject`."""

    from_state = models.CharField(max_length=32)
    to_state = models.CharField(max_length=32)
    by = models.CharField(max_length=100)  # who or what caused it: a username, a saga, an event
    why = models.TextField(blank=True)
    at = models.DateTimeField(db_default=Now())

    class Meta:
        abstract = True


def transition_guard(*, field: str, edges: Edges) -> pgtrigger.FSM:
    """The same table for PostgreSQL: an UPDATE along an edge that is not in it is an error."""
    return pgtrigger.FSM(name=f"{field}_follows_its_table", field=field, transitions=sorted(edges))


def protect_append_only() -> pgtrigger.Protect:
    """Rows that are written once: PostgreSQL refuses UPDATE and DELETE."""
    return pgtrigger.Protect(name="append_only", operation=pgtrigger.Update | pgtrigger.Delete)


def never_emptied() -> pgtrigger.Trigger:
    """TRUNCATE passes by row triggers: it has one of its own."""
    return pgtrigger.Trigger(
        name="never_emptied",
        level=pgtrigger.Statement,
        when=pgtrigger.Before,
        operation=pgtrigger.Truncate,
        func="RAISE EXCEPTION 'pgtrigger: Cannot truncate % table: what is written stays written', TG_TABLE_NAME;",
    )


def transition(
    instance: models.Model,
    to: str,
    *,
    edges: Edges,
    history: type[models.Model],
    by: str,
    why: str = "",
    field: str = "status",
    values: Mapping[str, Any] | None = None,
) -> None:
    """Move `instance` to the state `to`, with other columns, from whatever legal state it is in *now*.

    The row's present state decides, not the one that was read: `UPDATE … WHERE status = <as read>`. Raises
    IllegalTransition where the table has no such edge, or where another process moved the row meanwhile.
    """
    before = getattr(instance, field)
    if (before, to) not in edges:
        raise IllegalTransition(f"{_name(instance)} is {before}; it cannot become {to}.")
    columns = {field: to, **(values or {})}
    moved = type(instance)._default_manager.filter(pk=instance.pk, **{field: before}).update(**columns)
    if not moved:
        raise IllegalTransition(f"{_name(instance)} was changed by someone else; it is not {before} any more.")
    history._default_manager.create(subject=instance, from_state=before, to_state=to, by=by, why=why)
    for name, value in columns.items():
        setattr(instance, name, value)


_TRANSITION_MANY = """
WITH moved AS (
    UPDATE {table} SET {columns} WHERE {pk} = ANY(%(pks)s) AND {field} = %(before)s RETURNING {pk} AS pk
)
INSERT INTO {history} (subject_id, from_state, to_state, by, why)
SELECT pk, %(before)s, %(to)s, %(by)s, %(why)s FROM moved
"""


def transition_many(
    model: type[models.Model],
    pks: Sequence[Any],
    *,
    before: str,
    to: str,
    edges: Edges,
    history: type[models.Model],
    by: str,
    why: str = "",
    field: str = "status",
    values: Mapping[str, Any] | None = None,
) -> None:
    """The same for many rows, which the caller has locked in the state `before`: one statement, all of them or none.

    `values` are constants for other columns. Raises IllegalTransition as `transition` does.
    """
    if (before, to) not in edges:
        raise IllegalTransition(f"What is {before} cannot become {to}.")
    if not pks:
        return
    columns = {field: to, **(values or {})}
    quote = connection.ops.quote_name
    statement = _TRANSITION_MANY.format(
        table=quote(model._meta.db_table),
        columns=", ".join(f"{quote(name)} = %(new_{name})s" for name in columns),
        pk=quote(str(model._meta.pk.column)),
        field=quote(field),
        history=quote(history._meta.db_table),
    )
    parameters = {"pks": list(pks), "before": before, "to": to, "by": by, "why": why}
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters | {f"new_{name}": value for name, value in columns.items()})
        if cursor.rowcount != len(pks):
            raise IllegalTransition(f"Some of {len(pks)} rows were changed by someone else; not all are {before}.")


def sources(edges: Iterable[tuple[str, str]], to: str) -> list[str]:
    """The states from which `to` can be reached, for set-based updates."""
    return sorted({source for source, target in edges if target == to})


def _name(instance: models.Model) -> str:
    return str(getattr(instance, "number", instance.pk))
