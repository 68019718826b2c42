"""People and the timetable: Django's and Celery beat's own pages, in the desk's clothes."""

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django_celery_beat.models import ClockedSchedule, CrontabSchedule, IntervalSchedule, PeriodicTask, SolarSchedule

from foundation import cells
from foundation.desk import AdminPasswordChangeForm, ReadOnlyAdmin, StyledAdmin, UserChangeForm, UserCreationForm
from foundation.sections import Facts, Page, Text

admin.site.unregister([User, Group, PeriodicTask, IntervalSchedule, CrontabSchedule, SolarSchedule, ClockedSchedule])


@admin.register(User)
class UserAdmin(DjangoUserAdmin, StyledAdmin):  # type: ignore[type-arg]  # Django's own is not generic
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "email", "is_active", "is_superuser", "last_login")
    list_filter = ()

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        """Who leaves is made inactive: what they did stands under their name, and who takes it over must not be them."""
        return False


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin, StyledAdmin):
    pass


@admin.register(PeriodicTask)
class PeriodicTaskAdmin(ReadOnlyAdmin[PeriodicTask]):
    """What beat does, and when. The settings write these rows; they are read here, not edited."""

    list_display = ("name_cell", "task_cell", "schedule_cell", "state_cell", "runs", "last_run")
    list_select_related = ("interval", "crontab", "solar", "clocked")
    ordering = ("name",)

    @admin.display(description="Name")
    def name_cell(self, task: PeriodicTask) -> str:
        return str(task.name)

    @admin.display(description="Task")
    def task_cell(self, task: PeriodicTask) -> SafeString:
        return cells.code(task.task)

    @admin.display(description="When")
    def schedule_cell(self, task: PeriodicTask) -> str:
        return str(task.scheduler)

    @admin.display(description="State")
    def state_cell(self, task: PeriodicTask) -> SafeString:
        return cells.badge("on", "good") if task.enabled else cells.badge("off")

    @admin.display(description="Runs")
    def runs(self, task: PeriodicTask) -> SafeString:
        return cells.number(task.total_run_count)

    @admin.display(description="Last run")
    def last_run(self, task: PeriodicTask) -> SafeString:
        return cells.moment(task.last_run_at)

    def page(self, request: HttpRequest, row: PeriodicTask) -> Page:
        return Page(
            title=str(row.name),
            lead=[self.state_cell(row)],
            sub=cells.code(row.task),
            main=[
                Facts(
                    "Periodic task",
                    [
                        ("When", str(row.scheduler)),
                        ("Runs", cells.number(row.total_run_count)),
                        ("Last run", cells.moment(row.last_run_at)),
                        ("Changed", cells.moment(row.date_changed)),
                    ],
                ),
                Text("Arguments", f"{row.args} {row.kwargs}"),
            ],
        )
