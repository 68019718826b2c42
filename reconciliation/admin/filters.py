"""How the lists of the finance desk are narrowed down."""

from datetime import timedelta
from typing import Any

from django.db.models import Q, QuerySet
from django.http import HttpRequest

from foundation.database import database_now
from foundation.desk import ChoiceFilter
from reconciliation.states import OPEN_STATES, DiscrepancyState
from reconciliation.types import KINDS

# Days since the business date: (shortest, longest, name).
_AGES = ((0, 1, "0-1"), (2, 3, "2-3"), (4, 7, "4-7"), (8, 30, "8-30"), (31, None, "over 30"))


class StateFilter(ChoiceFilter):
    """Without a choice: what somebody has to look at."""

    title = "state"
    parameter_name = "state"
    field = "state"
    options = (
        "open",
        DiscrepancyState.AWAITING_APPROVAL,
        DiscrepancyState.TIMING,
        DiscrepancyState.IGNORED,
        DiscrepancyState.RESOLVED,
        "all",
    )
    default = "open"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if not self.value() and request.GET.get("q"):
            return queryset  # who looks for one finds it in any state
        return super().queryset(request, queryset)

    def apply(self, rows: QuerySet[Any], value: str) -> QuerySet[Any]:
        if value == "all":
            return rows
        return rows.filter(state__in=OPEN_STATES) if value == "open" else rows.filter(state=value)


class KindFilter(ChoiceFilter):
    title = "kind"
    parameter_name = "kind"
    field = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(kind, info.label) for kind, info in KINDS.items()]


class AgeFilter(ChoiceFilter):
    title = "age in days"
    parameter_name = "age"
    options = tuple(name for _, _, name in _AGES)

    def apply(self, rows: QuerySet[Any], value: str) -> QuerySet[Any]:
        today = database_now().date()
        for shortest, longest, name in _AGES:
            if name == value:
                rows = rows.filter(business_date__lte=today - timedelta(days=shortest))
                return rows if longest is None else rows.filter(business_date__gte=today - timedelta(days=longest))
        return rows


class CurrencyFilter(ChoiceFilter):
    title = "currency"
    parameter_name = "currency"
    options = ("usd", "eur", "gbp", "jpy")

    def apply(self, rows: QuerySet[Any], value: str) -> QuerySet[Any]:
        return rows.filter(Q(theirs_currency=value) | Q(ours_currency=value))


class OwnerFilter(ChoiceFilter):
    """Mine, or nobody's."""

    title = "owner"
    parameter_name = "owner"
    options = ("me", "nobody")

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() == "me":
            return queryset.filter(owner=request.user.get_username())
        return queryset.filter(owner="") if self.value() == "nobody" else queryset
