"""From the list of discrepancies to a plan: what shall be done to all that were chosen, or to all that a list shows."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.core.exceptions import PermissionDenied
from django.db.models import Count, QuerySet
from django.http import Http404, HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.urls import URLPattern, path, reverse

from foundation import cells
from foundation.desk import ActForm, ReadOnlyAdmin
from foundation.errors import DomainError, NotFound
from foundation.ids import uuid7
from foundation.sections import Custom, Page, Table
from reconciliation import services
from reconciliation.admin.acts import ACCOUNTS, colleagues
from reconciliation.models import Discrepancy, Incident
from reconciliation.states import OPEN_STATES
from reconciliation.types import ActionInfo, ActionInput, actions_of, info_of

CHOSEN = "chosen"  # ids, one a parameter
INCIDENT = "incident"  # a number: all of its open items
_NAME = "reconciliation_discrepancy_plan"


class PlanForm(ActForm):
    """`key` is made with the page: one press plans once."""

    key = forms.UUIDField(widget=forms.HiddenInput)
    action = forms.ChoiceField(label="What shall be done")
    owner = forms.ChoiceField(
        label="Colleague", required=False, choices=lambda: [("", "—"), *colleagues()], help_text="For “Assign” alone."
    )
    until = forms.DateField(
        label="Until",
        required=False,
        widget=forms.DateInput(attrs={"type": "date"}),
        help_text="For “Ignore until” alone.",
    )
    account = forms.ChoiceField(
        label="On which account", required=False, choices=ACCOUNTS, help_text="For “Post a correcting entry” alone."
    )

    def __init__(self, *args: Any, actions: Sequence[ActionInfo], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        choices = self.fields["action"]
        assert isinstance(choices, forms.ChoiceField)
        choices.choices = [(info.name, info.label) for info in actions]
        asked = {name for info in actions for name in info.asks_for}
        for name in {"owner", "until", "account"} - asked:
            del self.fields[name]


def urls(model_admin: ReadOnlyAdmin[Discrepancy]) -> list[URLPattern]:
    """The plan's address, in front of the discrepancies' own."""

    def plan(request: HttpRequest) -> HttpResponseBase:
        return _plan(model_admin, request)

    return [path("plan/", model_admin.admin_site.admin_view(plan), name=_NAME)]


def link(incident: Incident) -> tuple[str, str]:
    """To the plan for all open items of an incident."""
    return f"{reverse(f'admin:{_NAME}')}?{INCIDENT}={incident.number}", "Act on all open items…"


def _plan(model_admin: ReadOnlyAdmin[Discrepancy], request: HttpRequest) -> HttpResponseBase:
    if not model_admin.has_view_permission(request):
        raise PermissionDenied
    rows, scope, incident_id = _chosen(model_admin, request)
    limit = settings.RECONCILE_BULK_ROWS
    pks = list(rows.order_by("business_date", "pk").values_list("pk", flat=True)[: limit + 1])
    cut = len(pks) > limit
    pks = pks[:limit]
    kinds = (
        Discrepancy.objects.filter(pk__in=pks).order_by().values_list("kind", "object_kind").annotate(count=Count("pk"))
    )
    counts = sorted(kinds, key=lambda one: (-one[2], one[0]))  # the most first
    actions = _actions(request, counts)
    form = PlanForm(request.POST or None, actions=actions, initial={"key": uuid7()}) if actions else None
    status = 200
    if request.method == "POST" and form:
        if form.is_valid():
            data = form.cleaned_data
            try:
                bulk = services.plan_bulk(
                    bulk_id=data["key"],
                    action=data["action"],
                    discrepancies=pks,
                    by=request.user.get_username(),
                    scope=f"{scope}, the first {limit}" if cut else scope,
                    given=ActionInput(
                        owner=data.get("owner", ""), until=data.get("until"), account=data.get("account", "")
                    ),
                    incident_id=incident_id,
                )
                return HttpResponseRedirect(reverse("admin:reconciliation_bulkaction_change", args=[bulk.pk]))
            except DomainError as error:
                messages.error(request, error.detail)
                status = error.status
        else:
            status = 400
    page = Page(
        title="Act on several discrepancies",
        sub=f"{scope}: {'the first ' if cut else ''}{len(pks)} {'item' if len(pks) == 1 else 'items'}",
        main=[
            Table(
                "What they are",
                ["Kind", cells.right("Items")],
                [[info_of(kind, object_kind).label, cells.number(count)] for kind, object_kind, count in counts],
                empty="Nothing was chosen.",
            )
        ],
        side=[
            Custom(
                "admin/desk/plan.html",
                "Nothing is done yet: a preview comes first",
                {"form": form, "why_not": "There is nothing here that your role could do to several at once."},
            )
        ],
    )
    return model_admin.show(request, "Act on several", page, status=status)


def _chosen(
    model_admin: ReadOnlyAdmin[Discrepancy], request: HttpRequest
) -> tuple[QuerySet[Discrepancy], str, UUID | None]:
    """The rows, where they come from in words, and the incident if they are one's."""
    if CHOSEN in request.GET:
        try:
            pks = [UUID(text) for text in request.GET.getlist(CHOSEN)]
        except ValueError:
            raise Http404 from None
        return Discrepancy.objects.filter(pk__in=pks), "Chosen in the list", None
    if INCIDENT in request.GET:
        number = request.GET[INCIDENT]
        try:
            incident_id = Incident.id_of(number)
        except NotFound:
            raise Http404 from None
        rows = Discrepancy.objects.filter(incident_id=incident_id, state__in=OPEN_STATES)
        return rows, f"Open items of {number}", incident_id
    try:
        shown = model_admin.get_changelist_instance(request).get_queryset(request)
    except IncorrectLookupParameters:
        raise Http404 from None
    return shown, f"All that the list shows ({request.GET.urlencode() or 'open'})", None


def _actions(request: HttpRequest, counts: Sequence[tuple[str, str, int]]) -> list[ActionInfo]:
    """What this person may do to at least one of them, together with others."""
    offered = {info.name: info for kind, object_kind, _ in counts for info in actions_of(kind, object_kind)}
    return [info for info in offered.values() if info.in_bulk and request.user.has_perm(info.permission)]
