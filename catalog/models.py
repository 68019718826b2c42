"""Merchants, their API keys, and what they sell."""

from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.search import SearchVectorField
from django.db import models
from django.db.models import Lookup, Q
from django.db.models.functions import Now

from catalog.types import PRODUCT_ID
from foundation.ids import uuid7
from foundation.money import BASIS_POINTS

_CURRENCY = r"^[a-z]{3}$"


@SearchVectorField.register_lookup
class Matches(Lookup):
    """`search__matches="'go':*"`: the text of a tsquery as `catalog.search.query` writes it."""

    lookup_name = "matches"

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, tuple[Any, ...]]:
        column, before = self.process_lhs(compiler, connection)
        value, after = self.process_rhs(compiler, connection)
        return f"{column} @@ {value}::tsquery", (*before, *after)


class Merchant(models.Model):
    """A shop, and the terms on which it sells."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=100)
    currency = models.CharField(max_length=3)
    order_expires_after_s = models.PositiveIntegerField("order expires after (s)", default=900)
    refund_window_days = models.PositiveIntegerField("refund window (days)", default=7)
    refund_ratio_bp = models.PositiveIntegerField("refund ratio (basis points)", default=BASIS_POINTS)
    refund_fee_minor = models.BigIntegerField("refund fee (minor units)", default=0)
    # Refunds above this wait for a second person; empty: none does.
    refund_approval_above_minor = models.BigIntegerField("refund approval above (minor units)", null=True, blank=True)
    # Points for each major unit paid (a dollar, a yen), in basis points: 10,000 is one point; 0: no points.
    loyalty_rate_bp = models.PositiveIntegerField("loyalty points a major unit (basis points)", default=0, db_default=0)
    webhook_url = models.URLField("webhook URL", max_length=500, blank=True)
    webhook_secret = models.CharField(max_length=100, editable=False)
    # The one before it signs beside it until then, so that a merchant can change over without refusing a call.
    webhook_secret_before = models.CharField(max_length=100, blank=True, db_default="", editable=False)
    webhook_secret_before_until = models.DateTimeField(null=True, editable=False)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["name"], name="merchant_name_is_unique"),
            models.CheckConstraint(condition=Q(currency__regex=_CURRENCY), name="merchant_currency_is_lower_case_iso"),
            models.CheckConstraint(condition=Q(order_expires_after_s__gt=0), name="merchant_orders_live_for_a_while"),
            models.CheckConstraint(
                condition=Q(refund_ratio_bp__lte=BASIS_POINTS), name="merchant_refunds_at_most_the_whole"
            ),
            models.CheckConstraint(condition=Q(refund_fee_minor__gte=0), name="merchant_refund_fee_not_negative"),
            models.CheckConstraint(
                condition=Q(refund_approval_above_minor__isnull=True) | Q(refund_approval_above_minor__gte=0),
                name="merchant_approval_limit_not_negative",
            ),
        ]

    def __str__(self) -> str:
        return self.name


class ApiKey(models.Model):
    """One key of one merchant. The secret is shown once; its hash stays."""

    class Scope(models.TextChoices):
        STOREFRONT = "storefront"
        OPERATIONS = "operations"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=16, editable=False)  # the part that may be shown: it finds the key
    # SHA-256 of the secret: with 256 random bits there is nothing that a slow hash would protect.
    secret_hash = models.BinaryField(max_length=32, editable=False)
    scopes = ArrayField(models.CharField(max_length=16, choices=Scope.choices))
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    # The key that this one takes the place of; both open the shop until the older one expires.
    replaces = models.ForeignKey("self", on_delete=models.SET_NULL, null=True, blank=True, related_name="+")
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)  # true to the minute
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        verbose_name = "API key"
        constraints = [
            models.UniqueConstraint(fields=["prefix"], name="api_key_prefix_is_unique"),
            models.CheckConstraint(
                condition=Q(scopes__contained_by=["storefront", "operations"]) & Q(scopes__len__gt=0),
                name="api_key_scopes_are_known",
            ),
            # A rotation that is asked for twice makes one key. One whose secret was lost is revoked, and makes way.
            models.UniqueConstraint(
                fields=["replaces"], condition=Q(revoked_at__isnull=True), name="api_key_has_one_live_successor"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} (ek_{self.prefix}_…)"


class Product(models.Model):
    """Something that a merchant sells: a book, as a rule."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    merchant = models.ForeignKey(Merchant, on_delete=models.PROTECT, related_name="products")
    # What the world calls it: the merchant's own id or a generated one.
    product_id = models.CharField("product", max_length=64)
    # Thirteen digits. Absent is NULL, so that any number of products may have none.
    isbn = models.CharField("ISBN", max_length=13, null=True, blank=True)  # noqa: DJ001
    title = models.CharField(max_length=500)
    author = models.CharField(max_length=1000, blank=True)
    price_minor = models.BigIntegerField("price (minor units)")
    currency = models.CharField(max_length=3)
    description = models.TextField(blank=True)
    image_url = models.URLField("image URL", max_length=500, blank=True)
    metadata = models.JSONField(default=dict, blank=True)
    published = models.BooleanField(default=True)
    search = SearchVectorField(editable=False)  # written by catalog.search, with every change of what it is made of
    version = models.BigIntegerField(default=0, db_default=0, editable=False)  # counts the changes
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["merchant", "product_id"], name="product_id_once_per_merchant"),
            models.UniqueConstraint(fields=["merchant", "isbn"], name="product_isbn_once_per_merchant"),
            models.CheckConstraint(condition=Q(product_id__regex=PRODUCT_ID), name="product_id_needs_no_escaping"),
            models.CheckConstraint(
                condition=Q(isbn__isnull=True) | Q(isbn__regex=r"^97[89][0-9]{10}$"), name="product_isbn_is_normal_form"
            ),
            models.CheckConstraint(condition=~Q(title=""), name="product_has_a_title"),
            models.CheckConstraint(condition=Q(price_minor__gte=0), name="product_price_not_negative"),
            models.CheckConstraint(condition=Q(currency__regex=_CURRENCY), name="product_currency_is_lower_case_iso"),
        ]
        indexes = [
            GinIndex(fields=["search"], name="product_search"),
            models.Index(fields=["merchant", "id"], name="product_pages_of_a_merchant"),
        ]

    def __str__(self) -> str:
        return f"{self.title} ({self.product_id})"
