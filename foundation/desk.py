"""The finance desk's admin classes on Django's admin and Unfold. The only module that imports Unfold.

Nobody edits a row of money or goods by hand. A list shows rows; a row has a page that its admin composes of sections;
what may be done to it are its acts, each one call into a service, each with a permission and a form.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, cast
from uuid import UUID

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import Model, Q, QuerySet
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseNotAllowed,
    HttpResponseRedirect,
    QueryDict,
)
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from foundation.database import newest_first
from foundation.errors import DomainError, NotFound
from foundation.exports import Value, csv_response
from foundation.sections import Page

__all__ = [
    "Act",
    "ActForm",
    "AdminPasswordChangeForm",
    "ChoiceFilter",
    "DeskAdmin",
    "MomentForm",
    "NoteForm",
    "PeriodForm",
    "ReadOnlyAdmin",
    "StyledAdmin",
    "UserChangeForm",
    "UserCreationForm",
    "VersionedForm",
    "by_number",
    "choice_filter",
    "named_filter",
]

Row = TypeVar("Row", bound=Model)

# django-stubs knows Django's classes and that they are generic; Unfold's have no types.
if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin
    from django.contrib.admin import SimpleListFilter as DropdownFilter
    from django.contrib.admin.views.main import ChangeList as UnfoldChangeList
    from django.contrib.auth.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
    from django.core.paginator import Paginator as InfinitePaginator

    StyledAdmin = object
else:
    from unfold.admin import ModelAdmin as StyledAdmin
    from unfold.admin import ModelAdmin as UnfoldModelAdmin
    from unfold.contrib.filters.admin import DropdownFilter
    from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
    from unfold.paginator import InfinitePaginator
    from unfold.views import ChangeList as UnfoldChangeList

    class ModelAdmin(UnfoldModelAdmin, Generic[Row]):
        pass


# --- What may be done to a row ----------------------------------------------------------------------


class ActForm(forms.Form):
    """The fields of an act. Its widgets wear the desk's style."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, field in self.fields.items():
            field.widget.attrs.setdefault("class", "ec-input")
            field.widget.attrs.setdefault("aria-label", str(field.label or name))


class PeriodForm(ActForm):
    """Days of a report, both included, UTC. Comes by GET."""

    since = forms.DateField(label="From", widget=forms.DateInput(attrs={"type": "date"}))
    until = forms.DateField(label="To", widget=forms.DateInput(attrs={"type": "date"}))

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        if data.get("since") and data.get("until") and data["until"] < data["since"]:
            raise forms.ValidationError("The last day lies before the first one.")
        return data


class MomentForm(ActForm):
    """The end of a day (UTC), as of which a report is made; empty for now. Comes by GET."""

    day = forms.DateField(label="At the end of", required=False, widget=forms.DateInput(attrs={"type": "date"}))


class NoteForm(ActForm):
    """A note that says why: required, and kept with what was done."""

    note = forms.CharField(
        label="Note",
        max_length=2_000,
        error_messages={"required": "Say why: the note is kept with what was done."},
        widget=forms.Textarea(attrs={"rows": 2, "placeholder": "Why? The note is kept with your name."}),
    )


class VersionedForm(NoteForm):
    """For what a person changes as they saw it. `version` is the row's when the page was made: where somebody changed it
    since, the service refuses with ChangedMeanwhile, and the page is shown as it stands now, with what was typed.
    """

    version = forms.IntegerField(widget=forms.HiddenInput)

    def renewed(self, version: int) -> Self:
        """The same form as typed, on a page of another version."""
        data = cast(QueryDict, self.data).copy()
        data[self.add_prefix("version")] = str(version)
        form = type(self)(data, prefix=self.prefix)
        form.full_clean()
        return form


