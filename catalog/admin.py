"""Merchants, their keys and their products. Everything that staff change goes through a service, with a note."""

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.safestring import SafeString

from catalog import search, selectors, services
from catalog.models import ApiKey, Merchant, Product
from catalog.types import EXPORT_COLUMNS
from foundation import cells, numbers
from foundation.desk import Act, ActForm, NoteForm, ReadOnlyAdmin, VersionedForm, choice_filter, named_filter
from foundation.errors import InvalidInput
from foundation.exports import Value
from foundation.money import BASIS_POINTS, EXPONENTS
from foundation.parsers import read_object
from foundation.sections import Facts, Page, Table

_SHOWN = 50
_HOUR_S = 3600


def _amount(value: int, currency: str) -> str:
    """Minor units as a person types them."""
    decimals = EXPONENTS[currency]
    return f"{value / 10**decimals:.{decimals}f}"


def _last_day() -> forms.DateField:
    return forms.DateField(
        label="Last day",
        required=False,
        widget=forms.DateInput(attrs={"type": "date"}),
        help_text="It opens nothing after this day (UTC). Empty: it does not expire.",
    )


def _end_of(day: date | None) -> datetime | None:
    return datetime.combine(day, time.max, UTC) if day else None


# --- Merchants --------------------------------------------------------------------------------------


class TermsForm(NoteForm):
    order_expires_after_s = forms.IntegerField(label="Unpaid orders expire after (seconds)", min_value=1)
    refund_window_days = forms.IntegerField(label="Refund window (days)", min_value=0)
    refund_ratio_bp = forms.IntegerField(
        label="Refund ratio (basis points)", min_value=0, max_value=BASIS_POINTS, help_text="10000 is the whole amount."
    )
    refund_fee = forms.CharField(
        label="Refund fee",
        help_text="As 1.50, kept of what is refunded of a payment; none in another currency than the shop's.",
    )
    refund_approval_above = forms.CharField(
        label="A second person approves refunds above",
        required=False,
        help_text="As 500.00; empty: none waits. In another currency than the shop's, all wait where there is a limit.",
    )
    loyalty_rate_bp = forms.IntegerField(
        label="Loyalty points for each major unit (basis points)",
        min_value=0,
        help_text="10000: one point for each dollar (or yen) paid. 0: no points.",
    )
    webhook_url = forms.URLField(label="Webhook address", required=False, assume_scheme="https")
    field_order = (
        "order_expires_after_s",
        "refund_window_days",
        "refund_ratio_bp",
        "refund_fee",
        "refund_approval_above",
        "loyalty_rate_bp",
        "webhook_url",
        "note",
    )


class KeyForm(NoteForm):
    name = forms.CharField(label="Name", max_length=100, help_text="Who will hold it.")
    scopes = forms.MultipleChoiceField(
        label="Scopes", choices=ApiKey.Scope.choices, widget=forms.SelectMultiple(attrs={"size": 2})
    )
    expires_on = _last_day()
    field_order = ("name", "scopes", "expires_on", "note")


class RotateForm(NoteForm):
    overlap_h = forms.IntegerField(
        label="Both are live for (hours)",
        min_value=0,
        max_value=settings.API_KEY_OVERLAP_LONGEST_S // _HOUR_S,
        help_text="Time to bring the new one out. 0: the old one opens nothing from now on.",
    )
    expires_on = _last_day()
    field_order = ("overlap_h", "expires_on", "note")


_PRODUCT_FIELDS = ("title", "author", "isbn", "price", "description", "image_url", "metadata", "published", "note")


