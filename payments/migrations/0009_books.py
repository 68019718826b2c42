import django.db.models.deletion
import django.db.models.functions.datetime
import pgtrigger.compiler
import pgtrigger.migrations
from django.contrib.postgres.operations import AddConstraintNotValid
from django.db import migrations, models


class Migration(migrations.Migration):
    """Cuts, snapshots and proofs of the books; entries that declare their lines; postings that bear their moment.

    Journal and postings are big tables. The new columns have constant defaults, which rewrite no rows, and new rows are
    bound at once. Old rows get their moments, and the indexes are built, by the next migration, beside those who read
    and write. Entries of old have two lines each, as the default says.
    """

    dependencies = [
        ("payments", "0008_disputes_and_payouts"),
    ]

    operations = [
        migrations.CreateModel(
            name='BalanceSnapshot',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('at', models.DateTimeField()),
                ('balance_minor', models.BigIntegerField()),
                ('postings', models.BigIntegerField()),
            ],
        ),
        migrations.CreateModel(
            name='BookCut',
            fields=[
                ('number', models.BigIntegerField(primary_key=True, serialize=False)),
                ('at', models.DateTimeField(unique=True)),
                ('postings', models.IntegerField()),
                ('made_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
        ),
        migrations.CreateModel(
            name='BooksCheck',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('day', models.DateField(unique=True)),
                ('began_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('finished_at', models.DateTimeField(null=True)),
                ('rows', models.BigIntegerField(default=0)),
                ('found', models.IntegerField(default=0)),
                ('differences', models.JSONField(default=list)),
            ],
            options={
                'verbose_name_plural': 'books checks',
            },
        ),
        migrations.CreateModel(
            name='KindTotal',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('kind', models.CharField(max_length=24)),
                ('currency', models.CharField(max_length=3)),
                ('debit_minor', models.BigIntegerField()),
                ('credit_minor', models.BigIntegerField()),
            ],
        ),
        migrations.AlterModelOptions(
            name='journalentry',
            options={'permissions': [('correct_ledger', 'Can post corrections to the ledger')], 'verbose_name_plural': 'journal entries'},
        ),
        pgtrigger.migrations.RemoveTrigger(
            model_name='posting',
            name='entry_balances',
        ),
        migrations.AddField(
            model_name='journalentry',
            name='lines',
            field=models.PositiveSmallIntegerField(db_default=2),
        ),
        migrations.AddField(
            model_name='posting',
            name='posted_at',
            field=models.DateTimeField(db_default=django.db.models.functions.datetime.Now()),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='account',
            trigger=pgtrigger.compiler.Trigger(name='only_its_balance_changes', sql=pgtrigger.compiler.UpsertTriggerSql(condition='WHEN (OLD."id" IS DISTINCT FROM (NEW."id") OR OLD."kind" IS DISTINCT FROM (NEW."kind") OR OLD."merchant_id" IS DISTINCT FROM (NEW."merchant_id") OR OLD."customer" IS DISTINCT FROM (NEW."customer") OR OLD."currency" IS DISTINCT FROM (NEW."currency"))', func="RAISE EXCEPTION 'pgtrigger: Cannot update rows from % table', TG_TABLE_NAME;", hash='375dce04f142537a3777d22da8cdd1dbc2762432', operation='UPDATE', pgid='pgtrigger_only_its_balance_changes_7666c', table='payments_account', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='journalentry',
            trigger=pgtrigger.compiler.Trigger(name='never_emptied', sql=pgtrigger.compiler.UpsertTriggerSql(func="RAISE EXCEPTION 'pgtrigger: Cannot truncate % table: what is written stays written', TG_TABLE_NAME;", hash='41b1e9c8729086ac979854c9df6b45c8815a6340', level='STATEMENT', operation='TRUNCATE', pgid='pgtrigger_never_emptied_d1737', table='payments_journalentry', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='journalentry',
            trigger=pgtrigger.compiler.Trigger(name='dated_by_the_database', sql=pgtrigger.compiler.UpsertTriggerSql(func='\n                    PERFORM pg_current_xact_id();\n                    NEW.created_at := greatest(clock_timestamp(), (SELECT max(at) FROM payments_bookcut));\n                    RETURN NEW;\n                ', hash='e6339b353d85f1753056638ecc4ed334cc6603b5', operation='INSERT', pgid='pgtrigger_dated_by_the_database_d482a', table='payments_journalentry', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='journalentry',
            trigger=pgtrigger.compiler.Trigger(name='entry_balances', sql=pgtrigger.compiler.UpsertTriggerSql(constraint='CONSTRAINT', declare='DECLARE found record;', func="\n                    SELECT count(*) AS lines, coalesce(sum(p.amount_minor), 0) AS total,\n                           coalesce(bool_or(a.currency <> NEW.currency), false) AS mixed INTO found\n                    FROM payments_posting p LEFT JOIN payments_account a ON a.id = p.account_id\n                    WHERE p.entry_id = NEW.id;\n                    IF found.lines <> NEW.lines THEN\n                        RAISE EXCEPTION 'journal entry % has % lines, not the % that it declares',\n                            NEW.id, found.lines, NEW.lines USING ERRCODE = '23514';\n                    ELSIF found.total <> 0 THEN\n                        RAISE EXCEPTION 'journal entry % does not balance', NEW.id USING ERRCODE = '23514';\n                    ELSIF found.mixed THEN\n                        RAISE EXCEPTION 'journal entry % mixes currencies', NEW.id USING ERRCODE = '23514';\n                    END IF;\n                    RETURN NULL;\n                ", hash='fd42e8f03e561856c591093ace70c21732c1bc5a', operation='INSERT', pgid='pgtrigger_entry_balances_7ab5a', table='payments_journalentry', timing='DEFERRABLE INITIALLY DEFERRED', when='AFTER')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='posting',
            trigger=pgtrigger.compiler.Trigger(name='never_emptied', sql=pgtrigger.compiler.UpsertTriggerSql(func="RAISE EXCEPTION 'pgtrigger: Cannot truncate % table: what is written stays written', TG_TABLE_NAME;", hash='4c9e2f46e82ab77440942a91a42546a8c1940904', level='STATEMENT', operation='TRUNCATE', pgid='pgtrigger_never_emptied_3c01a', table='payments_posting', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='posting',
            trigger=pgtrigger.compiler.Trigger(name='belongs_to_an_open_entry', sql=pgtrigger.compiler.UpsertTriggerSql(declare='DECLARE entry record;', func="\n                    SELECT e.created_at, e.lines,\n                           (SELECT count(*) FROM payments_posting p WHERE p.entry_id = e.id) AS there\n                    INTO entry FROM payments_journalentry e WHERE e.id = NEW.entry_id;\n                    IF entry.there >= entry.lines THEN\n                        RAISE EXCEPTION 'journal entry % is complete', NEW.entry_id USING ERRCODE = '23514';\n                    END IF;\n                    NEW.posted_at := entry.created_at;\n                    RETURN NEW;\n                ", hash='f33f053578e7a547fd2d00388cee65471d8145f6', operation='INSERT', pgid='pgtrigger_belongs_to_an_open_entry_dbe55', table='payments_posting', when='BEFORE')),
        ),
        AddConstraintNotValid(
            model_name='journalentry',
            constraint=models.CheckConstraint(condition=models.Q(('lines__gte', 2)), name='journal_entry_has_two_lines_at_least'),
        ),
        AddConstraintNotValid(
            model_name='journalentry',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('kind__in', ['reversal', 'adjustment']), _negated=True), ('corrects__isnull', False), _connector='OR'), name='journal_entry_correction_names_the_old_one'),
        ),
        AddConstraintNotValid(
            model_name='journalentry',
            constraint=models.CheckConstraint(condition=models.Q(('corrects__isnull', True), models.Q(('corrects', models.F('id')), _negated=True), _connector='OR'), name='journal_entry_corrects_another'),
        ),
        migrations.AddField(
            model_name='balancesnapshot',
            name='account',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='payments.account'),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='bookcut',
            trigger=pgtrigger.compiler.Trigger(name='append_only', sql=pgtrigger.compiler.UpsertTriggerSql(func="RAISE EXCEPTION 'pgtrigger: Cannot update or delete rows from % table', TG_TABLE_NAME;", hash='913d2bf07fa1859e19fdbd052b361e6a674b9f48', operation='UPDATE OR DELETE', pgid='pgtrigger_append_only_50c3b', table='payments_bookcut', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='bookcut',
            trigger=pgtrigger.compiler.Trigger(name='never_emptied', sql=pgtrigger.compiler.UpsertTriggerSql(func="RAISE EXCEPTION 'pgtrigger: Cannot truncate % table: what is written stays written', TG_TABLE_NAME;", hash='064fb3719fff5b684b19dd1713875aa6a260cd6b', level='STATEMENT', operation='TRUNCATE', pgid='pgtrigger_never_emptied_6dd1f', table='payments_bookcut', when='BEFORE')),
        ),
        migrations.AddField(
            model_name='kindtotal',
            name='cut',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='totals', to='payments.bookcut'),
        ),
        migrations.AddConstraint(
            model_name='balancesnapshot',
            constraint=models.UniqueConstraint(fields=('account', 'at'), name='snapshot_once_per_account_and_cut'),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='balancesnapshot',
            trigger=pgtrigger.compiler.Trigger(name='append_only', sql=pgtrigger.compiler.UpsertTriggerSql(func="RAISE EXCEPTION 'pgtrigger: Cannot update or delete rows from % table', TG_TABLE_NAME;", hash='c141d721750350c288b6b8a175a6e98133a3a279', operation='UPDATE OR DELETE', pgid='pgtrigger_append_only_535f6', table='payments_balancesnapshot', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='balancesnapshot',
            trigger=pgtrigger.compiler.Trigger(name='never_emptied', sql=pgtrigger.compiler.UpsertTriggerSql(func="RAISE EXCEPTION 'pgtrigger: Cannot truncate % table: what is written stays written', TG_TABLE_NAME;", hash='41f05ef6c09311070244cf74f008105c66b3e0a0', level='STATEMENT', operation='TRUNCATE', pgid='pgtrigger_never_emptied_73e27', table='payments_balancesnapshot', when='BEFORE')),
        ),
        migrations.AddConstraint(
            model_name='kindtotal',
            constraint=models.UniqueConstraint(fields=('cut', 'kind', 'currency'), name='total_once_per_cut_kind_and_currency'),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='kindtotal',
            trigger=pgtrigger.compiler.Trigger(name='append_only', sql=pgtrigger.compiler.UpsertTriggerSql(func="RAISE EXCEPTION 'pgtrigger: Cannot update or delete rows from % table', TG_TABLE_NAME;", hash='fed44f628d94f599a3315dc2249442b955a64e7a', operation='UPDATE OR DELETE', pgid='pgtrigger_append_only_2bec4', table='payments_kindtotal', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='kindtotal',
            trigger=pgtrigger.compiler.Trigger(name='never_emptied', sql=pgtrigger.compiler.UpsertTriggerSql(func="RAISE EXCEPTION 'pgtrigger: Cannot truncate % table: what is written stays written', TG_TABLE_NAME;", hash='9d49aa52748877a4dbc32ccfed6deb74d1d01777', level='STATEMENT', operation='TRUNCATE', pgid='pgtrigger_never_emptied_068a9', table='payments_kindtotal', when='BEFORE')),
        ),
    ]