@dataclass(frozen=True, slots=True)
class Act(Generic[Row]):
    """A button: its label, one sentence that says what it does, who may press it, and the one call that it makes.

    `run` takes the row, the form's clean data and the person's name, and returns what to tell that person. It raises
    DomainError where the service refuses.
    """

    name: str
    label: str
    says: str
    permission: str
    run: Callable[[Row, dict[str, Any], str], str]
    form: type[ActForm] = NoteForm
    icon: str = "bolt"
    danger: bool = False
    shown_once: bool = False  # what `run` returns is a secret: it stands in this answer alone


@dataclass(frozen=True, slots=True)
class Offered:
    """An act as a page shows it: with its address, its form, and why it is not this person's to press."""

    act: Act[Any]
    url: str
    form: ActForm
    allowed: bool
    is_open: bool


# --- Lists ------------------------------------------------------------------------------------------


class ChoiceFilter(DropdownFilter):
    """A choice of fixed values of one column. `default` is what a list without the parameter shows."""

    field: ClassVar[str]
    options: ClassVar[Sequence[str]]
    default: ClassVar[str] = ""

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(option, option.replace("_", " ")) for option in self.options]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value() or self.default
        return self.apply(queryset, value) if value else queryset

    def apply(self, rows: QuerySet[Any], value: str) -> QuerySet[Any]:
        return rows.filter(**{self.field: value})


def choice_filter(field: str, options: Sequence[str], *, title: str = "") -> type[ChoiceFilter]:
    """A filter of one column by fixed values, in the address as `?<column>=…`."""
    parameter = field.replace("__", "_")
    return type(
        f"{parameter}_filter",
        (ChoiceFilter,),
        {
            "field": field,
            "parameter_name": parameter,
            "options": options,
            "title": title or parameter.replace("_", " "),
        },
    )


def named_filter(field: str, names: Callable[[], Sequence[tuple[Any, str]]], *, title: str) -> type[ChoiceFilter]:
    """A filter of one column by values that are read (`names`: each value and what it is called)."""

    class NamedFilter(ChoiceFilter):
        def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
            return [(str(value), name) for value, name in names()]

        def apply(self, rows: QuerySet[Any], value: str) -> QuerySet[Any]:
            known = {str(one) for one, _ in self.lookup_choices}
            return rows.filter(**{self.field: value}) if value in known else rows.none()

    NamedFilter.field, NamedFilter.title = field, title
    NamedFilter.parameter_name = field.replace("__", "_")
    return NamedFilter


def by_number(find_id: Callable[[str], UUID], text: str) -> Q:
    """The row whose public number this is; no row for any other text."""
    try:
        return Q(pk=find_id(text))
    except NotFound:
        return Q(pk__in=[])