class ProductForm(NoteForm):
    title = forms.CharField(label="Title", max_length=500)
    author = forms.CharField(label="Author", max_length=1000, required=False)
    isbn = forms.CharField(label="ISBN", max_length=32, required=False)
    price = forms.CharField(label="Price", help_text=numbers.explained("As {}, in the product's currency."))
    description = forms.CharField(
        label="Description", max_length=20_000, required=False, widget=forms.Textarea(attrs={"rows": 2})
    )
    image_url = forms.URLField(label="Image's address", max_length=500, required=False, assume_scheme="https")
    metadata = forms.CharField(
        label="Metadata",
        required=False,
        widget=forms.Textarea(attrs={"rows": 2}),
        help_text='What your own programs want to know, as a JSON object: {"shelf": "A3"}.',
    )
    published = forms.BooleanField(label="For sale", required=False)
    field_order: tuple[str, ...] = _PRODUCT_FIELDS

    def clean_image_url(self) -> str:
        address: str = self.cleaned_data["image_url"]
        if address and not address.startswith(("http://", "https://")):
            raise forms.ValidationError("An image's address begins with https:// or http://.")
        return address

    def clean_metadata(self) -> dict[str, Any]:
        try:
            return read_object(self.cleaned_data["metadata"] or "{}")
        except InvalidInput as error:
            raise forms.ValidationError(f"Metadata: {error.detail}") from None


class NewProductForm(ProductForm):
    product = forms.CharField(
        label="Own id",
        max_length=64,
        required=False,
        help_text="Letters, digits and . _ ~ : -; empty: one is generated.",
    )
    field_order = ("product", *_PRODUCT_FIELDS)


class ChangeProductForm(VersionedForm, ProductForm):
    pass


def set_terms(merchant: Merchant, data: dict[str, Any], by: str) -> str:
    above = data["refund_approval_above"].strip()
    services.set_terms(
        merchant_id=merchant.pk,
        order_expires_after_s=data["order_expires_after_s"],
        refund_window_days=data["refund_window_days"],
        refund_ratio_bp=data["refund_ratio_bp"],
        refund_fee_minor=numbers.read(data["refund_fee"], merchant.currency),
        refund_approval_above_minor=numbers.read(above, merchant.currency) if above else None,
        webhook_url=data["webhook_url"],
        loyalty_rate_bp=data["loyalty_rate_bp"],
    )
    return "The new terms hold for every order and refund from now on."


def issue_key(merchant: Merchant, data: dict[str, Any], by: str) -> str:
    return services.issue_api_key(
        merchant_id=merchant.pk, name=data["name"], scopes=data["scopes"], expires_at=_end_of(data["expires_on"])
    )


def roll_webhook_secret(merchant: Merchant, data: dict[str, Any], by: str) -> str:
    return services.roll_webhook_secret(merchant_id=merchant.pk)


def add_product(merchant: Merchant, data: dict[str, Any], by: str) -> str:
    product = services.create_product(
        merchant_id=merchant.pk,
        product=data["product"],
        title=data["title"],
        author=data["author"],
        isbn=data["isbn"] or None,
        price_minor=numbers.read(data["price"], merchant.currency),
        currency=merchant.currency,
        description=data["description"],
        image_url=data["image_url"],
        metadata=data["metadata"],
        published=data["published"],
    )
    return f"{product.title} is listed as {product.product_id}."


