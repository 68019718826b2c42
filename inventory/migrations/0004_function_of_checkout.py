"""A reservation, made by one call.

Both functions take one JSON document, one line a product: `{merchant_id, reference, by, news, lines: [{product_id, product,
quantity}]}`, where `product` is its public id, and `news` who listens to `inventory.stock_low.v1`.
They answer with the short lines, `[{product_id, available}]`, or NULL. To change one, a new migration replaces it whole.
"""

from django.db import migrations

SHORT = """
CREATE FUNCTION inventory_short(reservation jsonb) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
-- What is short at this moment. It locks nothing and so promises nothing: it spares whoever comes too late the queue.
BEGIN
    RETURN (
        SELECT jsonb_agg(jsonb_build_object('product_id', line.product_id,
                                            'available', coalesce(stock.on_hand - stock.reserved, 0)))
        FROM jsonb_to_recordset(reservation -> 'lines') AS line (product_id uuid, quantity bigint)
        LEFT JOIN inventory_stock stock ON stock.product_id = line.product_id
                                       AND stock.merchant_id = (reservation ->> 'merchant_id')::uuid
        WHERE coalesce(stock.on_hand - stock.reserved, 0) < line.quantity
    );
END $$
"""

RESERVE = """
CREATE FUNCTION inventory_reserve(reservation jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
-- Promises stock to a reference, once a product. Where anything is short the caller must roll back: some lines are reserved.
DECLARE
    merchant uuid := reservation ->> 'merchant_id';
    holder text := reservation ->> 'reference';
    line record;
    stock record;
    movement_key text;
    short jsonb := '[]';
BEGIN
    -- In primary-key order, as everywhere, so that no two carts wait for each other.
    FOR line IN
        SELECT wanted.product_id, wanted.product, wanted.quantity
        FROM jsonb_to_recordset(reservation -> 'lines') AS wanted (product_id uuid, product text, quantity bigint)
        ORDER BY wanted.product_id
    LOOP
        movement_key := concat_ws(':', holder, 'reserve', line.product_id);
        -- Who waits here for another buyer looks again at what that one left: the condition is what never oversells.
        UPDATE inventory_stock shelf
        SET reserved = shelf.reserved + line.quantity, version = shelf.version + 1,
            low_noticed_at = CASE WHEN shelf.on_hand - shelf.reserved - line.quantity <= shelf.low_threshold
                                  THEN coalesce(shelf.low_noticed_at, now()) ELSE shelf.low_noticed_at END
        WHERE shelf.product_id = line.product_id AND shelf.merchant_id = merchant
          AND shelf.on_hand - shelf.reserved >= line.quantity
        RETURNING shelf.on_hand, shelf.reserved, shelf.low_threshold,
                  old.low_noticed_at IS NULL AND new.low_noticed_at IS NOT NULL AS is_low_now
        INTO stock;
        IF NOT FOUND THEN
            -- Unless the shortage is our own: what is asked for is what this reference holds already.
            IF NOT EXISTS (SELECT FROM inventory_stockmovement log
                           WHERE log.merchant_id = merchant AND log.key = movement_key) THEN
                short := short || jsonb_build_object('product_id', line.product_id, 'available', coalesce(
                    (SELECT shelf.on_hand - shelf.reserved FROM inventory_stock shelf
                     WHERE shelf.product_id = line.product_id AND shelf.merchant_id = merchant), 0));
            END IF;
            CONTINUE;
        END IF;
        INSERT INTO inventory_stockmovement (
            id, merchant_id, product_id, key, operation, quantity, on_hand_change, reserved_change,
            on_hand_after, reserved_after, reference, by, reason
        )
        VALUES (uuidv7(), merchant, line.product_id, movement_key, 'reserve', line.quantity, 0, line.quantity,
                stock.on_hand, stock.reserved, holder, reservation ->> 'by', '')
        ON CONFLICT (merchant_id, key) DO NOTHING;
        IF NOT FOUND THEN  -- reserved before: it stays as it was
            UPDATE inventory_stock shelf
            SET reserved = shelf.reserved - line.quantity, version = shelf.version - 1,
                low_noticed_at = CASE WHEN stock.is_low_now THEN NULL ELSE shelf.low_noticed_at END
            WHERE shelf.product_id = line.product_id;
            CONTINUE;
        END IF;
        INSERT INTO inventory_stockhold AS hold (id, merchant_id, reference, product_id, reserved, sold)
        VALUES (uuidv7(), merchant, holder, line.product_id, line.quantity, 0)
        ON CONFLICT (merchant_id, reference, product_id) DO UPDATE SET reserved = hold.reserved + excluded.reserved;
        IF stock.is_low_now THEN
            PERFORM durability_publish(reservation -> 'news' || jsonb_build_object('events', jsonb_build_array(
                jsonb_build_object('name', 'inventory.stock_low.v1', 'key', line.product_id, 'payload', jsonb_build_object(
                    'stock', line.product_id, 'product', line.product, 'merchant_id', merchant,
                    'available', stock.on_hand - stock.reserved, 'threshold', stock.low_threshold)))));
        END IF;
    END LOOP;
    RETURN nullif(short, '[]');
END $$
"""


class Migration(migrations.Migration):
    dependencies = [
        ("durability", "0009_functions_of_checkout"),
        ("inventory", "0003_low_stock_proved_on_old_rows"),
    ]

    operations = [
        migrations.RunSQL(SHORT, "DROP FUNCTION inventory_short"),
        migrations.RunSQL(RESERVE, "DROP FUNCTION inventory_reserve"),
    ]