class ChangeList(UnfoldChangeList):
    """A page of a list, whose admin may read more about all of its rows at once."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        rows = list(self.result_list)
        cast(DeskAdmin[Any], self.model_admin).prepare(rows)
        self.result_list = rows


class DeskAdmin(ModelAdmin[Row]):
    """A list that stays fast at ten million rows: no count of all rows, ordered by an index, searched by exact ids."""

    paginator = InfinitePaginator
    show_full_result_count = False
    list_per_page = 50
    list_filter_submit = True
    ordering = ("-pk",)
    sortable_by = ()
    actions: Sequence[str] | None = None
    empty_value_display = "—"
    list_before_template = "admin/desk/saved_views.html"
    # Saved views over the list: (name, query string). The first is what the bare list shows.
    saved_views: Sequence[tuple[str, str]] = ()
    search_help_text = ""  # what `find` finds; without it there is no search
    # The columns of the list's export; empty: there is none. The file holds all that filter and search show.
    export_columns: Sequence[str] = ()
    # Pages beside the list: (address relative to the list's, text).
    list_links: Sequence[tuple[str, str]] = ()

    def export_rows(self, rows: QuerySet[Row]) -> QuerySet[Row]:
        """The list's rows with all that `export_row` reads, whatever the list itself leaves out."""
        return rows

    def export_row(self, row: Row) -> Sequence[Value]:
        """The cells of one row."""
        raise NotImplementedError

    def get_urls(self) -> list[URLPattern]:
        urls: list[URLPattern] = super().get_urls()
        if not self.export_columns:
            return urls
        view = self.admin_site.admin_view(self.export_view)
        return [path("export/", view, name=f"{self.opts.app_label}_{self.opts.model_name}_export"), *urls]

    def export_view(self, request: HttpRequest) -> HttpResponseBase:
        """What the list shows as a file: streamed, however many rows there are."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        try:
            rows = self.get_changelist_instance(request).get_queryset(request)
        except IncorrectLookupParameters:
            raise Http404 from None
        found = newest_first(self.export_rows(rows), batch=settings.EXPORT_BATCH)
        return csv_response(
            str(self.opts.verbose_name_plural).replace(" ", "-"), self.export_columns, map(self.export_row, found)
        )

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return ChangeList

    def prepare(self, rows: list[Row]) -> None:
        """Read what the columns need from other apps, once for the whole page."""

    def get_search_fields(self, request: HttpRequest) -> tuple[str, ...]:
        return ("pk",) if self.search_help_text else ()  # shows the box; `find` says what it finds

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Row], search_term: str
    ) -> tuple[QuerySet[Row], bool]:
        text = search_term.strip()
        return (queryset.filter(self.find(text)) if text else queryset), False

    def find(self, text: str) -> Q:
        """The rows that a typed text means: by exact ids only, through an index."""
        raise NotImplementedError

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        asked = request.GET.urlencode()
        views = [
            {"name": name, "query": query, "active": asked == query or (not asked and position == 0)}
            for position, (name, query) in enumerate(self.saved_views)
        ]
        shown = {
            "saved_views": views,
            "list_links": self.list_links,
            "export_url": f"export/?{asked}" if self.export_columns else "",
        }
        return super().changelist_view(request, {**shown, **(extra_context or {})})


class ReadOnlyAdmin(DeskAdmin[Row]):
    """Rows that nobody adds, changes or deletes by hand: a list, a page per row, and the acts of that page."""

    acts: Sequence[Act[Row]] = ()

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Row | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Row | None = None) -> bool:
        return False

    def has_view_permission(self, request: HttpRequest, obj: Row | None = None) -> bool:
        return request.user.has_perm(f"{self.opts.app_label}.view_{self.opts.model_name}")

    def page(self, request: HttpRequest, row: Row) -> Page:
        """The page of one row."""
        raise NotImplementedError

    def offered(self, row: Row) -> Sequence[str]:
        """Names of the acts that make sense for a row as it stands, in the order of the page."""
        return [act.name for act in self.acts]

    def suggested(self, request: HttpRequest, row: Row) -> str:
        """The act that stands open when the page is opened; empty for none."""
        return ""

    def get_urls(self) -> list[URLPattern]:
        name = f"{self.opts.app_label}_{self.opts.model_name}_act"
        return [
            path("<path:object_id>/act/<slug:act>/", self.admin_site.admin_view(self.act_view), name=name),
            *super().get_urls(),
        ]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if request.method not in ("GET", "HEAD"):
            raise PermissionDenied  # there is nothing to post here: rows change by their acts
        return self._render(request, self._row(request, object_id))

    def act_view(self, request: HttpRequest, object_id: str, act: str) -> HttpResponse:
        """Do one act: check who asks, check the form, make the call, say what came of it."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        chosen = next((one for one in self.acts if one.name == act), None)
        if chosen is None:
            raise Http404
        row = self._row(request, object_id)
        if not request.user.has_perm(chosen.permission):
            raise PermissionDenied
        form = chosen.form(request.POST, prefix=chosen.name)
        if not form.is_valid():
            for errors in form.errors.values():
                messages.error(request, " ".join(str(error) for error in errors))
            return self._render(request, row, bound=(chosen.name, form), status=400)
        try:
            told = chosen.run(row, form.cleaned_data, request.user.get_username())
        except DomainError as error:
            messages.error(request, f"{chosen.label}: {error.detail}")
            # As it stands now: often someone else was quicker. What was typed is kept.
            row = self._row(request, object_id)
            if isinstance(form, VersionedForm):
                form = form.renewed(cast(Any, row).version)
            return self._render(request, row, bound=(chosen.name, form), status=error.status)
        self.log_change(request, row, f"{chosen.label}: {form.cleaned_data.get('note', '')}".strip(": "))
        if chosen.shown_once:
            return self._render(request, self._row(request, object_id), secret=told)
        messages.success(request, told)
        return HttpResponseRedirect(self.after_act(request, row))

    def act_of_none(self, request: HttpRequest, act: Act[Any], page: Page, *, then: str) -> HttpResponseBase:
        """A page with one act, which belongs to no row yet: its `run` is called with None."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        allowed = request.user.has_perm(act.permission)
        form, status = act.form(prefix=act.name), 200
        if request.method == "POST":
            if not allowed:
                raise PermissionDenied
            form, status = act.form(request.POST, request.FILES, prefix=act.name), 400
            if form.is_valid():
                try:
                    told = act.run(None, form.cleaned_data, request.user.get_username())
                except DomainError as error:
                    messages.error(request, error.detail)
                    status = error.status
                else:
                    messages.success(request, told)
                    return HttpResponseRedirect(then)
        offered = Offered(act=act, url=request.path, form=form, allowed=allowed, is_open=True)
        return self.show(request, str(page.title), page, status=status, acts=[offered])

    def after_act(self, request: HttpRequest, row: Row) -> str:
        """Where an act leads to: back to the row's page, or to the next one of the work list where that was asked."""
        return (self.next_url(row) if "_next" in request.POST else "") or self.page_url(row)

    def next_url(self, row: Row) -> str:
        """The row after this one in a work list; empty where there is none."""
        return ""

    def page_url(self, row: Row) -> str:
        return reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_change", args=[row.pk])

    def _row(self, request: HttpRequest, object_id: str) -> Row:
        row = self.get_object(request, unquote(object_id))
        if row is None:
            raise Http404
        if not self.has_view_permission(request, row):
            raise PermissionDenied
        return row

    def _render(
        self,
        request: HttpRequest,
        row: Row,
        *,
        bound: tuple[str, ActForm] | None = None,
        status: int = 200,
        secret: str = "",
    ) -> HttpResponse:
        # `str(row)`, not `original`: the page itself says what it is about, the path above it which list.
        acts = self._offered(request, row, bound)
        return self.show(request, str(row), self.page(request, row), status=status, secret=secret, acts=acts)

    def show(self, request: HttpRequest, title: str, page: Page, *, status: int = 200, **more: Any) -> HttpResponse:
        """A page of this admin, of a row or of none (a report)."""
        request.current_app = self.admin_site.name
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            "media": self.media,
            "page": page,
            **more,
        }
        return TemplateResponse(request, "admin/desk/page.html", context, status=status)

    def _offered(self, request: HttpRequest, row: Row, bound: tuple[str, ActForm] | None) -> list[Offered]:
        by_name = {act.name: act for act in self.acts}
        url_name = f"admin:{self.opts.app_label}_{self.opts.model_name}_act"
        failed, form = bound or ("", None)
        suggested = self.suggested(request, row)
        return [
            Offered(
                act=by_name[name],
                url=reverse(url_name, args=[row.pk, name]),
                form=form if form and name == failed else self.act_form(by_name[name], row),
                allowed=request.user.has_perm(by_name[name].permission),
                is_open=name == (failed or suggested),
            )
            for name in self.offered(row)
        ]

    def act_form(self, act: Act[Row], row: Row) -> ActForm:
        """An empty form of an act; an admin may fill in what it knows."""
        return act.form(prefix=act.name)