@admin.register(Merchant)
class MerchantAdmin(ReadOnlyAdmin[Merchant]):
    list_display = ("name_cell", "currency_cell", "expires", "window", "ratio", "since")
    acts = (
        Act(
            name="terms",
            label="Change the terms",
            says="Sets expiry, refund policy and webhook for everything from now on.",
            permission="catalog.change_merchant",
            run=set_terms,
            form=TermsForm,
            icon="tune",
        ),
        Act(
            name="key",
            label="Issue an API key",
            says="Makes a key for a storefront or an operator's script; it is shown once.",
            permission="catalog.add_apikey",
            run=issue_key,
            form=KeyForm,
            icon="key",
            shown_once=True,
        ),
        Act(
            name="webhook_secret",
            label="Make a webhook secret",
            says="Calls to the merchant's webhook are signed with it from now on; it is shown once. The old one signs too for a day.",
            permission="catalog.change_merchant",
            run=roll_webhook_secret,
            form=NoteForm,
            icon="webhook",
            shown_once=True,
        ),
        Act(
            name="product",
            label="List a product",
            says="Adds something to sell; restock it afterwards.",
            permission="catalog.add_product",
            run=add_product,
            form=NewProductForm,
            icon="menu_book",
        ),
    )

    def act_form(self, act: Act[Merchant], row: Merchant) -> ActForm:
        initial: dict[str, Any] = {"published": True}
        if act.name == "terms":
            initial = {
                "order_expires_after_s": row.order_expires_after_s,
                "refund_window_days": row.refund_window_days,
                "refund_ratio_bp": row.refund_ratio_bp,
                "refund_fee": _amount(row.refund_fee_minor, row.currency),
                "refund_approval_above": ""
                if row.refund_approval_above_minor is None
                else _amount(row.refund_approval_above_minor, row.currency),
                "loyalty_rate_bp": row.loyalty_rate_bp,
                "webhook_url": row.webhook_url,
            }
        return act.form(prefix=act.name, initial=initial)

    @admin.display(description="Merchant")
    def name_cell(self, merchant: Merchant) -> str:
        return merchant.name

    @admin.display(description="Currency")
    def currency_cell(self, merchant: Merchant) -> str:
        return merchant.currency.upper()

    @admin.display(description="Orders expire after")
    def expires(self, merchant: Merchant) -> str:
        return cells.seconds(merchant.order_expires_after_s)

    @admin.display(description="Refund window")
    def window(self, merchant: Merchant) -> str:
        return f"{merchant.refund_window_days} days"

    @admin.display(description="Refund ratio")
    def ratio(self, merchant: Merchant) -> str:
        return f"{merchant.refund_ratio_bp / 100:g} %"

    @admin.display(description="Since")
    def since(self, merchant: Merchant) -> SafeString:
        return cells.moment(merchant.created_at)

    def page(self, request: HttpRequest, row: Merchant) -> Page:
        products = Product.objects.defer("search").filter(merchant=row).order_by("-pk")[:_SHOWN]
        return Page(
            title=row.name,
            lead=[cells.badge(row.currency.upper())],
            sub=cells.code(str(row.pk)),
            main=[
                keys_table(request, selectors.keys_with_state().filter(merchant=row).order_by("-pk")[:_SHOWN]),
                Table(
                    f"The newest {_SHOWN} products",
                    ["Title", "Id", "For sale", cells.right("Price")],
                    [
                        [
                            cells.link(request, "catalog.product", one.pk, one.title),
                            cells.short(one.product_id),
                            cells.badge("yes", "good") if one.published else cells.badge("no"),
                            cells.money(one.price_minor, one.currency),
                        ]
                        for one in products
                    ],
                    empty="Nothing is listed yet: list a product here, by API, or with manage.py import_catalog.",
                    link=(
                        f"{reverse('admin:catalog_product_changelist')}?merchant={row.pk}",
                        "All, to search and export",
                    ),
                ),
            ],
            side=[
                Facts(
                    "Terms",
                    [
                        ("Orders expire after", cells.seconds(row.order_expires_after_s)),
                        ("Refund window", f"{row.refund_window_days} days"),
                        ("Refund ratio", f"{row.refund_ratio_bp / 100:g} %"),
                        ("Refund fee", cells.money(row.refund_fee_minor, row.currency)),
                        ("A second person approves above", cells.money(row.refund_approval_above_minor, row.currency)),
                        ("Loyalty points", f"{row.loyalty_rate_bp / BASIS_POINTS:g} for each major unit paid"),
                        ("Webhook", row.webhook_url or cells.NOTHING),
                    ],
                )
            ],
        )


# --- Keys -------------------------------------------------------------------------------------------


def keys_table(request: HttpRequest, keys: QuerySet[ApiKey]) -> Table:
    return Table(
        "API keys",
        ["Name", "Begins with", "Scopes", "State", "Last used", "Expires"],
        [
            [
                cells.link(request, "catalog.apikey", key.pk, key.name),
                cells.code(f"ek_{key.prefix}_…"),
                ", ".join(key.scopes),
                _key_state(key),
                cells.moment(key.last_used_at),
                cells.moment(key.expires_at),
            ]
            for key in keys
        ],
        empty="Nobody can call the API for this merchant yet.",
    )


def _key_state(key: ApiKey) -> SafeString:
    return cells.state(_state_of(key))


def _state_of(key: ApiKey) -> str:
    return str(vars(key)["state"])  # annotated by selectors.keys_with_state


