"""Everything that changes the catalogue."""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Unpack
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.db.models import F
from django.db.models.functions import Coalesce, Least, Now

from catalog import imports, search, selectors
from catalog import isbn as isbns
from catalog.errors import KeyNotLive, KeyReplaced, MerchantExists, ProductExists
from catalog.models import ApiKey, Merchant, Product
from catalog.types import PRODUCT_ID_PATTERN, ImportReport, LiveKey, MerchantTerms, ProductChanges, Refusal
from foundation import money, webhooks
from foundation.database import database_now, in_seconds, prepared_cursor, violated_constraint
from foundation.errors import ChangedMeanwhile, InvalidInput, NotFound
from foundation.ids import public_id, uuid7

_KEY_MARK = "ek"
_NEVER_MATCHES = bytes(32)
# Every call of the API asks this. It is written out because Django takes four times as long to put it together as PostgreSQL
# to answer it. Which keys are live, `selectors.live_keys` says, too. Use is noted once a minute: a write for each request would
# cost more than the request.
_FIND_LIVE_KEY = """
SELECT secret_hash, id, merchant_id, scopes, name, coalesce(last_used_at > statement_timestamp() - interval '1 minute', false)
FROM catalog_apikey
WHERE prefix = %s AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > statement_timestamp())
"""


# --- Merchants and their keys -----------------------------------------------------------------------


def create_merchant(
    *,
    name: str,
    currency: str,
    order_expires_after_s: int = settings.ORDER_EXPIRES_AFTER_S,
    refund_window_days: int = 7,
    refund_ratio_bp: int = money.BASIS_POINTS,
    refund_fee_minor: int = 0,
    refund_approval_above_minor: int | None = None,
    loyalty_rate_bp: int = 0,
    webhook_url: str = "",
) -> MerchantTerms:
    """Open a shop. Raises MerchantExists, UnknownCurrency, InvalidInput for an address that no webhook can go to."""
    money.require_money(currency)
    _check_webhook(webhook_url)
    try:
        with transaction.atomic():
            merchant = Merchant.objects.create(
                name=name,
                currency=currency,
                order_expires_after_s=order_expires_after_s,
                refund_window_days=refund_window_days,
                refund_ratio_bp=refund_ratio_bp,
                refund_fee_minor=refund_fee_minor,
                refund_approval_above_minor=refund_approval_above_minor,
                loyalty_rate_bp=loyalty_rate_bp,
                webhook_url=webhook_url,
                webhook_secret=_new_webhook_secret(),
            )
    except IntegrityError as error:
        if violated_constraint(error) == "merchant_name_is_unique":
            raise MerchantExists(param="name") from None
        raise
    return selectors.terms_of(merchant)


def set_order_expiry(*, merchant_id: UUID, seconds: int) -> None:
    """How long this merchant's unpaid orders live from now on. Raises InvalidInput, NotFound."""
    if seconds < 1:
        raise InvalidInput("An order lives for a second at least.", param="seconds")
    if not Merchant.objects.filter(pk=merchant_id).update(order_expires_after_s=seconds):
        raise NotFound


def set_terms(
    *,
    merchant_id: UUID,
    order_expires_after_s: int,
    refund_window_days: int,
    refund_ratio_bp: int,
    refund_fee_minor: int,
    refund_approval_above_minor: int | None,
    webhook_url: str,
    loyalty_rate_bp: int,
) -> None:
    """The terms on which this merchant sells from now on. Raises InvalidInput, NotFound."""
    if order_expires_after_s < 1:
        raise InvalidInput("An order lives for a second at least.", param="order_expires_after_s")
    if refund_fee_minor < 0 or refund_window_days < 0 or not 0 <= refund_ratio_bp <= money.BASIS_POINTS:
        raise InvalidInput("Window, ratio and fee of refunds are not negative, and the ratio is at most the whole.")
    if refund_approval_above_minor is not None and refund_approval_above_minor < 0:
        raise InvalidInput("The limit of refunds is not negative.", param="refund_approval_above_minor")
    if loyalty_rate_bp < 0:
        raise InvalidInput("Loyalty points are given, never taken, for what is paid.", param="loyalty_rate_bp")
    _check_webhook(webhook_url)
    changed = Merchant.objects.filter(pk=merchant_id).update(
        order_expires_after_s=order_expires_after_s,
        refund_window_days=refund_window_days,
        refund_ratio_bp=refund_ratio_bp,
        refund_fee_minor=refund_fee_minor,
        refund_approval_above_minor=refund_approval_above_minor,
        webhook_url=webhook_url,
        loyalty_rate_bp=loyalty_rate_bp,
    )
    if not changed:
        raise NotFound


