"""A key, a saga and news, each written by one call: checkout writes all three in a single statement, and so does the rest.

Each takes one JSON document, as `durability.keys`, `engine` and `outbox` write it. To change one, a new migration replaces
it whole.
"""

from django.db import migrations

CLAIM_KEY = """
CREATE FUNCTION durability_claim_key(claim jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
-- The key's id, or NULL where it was used before. A concurrent twin waits here, on the unique index, until the first ends.
DECLARE
    claimed bigint;
BEGIN
    INSERT INTO durability_idempotencykey (caller, key, method, path, body_hash, subject, status, body)
    VALUES ((claim ->> 'caller')::uuid, claim ->> 'key', claim ->> 'method', claim ->> 'path',
            decode(claim ->> 'body_hash', 'hex'), claim ->> 'subject', (claim ->> 'status')::smallint, claim -> 'body')
    ON CONFLICT (caller, key) DO NOTHING
    RETURNING id INTO claimed;
    RETURN claimed;
END $$
"""

BEGIN_SAGA = """
CREATE FUNCTION durability_begin_saga(saga jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
-- Whether the run is new. Steps in `done` were done by the transaction that begins it; `held_s` is the caller's lease.
BEGIN
    INSERT INTO durability_sagarun (id, recipe, version, key, subject, payload, request_id, state, current_step, outside,
                                    attempts, lease_version, available_at, error)
    SELECT begun.id, begun.recipe, begun.version, begun.key, begun.subject, begun.payload, begun.request_id, 'running',
           cardinality(begun.done), begun.outside, begun.held::integer, begun.held::integer,
           clock_timestamp() + make_interval(secs => begun.held_s), ''
    FROM jsonb_to_record(saga) AS begun (id uuid, recipe text, version integer, key text, subject text, payload jsonb,
                                         request_id text, done text[], outside boolean, held boolean, held_s double precision)
    ON CONFLICT (recipe, key) DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO durability_sagastep (run_id, index, name, state, attempts, note, by, finished_at)
    SELECT (saga ->> 'id')::uuid, step.place - 1, step.name, 'done', 0, '', '', clock_timestamp()
    FROM jsonb_array_elements_text(saga -> 'done') WITH ORDINALITY AS step (name, place);
    RETURN true;
END $$
"""

PUBLISH = """
CREATE FUNCTION durability_publish(news jsonb) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
-- The messages' ids, in the order of the events; each with a delivery for every listener of its name.
BEGIN
    RETURN QUERY
    WITH message AS (
        INSERT INTO durability_message (name, key, payload, request_id, state)
        SELECT listed.event ->> 'name', listed.event ->> 'key', listed.event -> 'payload', news ->> 'request_id', 'pending'
        FROM jsonb_array_elements(news -> 'events') WITH ORDINALITY AS listed (event, place)
        ORDER BY listed.place
        RETURNING id, name, key
    ),
    delivery AS (
        INSERT INTO durability_delivery (message_id, handler, key, outside, state, attempts, lease_version, last_error,
                                         resolved_by, resolved_reason)
        SELECT message.id, listener.handler, message.key, listener.outside, 'pending', 0, 0, '', '', ''
        FROM message
        JOIN jsonb_to_recordset(news -> 'listeners') AS listener (handler text, name text, outside boolean)
             USING (name)
        ORDER BY message.id
    )
    SELECT message.id FROM message ORDER BY message.id;
END $$
"""


class Migration(migrations.Migration):
    dependencies = [("durability", "0008_first_attempts_first")]

    operations = [
        migrations.RunSQL(CLAIM_KEY, "DROP FUNCTION durability_claim_key"),
        migrations.RunSQL(BEGIN_SAGA, "DROP FUNCTION durability_begin_saga"),
        migrations.RunSQL(PUBLISH, "DROP FUNCTION durability_publish"),
    ]