def _key_link(request: HttpRequest, key: ApiKey | None) -> SafeString:
    return cells.link(request, "catalog.apikey", key.pk, f"ek_{key.prefix}_…") if key else cells.NOTHING


def rotate_key(key: ApiKey, data: dict[str, Any], by: str) -> str:
    return services.rotate_api_key(
        key_id=key.pk, overlap_s=data["overlap_h"] * _HOUR_S, expires_at=_end_of(data["expires_on"])
    )


def revoke_key(key: ApiKey, data: dict[str, Any], by: str) -> str:
    services.revoke_api_key(key_id=key.pk)
    return "The key opens nothing from now on."


@admin.register(ApiKey)
class ApiKeyAdmin(ReadOnlyAdmin[ApiKey]):
    list_display = ("name_cell", "prefix_cell", "merchant_cell", "scopes_cell", "state_cell", "used", "expires")
    list_filter = (choice_filter("state", ["live", "replaced", "expired", "revoked"]),)
    list_select_related = ("merchant",)
    search_help_text = "The letters between ek_ and the second _"
    acts = (
        Act(
            name="rotate",
            label="Rotate",
            says="Makes a new key of the same name and scopes, shown once; both open the shop for a while.",
            permission="catalog.add_apikey",
            run=rotate_key,
            form=RotateForm,
            icon="autorenew",
            shown_once=True,
        ),
        Act(
            name="revoke",
            label="Revoke",
            says="The key opens nothing from now on. This cannot be taken back: issue a new one instead.",
            permission="catalog.change_apikey",
            run=revoke_key,
            icon="key_off",
            danger=True,
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApiKey]:
        return selectors.keys_with_state(super().get_queryset(request))

    def find(self, text: str) -> Q:
        return Q(prefix=text.removeprefix("ek_").partition("_")[0])

    def act_form(self, act: Act[ApiKey], row: ApiKey) -> ActForm:
        return act.form(prefix=act.name, initial={"overlap_h": settings.API_KEY_OVERLAP_S // _HOUR_S})

    def offered(self, row: ApiKey) -> list[str]:
        return {"live": ["rotate", "revoke"], "replaced": ["revoke"]}.get(_state_of(row), [])

    @admin.display(description="Name")
    def name_cell(self, key: ApiKey) -> str:
        return key.name

    @admin.display(description="Begins with")
    def prefix_cell(self, key: ApiKey) -> SafeString:
        return cells.code(f"ek_{key.prefix}_…")

    @admin.display(description="Merchant")
    def merchant_cell(self, key: ApiKey) -> str:
        return key.merchant.name

    @admin.display(description="Scopes")
    def scopes_cell(self, key: ApiKey) -> str:
        return ", ".join(key.scopes)

    @admin.display(description="State")
    def state_cell(self, key: ApiKey) -> SafeString:
        return _key_state(key)

    @admin.display(description="Last used")
    def used(self, key: ApiKey) -> SafeString:
        return cells.moment(key.last_used_at)

    @admin.display(description="Expires")
    def expires(self, key: ApiKey) -> SafeString:
        return cells.moment(key.expires_at)

    def page(self, request: HttpRequest, row: ApiKey) -> Page:
        successor = ApiKey.objects.filter(replaces=row, revoked_at__isnull=True).first()
        return Page(
            title=row.name,
            lead=[_key_state(row)],
            sub=cells.beside("of", cells.link(request, "catalog.merchant", row.merchant_id, row.merchant.name)),
            main=[
                Facts(
                    "API key",
                    [
                        ("Begins with", cells.code(f"ek_{row.prefix}_…")),
                        ("Scopes", ", ".join(row.scopes)),
                        ("Issued", cells.moment(row.created_at)),
                        ("Expires", cells.moment(row.expires_at)),
                        ("Last used", cells.moment(row.last_used_at)),
                        ("Revoked", cells.moment(row.revoked_at)),
                        ("Takes the place of", _key_link(request, row.replaces)),
                        ("Its place is taken by", _key_link(request, successor)),
                    ],
                )
            ],
        )


# --- Products ---------------------------------------------------------------------------------------


def change_product(product: Product, data: dict[str, Any], by: str) -> str:
    services.update_product(
        merchant_id=product.merchant_id,
        product=product.product_id,
        expected_version=data["version"],
        title=data["title"],
        author=data["author"],
        isbn=data["isbn"] or None,
        price_minor=numbers.read(data["price"], product.currency),
        description=data["description"],
        image_url=data["image_url"],
        metadata=data["metadata"],
        published=data["published"],
    )
    return "Changed. Orders that were placed keep the title and price that they were placed with."


@admin.register(Product)
class ProductAdmin(ReadOnlyAdmin[Product]):
    list_display = ("title_cell", "author_cell", "isbn_cell", "merchant_cell", "sale", "price")
    list_filter = (
        choice_filter("published", ["True", "False"], title="for sale"),
        named_filter("merchant", selectors.some_merchant_names, title="merchant"),
    )
    list_select_related = ("merchant",)
    export_columns = EXPORT_COLUMNS
    search_help_text = "Words of title or author, or an ISBN"
    acts = (
        Act(
            name="change",
            label="Change",
            says="Changes what the shop shows and asks from now on. Placed orders keep what they were placed with.",
            permission="catalog.change_product",
            run=change_product,
            form=ChangeProductForm,
            icon="edit",
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Product]:
        return super().get_queryset(request).defer("search", "description", "metadata")

    def export_rows(self, rows: QuerySet[Product]) -> QuerySet[Product]:
        return rows.defer(None).defer("search")

    def export_row(self, row: Product) -> Sequence[Value]:
        return (
            row.product_id,
            row.isbn,
            row.title,
            row.author,
            row.price_minor,
            row.currency,
            row.published,
            row.description,
            row.image_url,
            json.dumps(row.metadata, ensure_ascii=False),
            row.merchant.name,
        )

    def find(self, text: str) -> Q:
        asked = search.query(text)
        return Q(search__matches=asked) if asked else Q(pk__in=[])

    def act_form(self, act: Act[Product], row: Product) -> ActForm:
        initial = {
            "title": row.title,
            "author": row.author,
            "isbn": row.isbn or "",
            "price": _amount(row.price_minor, row.currency),
            "description": row.description,
            "image_url": row.image_url,
            "metadata": json.dumps(row.metadata, ensure_ascii=False) if row.metadata else "",
            "published": row.published,
            "version": row.version,
        }
        return act.form(prefix=act.name, initial=initial)

    @admin.display(description="Title")
    def title_cell(self, product: Product) -> str:
        return product.title

    @admin.display(description="Author")
    def author_cell(self, product: Product) -> str:
        return product.author[:60] or "—"

    @admin.display(description="ISBN")
    def isbn_cell(self, product: Product) -> SafeString:
        return cells.code(product.isbn)

    @admin.display(description="Merchant")
    def merchant_cell(self, product: Product) -> str:
        return product.merchant.name

    @admin.display(description="For sale")
    def sale(self, product: Product) -> SafeString:
        return cells.badge("yes", "good") if product.published else cells.badge("no")

    @admin.display(description="Price")
    def price(self, product: Product) -> SafeString:
        return cells.money(product.price_minor, product.currency)

    def page(self, request: HttpRequest, row: Product) -> Page:
        return Page(
            title=row.title,
            lead=[cells.badge("for sale", "good") if row.published else cells.badge("not for sale")],
            sub=row.author,
            figure=("Price", cells.money(row.price_minor, row.currency)),
            main=[
                Facts(
                    "Product",
                    [
                        ("Id", cells.code(row.product_id)),
                        ("ISBN", cells.code(row.isbn)),
                        ("Merchant", cells.link(request, "catalog.merchant", row.merchant_id, row.merchant.name)),
                        ("Stock", cells.link(request, "inventory.stock", row.pk, "on hand and reserved")),
                        ("Description", row.description or cells.NOTHING),
                        ("Image", row.image_url or cells.NOTHING),
                        ("Metadata", json.dumps(row.metadata, ensure_ascii=False) if row.metadata else cells.NOTHING),
                        ("Listed", cells.moment(row.created_at)),
                        ("Changed", cells.moment(row.updated_at)),
                    ],
                )
            ],
        )