def _check_webhook(url: str) -> None:
    """Refuse at once what each call would refuse. What a name leads to is looked at then: that may change."""
    try:
        if url:
            webhooks.check_url(url)
    except webhooks.WebhookForbidden as error:
        raise InvalidInput(f"No webhook can go there: {error}.", param="webhook_url") from None


def roll_webhook_secret(*, merchant_id: UUID) -> str:
    """A new secret for this merchant's webhooks; they are signed with it, and for a while with the old one too.

    Raises NotFound.
    """
    secret = _new_webhook_secret()
    rolled = Merchant.objects.filter(pk=merchant_id).update(
        webhook_secret=secret,
        webhook_secret_before=F("webhook_secret"),
        webhook_secret_before_until=in_seconds(settings.WEBHOOK_SECRET_OVERLAP_S),
    )
    if not rolled:
        raise NotFound
    return secret


def _new_webhook_secret() -> str:
    """The form of https://www.standardwebhooks.com: the consumer's library takes it as it is."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(24)).decode()}"


def issue_api_key(*, merchant_id: UUID, name: str, scopes: list[str], expires_at: datetime | None = None) -> str:
    """A new key, `ek_<prefix>_<secret>`: this is the only time that it is known whole. Raises InvalidInput, NotFound."""
    if not scopes or not set(scopes) <= set(ApiKey.Scope.values):
        raise InvalidInput(f"A key has one or more of the scopes {', '.join(ApiKey.Scope.values)}.", param="scopes")
    if not Merchant.objects.filter(pk=merchant_id).exists():
        raise NotFound
    return _new_key(merchant_id=merchant_id, name=name, scopes=sorted(set(scopes)), expires_at=expires_at)


def rotate_api_key(
    *, key_id: UUID, overlap_s: int = settings.API_KEY_OVERLAP_S, expires_at: datetime | None = None
) -> str:
    """A new key of the same merchant, name and scopes in this one's place, returned as by `issue_api_key`.

    The old one opens the shop for `overlap_s` more, or until its own end if that is sooner; 0 ends it at once. Raises
    NotFound, InvalidInput, KeyNotLive, KeyReplaced.
    """
    if not 0 <= overlap_s <= settings.API_KEY_OVERLAP_LONGEST_S:
        longest = settings.API_KEY_OVERLAP_LONGEST_S // 3600
        raise InvalidInput(f"Both keys are live for 0 to {longest} hours.", param="overlap")
    with transaction.atomic():
        old = ApiKey.objects.select_for_update(no_key=True).filter(pk=key_id).first()
        if old is None:
            raise NotFound
        if not selectors.live_keys().filter(pk=key_id).exists():
            raise KeyNotLive
        if ApiKey.objects.filter(replaces=old, revoked_at__isnull=True).exists():
            raise KeyReplaced
        ApiKey.objects.filter(pk=key_id).update(expires_at=Least("expires_at", in_seconds(overlap_s)))
        return _new_key(
            merchant_id=old.merchant_id, name=old.name, scopes=old.scopes, expires_at=expires_at, replaces=old
        )


def _new_key(
    *, merchant_id: UUID, name: str, scopes: list[str], expires_at: datetime | None, replaces: ApiKey | None = None
) -> str:
    if expires_at is not None and expires_at <= database_now():
        raise InvalidInput("A key that has expired already opens nothing: name a later day.", param="expires_at")
    prefix, secret = secrets.token_hex(6), secrets.token_hex(32)
    ApiKey.objects.create(
        merchant_id=merchant_id,
        name=name,
        prefix=prefix,
        secret_hash=_hash(secret),
        scopes=scopes,
        expires_at=expires_at,
        replaces=replaces,
    )
    return f"{_KEY_MARK}_{prefix}_{secret}"


def revoke_api_key(*, key_id: UUID) -> None:
    """The key opens nothing from now on; revoking it again changes nothing. Raises NotFound."""
    revoked = ApiKey.objects.filter(pk=key_id).update(revoked_at=Coalesce("revoked_at", Now()))
    if not revoked:
        raise NotFound


def check_api_key(text: str) -> LiveKey | None:
    """The live key that this text is, or None. One indexed look-up; its use is noted once a minute."""
    mark, _, rest = text.partition("_")
    prefix, _, secret = rest.partition("_")
    if mark != _KEY_MARK or not prefix.isalnum() or not secret.isascii():
        return None
    with prepared_cursor() as cursor:
        cursor.execute(_FIND_LIVE_KEY, [prefix])
        found = cursor.fetchone()
    if not hmac.compare_digest(bytes(found[0]) if found else _NEVER_MATCHES, _hash(secret)) or found is None:
        return None
    _, key_id, merchant_id, scopes, name, use_is_noted = found
    if not use_is_noted:
        ApiKey.objects.filter(pk=key_id).update(last_used_at=Now())
    return LiveKey(key_id, merchant_id, scopes, name, prefix)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


# --- Products ---------------------------------------------------------------------------------------


def create_product(
    *,
    merchant_id: UUID,
    title: str,
    author: str,
    price_minor: int,
    currency: str,
    product: str = "",
    isbn: str | None = None,
    description: str = "",
    image_url: str = "",
    metadata: dict[str, Any] | None = None,
    published: bool = True,
) -> Product:
    """List a product under its own id (`product`) or a generated one.

    Raises ProductExists where the id or the ISBN is taken, InvalidIsbn, InvalidInput.
    """
    if product and not PRODUCT_ID_PATTERN.fullmatch(product):
        raise InvalidInput(
            "An own id has 1 to 64 letters, digits and . _ ~ : - and begins with a letter or digit.", param="id"
        )
    money.require_money(currency)
    money.check_step(price_minor, currency, param="price")
    key = uuid7()
    row = Product(
        pk=key,
        merchant_id=merchant_id,
        product_id=product or public_id("prod", key),
        isbn=isbns.normalise(isbn) if isbn else None,
        title=title,
        author=author,
        price_minor=price_minor,
        currency=currency,
        description=description,
        image_url=image_url,
        metadata=metadata or {},
        published=published,
    )
    row.search = search.document(title=row.title, author=row.author, isbn=row.isbn)
    with _refusing_twins(), transaction.atomic():
        row.save(force_insert=True)
    row.refresh_from_db(fields=["created_at"])
    return row


def update_product(
    *, merchant_id: UUID, product: str, expected_version: int | None = None, **changes: Unpack[ProductChanges]
) -> Product:
    """Change a product; orders that were placed keep the title and price that they were placed with.

    A person changes what that person saw: `expected_version`. A program, which names only what shall change, needs none.
    Raises NotFound, ChangedMeanwhile, ProductExists where the ISBN is taken, InvalidIsbn, UnknownCurrency.
    """
    if "currency" in changes:
        money.require_money(changes["currency"])
    if "isbn" in changes:
        changes["isbn"] = isbns.normalise(changes["isbn"]) if changes["isbn"] else None
    with _refusing_twins(), transaction.atomic():
        row = Product.objects.select_for_update(no_key=True).filter(merchant_id=merchant_id, product_id=product).first()
        if row is None:
            raise NotFound
        if expected_version not in (None, row.version):
            raise ChangedMeanwhile
        for name, value in changes.items():
            setattr(row, name, value)
        money.check_step(row.price_minor, row.currency, param="price")
        row.search = search.document(title=row.title, author=row.author, isbn=row.isbn)
        row.updated_at = Now()
        row.version += 1
        row.save(update_fields=[*changes, "search", "updated_at", "version"])
    return row


@contextmanager
def _refusing_twins() -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        taken = {"product_id_once_per_merchant": "id", "product_isbn_once_per_merchant": "isbn"}
        param = taken.get(violated_constraint(error))
        if param is None:
            raise
        raise ProductExists(param=param) from None


# --- Import -----------------------------------------------------------------------------------------


def import_products(
    *,
    merchant_id: UUID,
    lines: Iterable[str],
    currency: str,
    price_minor: int,
    on_refused: Callable[[Refusal], None],
) -> ImportReport:
    """Bring a CSV file of books into a merchant's catalogue, all in one transaction; the same file again changes nothing.

    A row's id is the product's own id. Rows that name no price or currency are listed at the given ones; a product that
    exists keeps what the file does not say. Bad rows are handed to `on_refused`, in the order of the file, and do not
    keep the good ones from landing. Raises UnreadableFile, UnknownCurrency, NotFound.
    """
    money.require_money(currency)
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL statement_timeout = '{settings.CATALOG_IMPORT_TIMEOUT_S}s'")
        # One import of a merchant at a time: two would wait for each other's rows in the order of their files.
        if not Merchant.objects.select_for_update(no_key=True).filter(pk=merchant_id).exists():
            raise NotFound
        imports.stage(imports.read(lines))
        report = imports.land(merchant_id=merchant_id, currency=currency, price_minor=price_minor)
        for refusal in imports.refusals():
            on_refused(refusal)
    return report
