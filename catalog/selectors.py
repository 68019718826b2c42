"""Everything that reads the catalogue."""

from collections.abc import Iterable, Sequence
from uuid import UUID

from django.db.models import Case, Exists, F, OuterRef, Q, QuerySet, Value, When
from django.db.models.functions import Now

from catalog import search
from catalog.models import ApiKey, Merchant, Product
from catalog.types import Cart, MerchantTerms, Offer, WebhookEndpoint
from foundation.database import prepared_cursor
from foundation.errors import NotFound

_NAMES_SHOWN = 100


def get_merchant(merchant_id: UUID) -> MerchantTerms:
    """Raises NotFound."""
    merchant = Merchant.objects.filter(pk=merchant_id).first()
    if merchant is None:
        raise NotFound
    return terms_of(merchant)


def list_merchants() -> list[MerchantTerms]:
    """All merchants, the oldest first."""
    return [terms_of(merchant) for merchant in Merchant.objects.order_by("pk")]


def find_merchant(name: str | None) -> MerchantTerms:
    """The merchant of that name; without one, the only merchant there is. Raises NotFound, which names some."""
    merchants = list_merchants()
    found = [merchant for merchant in merchants if name in (None, merchant.name)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(merchant.name for merchant in merchants[:10]) or "none yet"
    problem = f"no merchant is called {name}" if name else "say which merchant"
    raise NotFound(f"{problem} (merchants: {names})")


def merchant_names(ids: Iterable[UUID]) -> dict[UUID, str]:
    """The names of these merchants."""
    return dict(Merchant.objects.filter(pk__in=list(ids)).values_list("pk", "name"))


def some_merchant_names() -> list[tuple[UUID, str]]:
    """The merchants that a list can be narrowed to: the first hundred by name, more than a person chooses among."""
    return list(Merchant.objects.order_by("name").values_list("pk", "name")[:_NAMES_SHOWN])


def wants_to_be_told(merchant_id: UUID) -> bool:
    """Whether this merchant named an address to be told at."""
    return Merchant.objects.filter(pk=merchant_id).exclude(webhook_url="").exists()


def webhook_endpoints(ids: Iterable[UUID]) -> dict[UUID, WebhookEndpoint]:
    """Where these merchants want to be told; who named no address is missing."""
    rows = Merchant.objects.filter(pk__in=list(ids)).exclude(webhook_url="")
    still_good = Case(When(webhook_secret_before_until__gt=Now(), then=F("webhook_secret_before")), default=Value(""))
    found = rows.values_list("pk", "webhook_url", "webhook_secret", still_good)
    return {pk: WebhookEndpoint(url, tuple(filter(None, secrets))) for pk, url, *secrets in found}


def merchant_called(name: str) -> UUID | None:
    """The id of the merchant with this very name."""
    return Merchant.objects.filter(name=name).values_list("pk", flat=True).first()


def live_keys() -> QuerySet[ApiKey]:
    """The keys that open something at this moment."""
    return ApiKey.objects.filter(Q(expires_at__isnull=True) | Q(expires_at__gt=Now()), revoked_at__isnull=True)


def keys_with_state(rows: QuerySet[ApiKey] | None = None) -> QuerySet[ApiKey]:
    """Keys with their `state`: live, replaced (live, and has a successor), expired, revoked."""
    successors = ApiKey.objects.filter(replaces=OuterRef("pk"), revoked_at__isnull=True)
    state = Case(
        When(revoked_at__isnull=False, then=Value("revoked")),
        When(expires_at__lte=Now(), then=Value("expired")),
        When(Exists(successors), then=Value("replaced")),
        default=Value("live"),
    )
    return (ApiKey.objects.all() if rows is None else rows).annotate(state=state)


def find_key(text: str) -> ApiKey:
    """By its prefix, bare or as a person copies it from a list (`ek_a1b2c3_…`). Raises NotFound."""
    prefix = text.strip().removeprefix("ek_").partition("_")[0]
    found = keys_with_state().select_related("merchant").filter(prefix=prefix).first()
    if found is None:
        raise NotFound(f"There is no key that begins with ek_{prefix}_.")
    return found


_CART = """
SELECT now.at, now.at + make_interval(secs => merchant.order_expires_after_s),
       product.id, product.product_id, product.title, product.price_minor, product.currency
FROM catalog_merchant merchant
CROSS JOIN (SELECT statement_timestamp() AS at) now
LEFT JOIN catalog_product product
       ON product.merchant_id = merchant.id AND product.product_id = ANY(%(products)s) AND product.published
WHERE merchant.id = %(merchant)s
"""


def get_cart(*, merchant_id: UUID, products: Sequence[str]) -> Cart:
    """All that checkout asks of the catalogue, in one query. What is unknown or not published is not offered.

    Raises NotFound for an unknown merchant.
    """
    with prepared_cursor() as cursor:
        cursor.execute(_CART, {"merchant": merchant_id, "products": list(products)})
        rows = cursor.fetchall()
    if not rows:
        raise NotFound
    offers = {row[3]: Offer(*row[2:]) for row in rows if row[2] is not None}
    return Cart(offers, priced_at=rows[0][0], expires_at=rows[0][1])


def product_ids(*, merchant_id: UUID, products: Sequence[str]) -> dict[str, UUID]:
    """Public ids → inner ids, published or not; unknown ones are missing."""
    rows = Product.objects.filter(merchant_id=merchant_id, product_id__in=products)
    return dict(rows.values_list("product_id", "pk"))


def public_product_ids(ids: Iterable[UUID]) -> dict[UUID, str]:
    """Inner ids → public ids."""
    return dict(Product.objects.filter(pk__in=list(ids)).values_list("pk", "product_id"))


def get_product(*, merchant_id: UUID, product: str, also_unpublished: bool) -> Product:
    """Raises NotFound."""
    found = _visible(merchant_id, also_unpublished).filter(product_id=product).first()
    if found is None:
        raise NotFound
    return found


def list_products(
    *, merchant_id: UUID, also_unpublished: bool, text: str = "", products: Sequence[str] | None = None
) -> QuerySet[Product]:
    """Products that a person's text finds, or the given ones, or all; not ordered."""
    rows = _visible(merchant_id, also_unpublished)
    if products is not None:
        rows = rows.filter(product_id__in=products)
    if text.strip():
        asked = search.query(text)
        rows = rows.filter(search__matches=asked) if asked else rows.none()
    return rows


def _visible(merchant_id: UUID, also_unpublished: bool) -> QuerySet[Product]:
    rows = Product.objects.defer("search").filter(merchant_id=merchant_id)
    return rows if also_unpublished else rows.filter(published=True)


def terms_of(merchant: Merchant) -> MerchantTerms:
    return MerchantTerms(
        id=merchant.pk,
        name=merchant.name,
        currency=merchant.currency,
        order_expires_after_s=merchant.order_expires_after_s,
        refund_window_days=merchant.refund_window_days,
        refund_ratio_bp=merchant.refund_ratio_bp,
        refund_fee_minor=merchant.refund_fee_minor,
        webhook_url=merchant.webhook_url,
        refund_approval_above_minor=merchant.refund_approval_above_minor,
        loyalty_rate_bp=merchant.loyalty_rate_bp,
    )
