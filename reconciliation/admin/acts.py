"""What can be done about a discrepancy: the actions of reconciliation.types, each with the fields that it asks for."""

from typing import Any

from django import forms
from django.contrib.auth.models import User

from foundation import numbers
from foundation.desk import Act, NoteForm
from payments.types import CORRECTED_AGAINST
from reconciliation import services
from reconciliation.models import Discrepancy
from reconciliation.types import Action, ActionInfo, ActionInput

_COLLEAGUES_SHOWN = 200
_PARTS = 3  # of a difference that is split: more are a matter for the journal
ACCOUNTS = [(kind, kind.replace("_", " ").capitalize()) for kind in CORRECTED_AGAINST]


def colleagues() -> list[tuple[str, str]]:
    """Staff to whom an item can be given."""
    names = User.objects.filter(is_staff=True, is_active=True).order_by("username").values_list("username", flat=True)
    return [(name, name) for name in names[:_COLLEAGUES_SHOWN]]


class ActionForm(NoteForm):
    """`key` is made with the page: the same press of a button, however often it is sent, is done once."""

    key = forms.UUIDField(widget=forms.HiddenInput)


class OrderForm(ActionForm):
    order_number = forms.CharField(
        label="Order",
        max_length=64,
        required=False,
        help_text="Where it is filled in, Stripe's charge names this order.",
    )
    field_order: tuple[str, ...] = ("order_number", "note")


class RefundForm(OrderForm):
    amount = forms.CharField(
        label="Amount",
        required=False,
        help_text=numbers.explained("As {}. Empty: what was taken too much, or all of a charge that we do not know."),
        widget=forms.TextInput(attrs={"inputmode": "decimal"}),
    )
    field_order = ("amount", "order_number", "note")


class NumberForm(ActionForm):
    number = forms.CharField(
        label="Payment or refund of ours",
        max_length=64,
        widget=forms.TextInput(attrs={"placeholder": "pay_… or ref_…"}),
    )
    field_order = ("number", "note")


class AccountForm(ActionForm):
    account = forms.ChoiceField(label="On which account", choices=ACCOUNTS, required=False)
    field_order = ("account", "note")


class PartsForm(ActionForm):
    """Up to _PARTS parts of a difference. Amounts are written without a sign: they are parts of it, whoever has more."""

    field_order = (*(f"{field}_{part}" for part in range(1, _PARTS + 1) for field in ("account", "amount")), "note")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for part in range(1, _PARTS + 1):
            needed = part <= 2
            account = forms.ChoiceField(label=f"Part {part}, account", choices=ACCOUNTS, required=needed)
            amount = forms.CharField(
                label=f"Part {part}, amount",
                required=needed,
                help_text=numbers.explained("As {}.") if part == 1 else "",
                widget=forms.TextInput(attrs={"inputmode": "decimal"}),
            )
            self.fields[f"account_{part}"], self.fields[f"amount_{part}"] = account, amount
            for field in (account, amount):
                field.widget.attrs.update({"class": "ec-input", "aria-label": str(field.label)})
        self.order_fields(self.field_order)


def parts_of(data: dict[str, Any], currency: str, sign: int) -> tuple[tuple[str, int], ...]:
    """What a PartsForm was filled in with, in minor units with the sign of the difference. Raises InvalidInput."""
    typed = [(data.get(f"account_{part}", ""), data.get(f"amount_{part}", "").strip()) for part in range(1, _PARTS + 1)]
    return tuple((account, sign * numbers.read(amount, currency)) for account, amount in typed if amount)


class OwnerForm(ActionForm):
    owner = forms.ChoiceField(label="Colleague", choices=colleagues)
    field_order = ("owner", "note")


class UntilForm(ActionForm):
    until = forms.DateField(label="Until", widget=forms.DateInput(attrs={"type": "date"}))
    field_order = ("until", "note")


class CounterpartForm(ActionForm):
    counterpart = forms.CharField(
        label="Bank line or payout",
        max_length=255,
        help_text="The number of what this belongs to: bnk_… of a payout, pot_… or po_… of a bank line.",
    )
    field_order = ("counterpart", "note")


_FORMS: dict[tuple[str, ...], type[ActionForm]] = {
    (): ActionForm,
    ("order_number",): OrderForm,
    ("amount_minor", "order_number"): RefundForm,
    ("owner",): OwnerForm,
    ("until",): UntilForm,
    ("counterpart",): CounterpartForm,
    ("number",): NumberForm,
    ("account",): AccountForm,
    ("parts",): PartsForm,
}
_ICONS = {
    Action.REQUERY: "sync",
    Action.REPLAY_EVENT: "replay",
    Action.LINK: "link",
    Action.SPLIT: "call_split",
    Action.WRITE_OFF: "money_off",
    Action.CREATE_MISSING_PAYMENT: "add_card",
    Action.CREATE_MISSING_REFUND: "add_circle",
    Action.POST_CORRECTION: "edit_note",
    Action.TAKE_PROVIDER_STATUS: "download",
    Action.REFUND_CUSTOMER: "undo",
    Action.MARK_FRAUD: "gpp_bad",
    Action.ACCEPT: "check_circle",
    Action.CLAIM: "front_hand",
    Action.ASSIGN: "person_add",
    Action.RELEASE: "person_remove",
    Action.IGNORE_UNTIL: "snooze",
    Action.LINK_BANK_LINE: "link",
}
_MOVES_MONEY = (Action.REFUND_CUSTOMER, Action.MARK_FRAUD)


def act_of(info: ActionInfo) -> Act[Discrepancy]:
    """An action as the desk offers it."""

    def run(item: Discrepancy, data: dict[str, Any], by: str) -> str:
        amount = data.get("amount", "").strip()
        given = ActionInput(
            order_number=data.get("order_number", ""),
            amount_minor=numbers.read(amount, item.currency) if amount else None,
            owner=data.get("owner", ""),
            until=data.get("until"),
            counterpart=data.get("counterpart", ""),
            number=data.get("number", ""),
            account=data.get("account", ""),
            parts=parts_of(data, item.currency, -1 if (item.difference_minor or 0) < 0 else 1),
        )
        result = services.perform(
            discrepancy_id=item.pk, action=info.name, by=by, note=data["note"], key=str(data["key"]), given=given
        )
        return f"This was done before, and is done once: {result.text}" if result.replayed else result.text

    return Act(
        name=info.name,
        label=info.label,
        says=info.explanation,
        permission=info.permission,
        run=run,
        form=_FORMS[info.asks_for],
        icon=_ICONS[info.name],
        danger=info.name in _MOVES_MONEY,
    )
