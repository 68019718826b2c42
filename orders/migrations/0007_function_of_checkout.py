"""Checkout's first commit as one statement. The functions that it calls are each app's own, of the apps below.

Its documents are put together in `orders.services.checkout`. To change it, a new migration replaces it whole.
"""

from django.db import migrations

PLACE_ORDER = """
CREATE FUNCTION orders_place_order(
    claim jsonb, placed jsonb, payment jsonb, saga jsonb, news jsonb, reservation jsonb,
    OUT outcome text, OUT key_id bigint, OUT short jsonb
) LANGUAGE plpgsql AS $$
-- `outcome` is 'placed', 'short' (then `short` says of what, and nothing has happened), or 'key was used'.
BEGIN
    key_id := durability_claim_key(claim);
    IF key_id IS NULL THEN
        outcome := 'key was used';
        RETURN;
    END IF;
    short := inventory_short(reservation);
    IF short IS NOT NULL THEN
        RAISE SQLSTATE 'EC001';
    END IF;

    INSERT INTO orders_order (id, merchant_id, status, customer, customer_email, customer_phone, currency, total_minor,
                              carrier, tracking, expires_at, created_at)
    SELECT cart.id, cart.merchant_id, 'pending', cart.customer, cart.email, cart.phone, cart.currency, cart.total_minor,
           '', '', cart.expires_at, cart.created_at
    FROM jsonb_to_record(placed) AS cart (id uuid, merchant_id uuid, customer text, email text, phone text, currency text,
                                          total_minor bigint, expires_at timestamptz, created_at timestamptz);
    INSERT INTO orders_orderitem (order_id, merchant_id, product_id, product, title, quantity, unit_price_minor, amount_minor)
    SELECT (placed ->> 'id')::uuid, (placed ->> 'merchant_id')::uuid, item.product_id, item.product, item.title,
           item.quantity, item.unit_price_minor, item.amount_minor
    FROM ROWS FROM (
        jsonb_to_recordset(placed -> 'items') AS (product_id uuid, product text, title text, quantity integer,
                                                  unit_price_minor bigint, amount_minor bigint)
    ) WITH ORDINALITY AS item (product_id, product, title, quantity, unit_price_minor, amount_minor, place)
    ORDER BY item.place;
    IF NOT payments_begin_payment(payment) OR NOT durability_begin_saga(saga) THEN
        RAISE EXCEPTION 'order % was placed before', placed ->> 'id';  -- its ids are new: this cannot be
    END IF;
    PERFORM durability_publish(news);

    -- Last: the shorter a hot product's row is locked, the more buyers get through.
    short := inventory_reserve(reservation);
    IF short IS NOT NULL THEN
        RAISE SQLSTATE 'EC001';
    END IF;
    outcome := 'placed';
EXCEPTION WHEN SQLSTATE 'EC001' THEN  -- all of the above is rolled back, the key too; `short` is kept
    outcome := 'short';
    key_id := NULL;
END $$
"""


class Migration(migrations.Migration):
    dependencies = [
        ("orders", "0006_merchant_calls"),
        ("durability", "0009_functions_of_checkout"),
        ("inventory", "0004_function_of_checkout"),
        ("payments", "0017_function_of_checkout"),
    ]

    operations = [migrations.RunSQL(PLACE_ORDER, "DROP FUNCTION orders_place_order")]
