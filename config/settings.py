"""All settings, from the environment alone. Every interval, limit and timeout is named here with its unit and its reason.

Where the environment names no servers, a running `make up` is found by `var/stack.json`.
"""

import json
from datetime import timedelta
from os import getpid
from pathlib import Path
from socket import gethostname
from typing import Any

import environ
from prometheus_client import values as prometheus_values

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()
# What a stack on this machine writes: its data, logs and var/stack.json.
VAR_DIR = Path(env.str("EVERYCENT_VAR_DIR", "") or BASE_DIR / "var")


def _running_stack() -> dict[str, Any]:
    """What `make up` wrote about itself; empty where none runs."""
    try:
        stack: dict[str, Any] = json.loads((VAR_DIR / "stack.json").read_text())
    except (OSError, ValueError):
        return {}
    return stack


_stack = {} if env.str("DATABASE_URL", "") else _running_stack()


def _server(variable: str, member: str, default: str) -> str:
    return env.str(variable, "") or str(_stack.get(member) or default)


# For commands that sign nothing; a web process refuses to start with it.
NO_SECRET_KEY = "only-for-commands-that-sign-nothing"  # noqa: S105


def _secret_key() -> str:
    key = env.str("SECRET_KEY", "")
    if not key and (VAR_DIR / "secret_key").exists():
        key = (VAR_DIR / "secret_key").read_text().strip()
    return key or NO_SECRET_KEY


# --- Django ---------------------------------------------------------------------------------------

SECRET_KEY = _secret_key()
DEBUG = False
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["127.0.0.1", "localhost", "[::1]", "testserver"])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TIME_ZONE = "UTC"
USE_TZ = True
LANGUAGE_CODE = "en"
USE_I18N = True

INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_celery_beat",
    "django_prometheus",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "pgtrigger",
    "rest_framework",
    "foundation",
    "durability",
    "catalog",
    "inventory",
    "payments",
    "orders",
    "reconciliation",
    "config.apps.EverycentConfig",  # last: it finds every app's admin registered and every permission made
]

MIDDLEWARE = [
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    "foundation.middleware.RequestIdMiddleware",
    "config.fallbacks.refuse_nul",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "foundation.middleware.AdminScriptsMiddleware",
    "foundation.middleware.ReaderMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_prometheus.middleware.PrometheusAfterMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

# --- PostgreSQL: the truth --------------------------------------------------------------------------

# Longest wait for a row lock or for a twin with the same idempotency key; then the caller gets 409 or 503 and retries.
DATABASE_LOCK_TIMEOUT_MS = env.int("DATABASE_LOCK_TIMEOUT_MS", 5_000)
# A statement that runs longer is a bug or an attack; reports that need longer raise it for their own transaction.
DATABASE_STATEMENT_TIMEOUT_MS = env.int("DATABASE_STATEMENT_TIMEOUT_MS", 30_000)
# A process killed inside a transaction must not hold its locks for longer than this.
DATABASE_IDLE_IN_TRANSACTION_TIMEOUT_MS = env.int("DATABASE_IDLE_IN_TRANSACTION_TIMEOUT_MS", 60_000)

DATABASES = {
    "default": {
        **env.db_url_config(_server("DATABASE_URL", "database_url", "postgresql://everycent@127.0.0.1:5432/everycent")),
        "ENGINE": "foundation.postgresql",  # django-prometheus's, with a health check that costs no round trip
        # Persistent: measured 1.2-1.3 times faster than a pool, and prefork workers cannot share one.
        "CONN_MAX_AGE": None,
        "CONN_HEALTH_CHECKS": True,
        "ATOMIC_REQUESTS": False,  # a view makes its own transactions: never one around a call to the provider
        "OPTIONS": {
            "connect_timeout": 5,  # seconds; a database that does not answer is down
            "prepare_threshold": 1,  # lets foundation.database.prepared_cursor prepare; Django's own cursors never do
            "options": (
                f"-c lock_timeout={DATABASE_LOCK_TIMEOUT_MS} -c statement_timeout={DATABASE_STATEMENT_TIMEOUT_MS}"
                f" -c idle_in_transaction_session_timeout={DATABASE_IDLE_IN_TRANSACTION_TIMEOUT_MS}"
                # A process that was killed leaves a statement running, and its locks held: PostgreSQL looks for it.
                " -c client_connection_check_interval=1000"
                # Of temporary tables, each process would keep 8 MB for good once it had a large one: the system caches them too.
                " -c temp_buffers=1MB"
            ),
        },
    }
}

# --- Redis or Valkey: losing it loses nothing -------------------------------------------------------

REDIS_URL = _server("REDIS_URL", "redis_url", "redis://127.0.0.1:6379/0")
# Redis only saves work, so nobody waits long for it.
REDIS_TIMEOUT_S = 2
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "everycent",
        "OPTIONS": {"socket_timeout": REDIS_TIMEOUT_S, "socket_connect_timeout": REDIS_TIMEOUT_S},
    }
}

# Orders and payments as the API shows them: forgotten with each change. So long an old one may live where that was missed.
DOCUMENT_KEPT_FOR_S = 30

# --- The provider -----------------------------------------------------------------------------------

# The module that speaks to it: docs/providers.md.
PAYMENT_PROVIDER = env.str("PAYMENT_PROVIDER", "payments.providers.stripe")
STRIPE_API_BASE = _server("STRIPE_API_BASE", "stripe_api_base", "")  # empty: Stripe itself
STRIPE_API_KEY = env.str("STRIPE_API_KEY", "") or ("sk_test_sandbox" if STRIPE_API_BASE else "")
# Two are live while a secret is rolled.
STRIPE_WEBHOOK_SECRETS = env.list("STRIPE_WEBHOOK_SECRETS", default=["whsec_sandbox"] if STRIPE_API_BASE else [])
# Stripe's own default; applied in both directions, because the SDK alone accepts timestamps from the future.
STRIPE_WEBHOOK_TOLERANCE_S = 300
# Written into every intent's metadata: another instance's charges on the same account are its own business.
INSTANCE_ID = env.str("INSTANCE_ID", "everycent")
PROVIDER_CONNECT_TIMEOUT_S = 3  # a TCP connection that takes longer will not come
PROVIDER_READ_TIMEOUT_S = 10  # a checkout waits for one try; a worker goes on after that
# Stripe may forget a key after 24 h; from here on an unknown attempt is looked up, never sent again.
PROVIDER_KEY_SAFE_FOR_S = 23 * 3600
# A replayed 500 is never resent; an attempt that cannot be found for this long was never made.
PROVIDER_LOOKUP_GRACE_S = env.int("PROVIDER_LOOKUP_GRACE_S", 120)

# --- What tells people: none of it can fail or delay a sale ------------------------------------------

# Staff who are told of what only a person can mend (a refund that came back, a dispute). Empty: nobody, but it is logged.
STAFF_EMAILS = env.list("STAFF_EMAILS", default=[])
SMS_BACKEND = env.str("SMS_BACKEND", "foundation.sms.ConsoleSms")  # a class with `send(*, to, text, key)`
# Merchants' endpoints are strangers' servers: they get less time than the provider.
WEBHOOK_CONNECT_TIMEOUT_S = 3
WEBHOOK_DEADLINE_S = 8  # from the first byte to the status line, however slowly it drips
# Between the tries of one call to a merchant, ±20 %: quick ones for a hiccup, then for a day, so that a merchant who finds
# in the morning what broke in the evening has lost nothing. After the last one an operator decides.
MERCHANT_CALL_PAUSES_S = (5, 30, 120, 600, 1_800, 3_600, 7_200, 14_400, 28_800, 32_400)
WEBHOOK_SECRET_OVERLAP_S = 24 * 3600  # both secrets sign for so long after one was rolled: a working day to change over
MERCHANT_CALLS_AT_ONCE = 16  # sockets that wait for merchants; so many that are slow at once delay nobody else
MERCHANT_CALLS_AT_ONCE_EACH = 4  # to one merchant: 40 calls a second where an answer takes 100 ms
MERCHANT_CALLS_RUN_S = 30  # one task; then the queue's other tasks have their turn
MERCHANT_CALLS_KEPT_FOR_DAYS = 30  # so long can they be sent again
# Private networks that webhooks may go to after all, over plain HTTP too: a merchant's system in the operator's own house.
WEBHOOK_ALLOWED_NETWORKS = env.list("WEBHOOK_ALLOWED_NETWORKS", default=[])

# --- Durability -------------------------------------------------------------------------------------

SCAN_INTERVAL_S = 1  # each lane is looked at this often, for what no doorbell rang for
WORK_FOR_S = 5  # one task; then the queue's other tasks have their turn
OUTBOX_BATCH = 200  # deliveries claimed at once: one round trip, and a killed worker repeats at most these
OUTBOX_BATCH_OUTSIDE = 20  # of handlers that may wait for somebody: what their lease leaves no time for goes back
OUTBOX_DOORBELL_TTL_MS = 1_000  # one ring a second at most: a task is a batch, not an event
OUTBOX_STREAM = "everycent:events"
OUTBOX_STREAM_BATCH = 1_000  # one write: Redis is busy with it for about 5 ms
OUTBOX_STREAM_MAX_LENGTH = 1_000_000  # entries kept for consumers outside; older ones are refilled from the table
# What a dead worker held is taken over after this. Short, because a call that takes longer renews its lease.
LEASE_S = env.int("LEASE_S", 10)
# A handler or step of our own database. Above the statement timeout, so that PostgreSQL says which statement it was.
STEP_TIME_LIMIT_S = 40
CALL_TIME_LIMIT_S = 60  # one that leaves the process: four calls to the provider at their worst (3 s + 10 s each)
# With the backoff below (1 + 2 + 4 … + 256 s) about 9 minutes, then parked for an operator.
DELIVERY_MAX_ATTEMPTS = env.int("DELIVERY_MAX_ATTEMPTS", 10)
DELIVERY_BACKOFF_FIRST_S = 1
SAGA_BACKOFF_FIRST_S = 1
BACKOFF_LONGEST_S = 300  # a provider that is down for hours is asked every five minutes
SAGA_STUCK_AFTER_ATTEMPTS = 8  # shown to operators from here on; it is still retried
# A rollout is over by then. What still waits for a handler or recipe that no process knows waits for a person.
UNKNOWN_NAME_GRACE_S = 3600
SUBSCRIBE_INTERVAL_S = 60  # how long an event of an old release may wait for a handler of the new one
SUBSCRIPTION_BATCH = 10_000  # messages looked at in one transaction

# --- Retention: what is deleted, and why not earlier. Money, orders, stock and their histories never are. ------------

IDEMPOTENCY_KEY_KEPT_FOR_DAYS = 30  # promised to the storefront
MESSAGES_KEPT_FOR_DAYS = 30  # with their receipts: the stream can be refilled, and a new handler started, from these
SAGAS_KEPT_FOR_DAYS = 90  # finished ones; a payment is checked again for 45 days, and people ask after the quarter
INBOX_KEPT_FOR_DAYS = 60  # Stripe resends for 3 days and lists events for 30: an older repeat cannot come
RETENTION_BATCH = 1_000  # rows a transaction: milliseconds, and vacuum keeps up
CLEAN_UP_INTERVAL_S = 3600

# --- Goods, orders, money ---------------------------------------------------------------------------

CHECKOUT_MAX_ITEMS = 100
CHECKOUT_MAX_QUANTITY = 999
STOCK_MAX_QUANTITY = 10_000_000  # one movement: more is a typing error
STOCK_CHECK_INTERVAL_S = 3600  # "was today's stock proved?": survives a beat that slept through midnight
STOCK_CHECK_BATCH = 1_000  # products compared at once, with their logs and holds: one statement, some megabytes
STOCK_CHECK_SHOWN = 100  # differences that are written down: a person needs the first, and their number
STOCK_CHECK_STATEMENT_TIMEOUT_MS = 600_000  # a bestseller's log may have millions of lines
CATALOG_IMPORT_TIMEOUT_S = 900  # one transaction for the whole file, a million rows and more
API_MAX_BODY_BYTES = 64 * 1024  # a hundred items fit into a tenth of it
DATA_UPLOAD_MAX_MEMORY_SIZE = 10 * 1024 * 1024  # the admin's statement uploads
API_CALLS_PER_SECOND = env.int("API_CALLS_PER_SECOND", 2_000)  # of one key: a runaway client, not a busy shop
API_KEY_OVERLAP_S = 24 * 3600  # old and new key both open the shop: time for a rollout, and for taking it back
API_KEY_OVERLAP_LONGEST_S = 30 * 24 * 3600  # a key that is to be replaced does not stay for good
API_PAGE_DEFAULT = 20
API_PAGE_LONGEST = 100
ORDER_EXPIRES_AFTER_S = 15 * 60  # a merchant's own setting goes first
ORDER_EXPIRY_TICK_S = 5  # how late an expiry may be
ORDER_EXPIRY_BATCH = 20  # locked at once: for 13 ms as a rule, one batch in a hundred for 21; none shall be for over 50
ORDER_EXPIRY_RUN_S = ORDER_EXPIRY_TICK_S  # one task; the next tick goes on, so that sales have their turn
ORDER_EXPIRY_TIMER_BATCH = 1_000  # numbers read from the timer at once
ORDER_EXPIRY_REARM_INTERVAL_S = 10  # how much later it is where Redis lost its timer: one look into an index
ORDER_EXPIRY_EXTENSION_S = 5 * 60  # a payment that is `processing` keeps its order open for this long more
PAYMENT_RECHECK_INTERVAL_S = 10
PAYMENT_RECHECK_BATCH = 50  # stays far below Stripe's 100 requests a second
PAYMENT_RECHECK_FIRST_S = env.int("PAYMENT_RECHECK_FIRST_S", 60)  # webhooks usually come within seconds
PAYMENT_RECHECK_LONGEST_S = 6 * 3600
# A refund can fail and a payout come back for 30 days, a lost dispute be appealed: so long is what is closed read again.
PAYMENT_RECHECK_CLOSED_FOR_DAYS = 45
DISPUTE_DUE_SOON_S = 48 * 3600  # a weekend: who learns of it on Friday evening must not be late on Monday
# Payments and refunds that have ended: pauses grow by the factor until those days are over; four reads of a payment, seven
# of a refund.
SETTLED_RECHECK_FIRST_S = 6 * 3600
PAYMENT_SETTLED_RECHECK_FACTOR = 4
REFUND_SETTLED_RECHECK_FACTOR = 2
SETTLED_RECHECK_BATCH = 20  # each interval, behind what is open: 2 reads a second at most, whatever has piled up
INBOX_CATCH_UP_INTERVAL_S = 3600  # events that no webhook brought are listed hourly
# Before what was listed last: the provider may list an event a little late. Each start of a worker lists this much again.
INBOX_CATCH_UP_MARGIN_S = 600
INBOX_REPLAY_LISTED = 2000  # events that are listed around one moment to find those about one object
INBOX_CATCH_UP_AT_START_S = 60  # of several processes that start, one asks for the list
BOOKS_CUT_INTERVAL_S = 60
# Postings between two cuts: one transaction of about a second, and the most that a reader adds up after the last one.
BOOKS_CUT_POSTINGS = 10_000
BOOKS_SNAPSHOT_POSTINGS = 100  # lines of one account that make a snapshot worth its row: fewer are as fast to add up
BOOKS_SETTLE_WAIT_S = 5  # for transactions under way, milliseconds as a rule; the next tick tries again
BOOKS_REPORT_WAIT_S = 1  # of a person who reads a report, before it is called provisional
BOOKS_CHECK_INTERVAL_S = 3600  # "was today's proof done?": survives a beat that slept through midnight
BOOKS_CHECK_BATCH = 1_000  # rows compared at once: a few milliseconds, and a few megabytes
BOOKS_CHECK_SHOWN = 100  # differences that are written down: a person needs the first, and their number
BOOKS_CHECK_STATEMENT_TIMEOUT_MS = 600_000  # adding up every posting there is

# --- Reconciliation ---------------------------------------------------------------------------------

RECONCILE_CHECK_INTERVAL_S = 3600  # "has yesterday been reconciled?": survives a beat that slept through midnight
RECONCILE_TRAILING_DAYS = 3  # balance transactions that came late are read again
RECONCILE_TIMING_WINDOW_S = 3600  # a counterpart this near the window's edge is timing, not a break
# A capture that the provider confirms and has not booked after this is a break: whatever its hour, it has the whole of the
# next day, so a run sees it wait at least once.
RECONCILE_UNBOOKED_AFTER_S = 48 * 3600
RECONCILE_UNBOOKED_LOOKUPS = 100  # single reads that a run spends on telling the two apart
RECONCILE_FUZZY_HOURS = 24  # what is further apart is never put together by metadata, nor by amount and date
RECONCILE_WHAT_IF_SHOWN = 1_000  # changed matches of a day that are listed; all of them are counted
RECONCILE_RESIDUAL_DAYS = 45  # an unexplained residual is told until its day is run again; so long are days re-scanned
RECONCILE_CATCH_UP_DAYS = 7  # days that one hourly job runs: after a long outage the others follow an hour later
RECONCILE_HISTORY_DAYS = 400  # how far back a day without a run is missed: a year and what closes it
RECONCILE_IMPORT_BATCH = 500  # rows of the provider's books per upsert: five of its pages
RECONCILE_PAGES_PER_S = 10  # of the provider's books; it allows 25 calls a second in test mode, and sales come first
RECONCILE_READ_RESUMED_FOR_S = 6 * 3600  # a reading that was cut short is gone on with for so long, then begun anew
RECONCILE_PROBLEMS_SHOWN = 200  # lines of a statement file that are told with what is wrong with them
RECONCILE_BALANCE_INTERVAL_S = (
    1800  # how often the provider is asked what it holds: within half an hour of any midnight
)
RECONCILE_RUN_LEASE_S = 300  # renewed with each batch; a run whose process died is taken over after this
RECONCILE_STATEMENT_TIMEOUT_MS = 600_000  # matching a very large day is one long statement
RECONCILE_PART_ROWS = 250_000  # of a day: a larger one is looked at in parts, which other workers may take
RECONCILE_HELPERS = 3  # asked at most; they come as they are free, and none has to
DESK_UPLOAD_MAX_BYTES = 10 * 2**20  # of a statement file: some 50,000 rows, which are in within a request's patience
RECONCILE_BULK_ROWS = 1000  # of one bulk action: what a person can look through before it is confirmed
RECONCILE_BULK_WORK_FOR_S = 30  # one task; then the queue's other tasks have their turn
RECONCILE_BULK_INTERVAL_S = 15  # a confirmed one is begun at once; this finds what a worker left half-way
RECONCILE_BULK_ATTEMPTS = 5  # of a row whose provider or books are busy
RECONCILE_BULK_PAUSE_S = 20  # between them
RECONCILE_BULK_PLANS_KEPT_FOR_DAYS = 2  # a preview that nobody confirmed
RECONCILE_WAKE_INTERVAL_S = 1800  # what was ignored until today comes back soon after midnight
RECONCILE_IGNORED_FOR_DAYS = 90  # at most: a quarter, then somebody looks at it again
RECONCILE_GAP_S = 600  # a busy shop hears of something each minute: so long without any news is a gap
RECONCILE_NEWS_SKEW_S = 5  # an event may bear an earlier second than the booking that it tells of
RECONCILE_INCIDENT_PAUSE_S = 3600  # items of one kind with a longer pause between them have causes of their own
RECONCILE_CANDIDATES_WITHIN_S = (
    2 * 86_400
)  # an order is paid within minutes; its payment link may be opened a day later
RECONCILE_CANDIDATES_SHOWN = 10
RECONCILE_ACTION_LEASE_S = 120  # an action whose process died can be taken up again after this
# What one person of a role may settle on a discrepancy alone, in minor units by currency: above it a second person approves.
# In a currency without a limit everything waits: a rate of which day would convert it? As JSON in the environment.
SETTLE_ALONE_MINOR = env.json(
    "SETTLE_ALONE_MINOR",
    default={
        "clerk": {"usd": 2_000, "eur": 2_000, "gbp": 2_000, "jpy": 2_000},
        "manager": {"usd": 100_000, "eur": 100_000, "gbp": 100_000, "jpy": 100_000},
    },
)
# Names of jobs, which are no logins, that settle whatever it amounts to. The product has none; whoever else is no login, a person
# who has left among them, settles nothing alone.
JOBS_THAT_SETTLE = env.list("JOBS_THAT_SETTLE", default=[])
AUDIT_CHAIN_INTERVAL_S = 3600  # "was the chain extended today?": survives a beat that slept through midnight
AUDIT_BLOCK_ROWS = 10_000  # rows a block: what is hashed at once stays within a megabyte

# What a line of the bank's statement says where the provider sent the money: whole words, in the other side's name, the text and the references.
BANK_PROVIDER_MARKS = ["STRIPE"]
BANK_EARLY_DAYS = (
    2  # before a payout's arrival date its money may be there: banks in other time zones, early settlement
)
BANK_LATE_DAYS = (
    5  # after its arrival date a payout that the bank did not get is a break: a long weekend and a bank holiday
)
BANK_SEARCH_DAYS = (
    45  # so long after the arrival date a line is looked for by its trace id: as long as payouts are re-read
)
BANK_STATEMENT_WAIT_DAYS = (
    35  # a payout waits for a statement that reaches its date: a month, and what a bank takes to send it
)

# --- Seen from outside ------------------------------------------------------------------------------

READYZ_TIMEOUT_S = 2  # one probe
READYZ_BEAT_SILENT_S = 120  # beat writes a heartbeat every few seconds
READYZ_OUTBOX_OLDEST_S = 60
METRICS_ALLOWED_NETWORKS = env.list("METRICS_ALLOWED_NETWORKS", default=["127.0.0.0/8", "::1/128"])
METRICS_STATEMENT_TIMEOUT_MS = 5_000  # one gauge; Prometheus itself gives up on a scrape after 10 s
PROMETHEUS_EXPORT_MIGRATIONS = False
if env.str("PROMETHEUS_MULTIPROC_DIR", ""):
    # Each process counts in files named after it. Containers share the folder, and each has a process 7: so with the host's name.
    # Every count asks for it.
    _HOST = gethostname().replace("_", "-")
    prometheus_values.ValueClass = prometheus_values.MultiProcessValue(  # type: ignore[no-untyped-call]
        lambda: f"{_HOST}-{getpid()}"
    )
PUBLIC_URL = env.str("PUBLIC_URL", "")

# --- Celery -----------------------------------------------------------------------------------------

CELERY_BROKER_URL = REDIS_URL
# Three queues with workers of their own: what waits for somebody outside, and what takes minutes, holds up nothing.
QUEUES = ("own", "outside", "long")
CELERY_TASK_DEFAULT_QUEUE = "own"
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
# Above the longest task, or Redis hands it out a second time (measured: 20 s task, 4 s timeout: 5 runs).
CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 3600, "socket_timeout": 30, "socket_connect_timeout": 5}
CELERY_TASK_IGNORE_RESULT = True  # results live in our tables
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
# What hangs so that not even our own limits end it (C code that never returns) is killed by the worker's parent. Celery's
# general limits hold wherever a task names none, a soft one of 0 included; and its parent keeps a timer for each task until the
# limit has passed, long after the task: a general limit of 15 minutes is megabytes of timers in a busy worker.
# Nothing is begun after WORK_FOR_S or a share of LEASE_S; what is begun last is a call and its record, within their limits.
CELERY_TASK_TIME_LIMIT = WORK_FOR_S + 2 * CALL_TIME_LIMIT_S
_LONG_TASK_TIME_LIMIT_S, _LONG_TASK_SOFT_TIME_LIMIT_S = 900, 840  # a reconciliation of a very large day
CELERY_TASK_SERIALIZER = "json"
CELERY_TIMEZONE = "UTC"
CELERY_BEAT_SCHEDULER = "config.beat:SteadyScheduler"
WORKER_STOPS_WITHIN_S = 10  # after an error of Celery's own loop; what hangs then never ends by itself
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
HEARTBEAT_INTERVAL_S = 10
# Task → its queue, and how often beat asks for it. Beat can skip or repeat a run: every job asks the database what is due,
# so that neither matters. No entry expires: that would compare two hosts' clocks, and a scan that waited is a scan all the same.
_JOBS = {
    "durability.work_own": ("own", SCAN_INTERVAL_S),
    "durability.work_outside": ("outside", SCAN_INTERVAL_S),
    "durability.mirror": ("own", SCAN_INTERVAL_S),
    "durability.seen_own": ("own", HEARTBEAT_INTERVAL_S),
    "durability.seen_outside": ("outside", HEARTBEAT_INTERVAL_S),
    "durability.seen_long": ("long", HEARTBEAT_INTERVAL_S),
    "durability.subscribe": ("long", SUBSCRIBE_INTERVAL_S),
    "durability.clean_up": ("long", CLEAN_UP_INTERVAL_S),
    "orders.expire_due": ("own", ORDER_EXPIRY_TICK_S),
    "orders.rearm_timer": ("own", ORDER_EXPIRY_REARM_INTERVAL_S),
    "inventory.check_stock": ("long", STOCK_CHECK_INTERVAL_S),
    "orders.call_merchants": ("outside", SCAN_INTERVAL_S),
    "orders.clean_up": ("long", CLEAN_UP_INTERVAL_S),
    "payments.recheck": ("outside", PAYMENT_RECHECK_INTERVAL_S),
    "payments.catch_up_events": ("long", INBOX_CATCH_UP_INTERVAL_S),
    "payments.clean_up": ("long", CLEAN_UP_INTERVAL_S),
    "payments.cut_books": ("long", BOOKS_CUT_INTERVAL_S),
    "payments.check_books": ("long", BOOKS_CHECK_INTERVAL_S),
    "reconciliation.nightly": ("long", RECONCILE_CHECK_INTERVAL_S),
    "reconciliation.read_balance": ("outside", RECONCILE_BALANCE_INTERVAL_S),
    "reconciliation.extend_chain": ("long", AUDIT_CHAIN_INTERVAL_S),
    "reconciliation.work_on_bulk": ("long", RECONCILE_BULK_INTERVAL_S),
    "reconciliation.wake_ignored": ("own", RECONCILE_WAKE_INTERVAL_S),
}
CELERY_TASK_ROUTES = {name: {"queue": queue} for name, (queue, _) in _JOBS.items()} | {
    "reconciliation.reconcile_day": {"queue": "long"},  # a person asks for it
    "reconciliation.help_run": {"queue": "long"},
}
CELERY_TASK_ANNOTATIONS = {
    name: {"time_limit": _LONG_TASK_TIME_LIMIT_S, "soft_time_limit": _LONG_TASK_SOFT_TIME_LIMIT_S}
    for name, route in CELERY_TASK_ROUTES.items()
    if route["queue"] == "long"
}
CELERY_BEAT_SCHEDULE = {
    name: {"task": name, "schedule": timedelta(seconds=every_s)} for name, (_, every_s) in _JOBS.items()
}

# --- API --------------------------------------------------------------------------------------------

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["catalog.authentication.ApiKeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["foundation.permissions.HasScope"],
    "DEFAULT_THROTTLE_CLASSES": ["foundation.throttle.KeyThrottle"],
    "DEFAULT_PARSER_CLASSES": ["foundation.parsers.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "foundation.negotiation.OneForm",
    "EXCEPTION_HANDLER": "foundation.api.problem_response",
    "DEFAULT_SCHEMA_CLASS": "config.openapi.calls.ApiSchema",
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Everycent",
    "DESCRIPTION": (
        "Check out, pay, refund: every cent accounted for.\n\n"
        "Amounts are integers in minor units beside a currency. Every POST takes an `Idempotency-Key`: sent again with the same "
        "key it is the same request, and its stored answer comes back with `Idempotent-Replayed: true`. A refusal is a problem "
        "document whose `code` is for programs; 402 and 424 are kept with their key, every other refusal has changed "
        "nothing and consumed no key. Another merchant's object answers 404."
    ),
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "TAGS": [
        {"name": "checkout", "description": "A cart becomes an order and a payment."},
        {"name": "orders", "description": "What was ordered, and what becomes of it."},
        {"name": "payments", "description": "What is paid, and what goes back."},
        {"name": "refunds", "description": "What went back."},
        {"name": "products", "description": "What is for sale."},
        {"name": "stock", "description": "How much of it there is."},
        {"name": "webhooks", "description": "What the payment provider tells us."},
        {"name": "health", "description": "Whether we are well."},
    ],
    "COMPONENT_SPLIT_PATCH": False,  # the form of a PATCH requires nothing as it is
    "ENUM_NAME_OVERRIDES": {
        "PaymentMethod": "orders.serializers.PAYMENT_METHODS",
        "OrderStatus": "orders.serializers.ORDER_STATUSES",
        "PaymentStatus": "payments.documents.PAYMENT_STATUSES",
        "RefundStatus": "payments.documents.REFUND_STATUSES",
        "HowMuchIsRefunded": "payments.documents.REFUND_EXTENTS",
    },
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "config.openapi.addresses.add_plain_addresses",
    ],
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SWAGGER_UI_SETTINGS": {
        "deepLinking": True,
        "persistAuthorization": True,
        "defaultModelsExpandDepth": 0,
        "validatorUrl": None,  # the page asks nobody on the internet
    },
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SERVE_AUTHENTICATION": [],
}

# --- Staff ------------------------------------------------------------------------------------------

EXPORT_BATCH = 1_000  # rows of a list's export read at once: a few milliseconds, and a megabyte
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "admin:index"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

UNFOLD = {
    "SITE_TITLE": "Everycent",
    "SITE_HEADER": "Everycent",
    "SITE_SUBHEADER": "Every cent accounted for",
    "SITE_SYMBOL": "account_balance",
    "SITE_URL": None,
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": "config.desk.favicon"}],
    "SHOW_VIEW_ON_SITE": False,
    "SHOW_BACK_BUTTON": False,
    "ENVIRONMENT": "config.desk.environment",
    "DASHBOARD_CALLBACK": "config.dashboard.fill",
    "STYLES": ["config.desk.style_sheet"],
    "SCRIPTS": ["config.desk.script"],
    "SIDEBAR": {"show_search": False, "show_all_applications": False, "navigation": "config.desk.navigation"},
    "BORDER_RADIUS": "6px",
    "COLORS": {
        "base": {
            "50": "#f8fafc",
            "100": "#f1f5f9",
            "200": "#e2e8f0",
            "300": "#cbd5e1",
            "400": "#94a3b8",
            "500": "#64748b",
            "600": "#475569",
            "700": "#334155",
            "800": "#1e293b",
            "900": "#0f172a",
            "950": "#020617",
        },
        "primary": {
            "50": "#eef2ff",
            "100": "#e0e7ff",
            "200": "#c7d2fe",
            "300": "#a5b4fc",
            "400": "#818cf8",
            "500": "#6366f1",
            "600": "#4f46e5",
            "700": "#4338ca",
            "800": "#3730a3",
            "900": "#312e81",
            "950": "#1e1b4b",
        },
    },
}

# --- Static files, mail, headers --------------------------------------------------------------------

STATIC_URL = "static/"
STATIC_ROOT = VAR_DIR / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}
EMAIL_CONFIG = env.email_url("EMAIL_URL", default="consolemail://")
vars().update(EMAIL_CONFIG)
EMAIL_TIMEOUT = 10  # seconds; without one a mail server that hangs would hold a worker for CALL_TIME_LIMIT_S
DEFAULT_FROM_EMAIL = env.str("DEFAULT_FROM_EMAIL", "shop@everycent.example")

SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
HTTPS_ONLY = env.bool("HTTPS_ONLY", False)  # on behind TLS; `make up` speaks plain HTTP on loopback
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = HTTPS_ONLY
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS_ONLY else 0
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "script-src": ["'self'"],  # the admin's pages widen it: foundation.middleware.AdminScriptsMiddleware
        "style-src": ["'self'", "'unsafe-inline'"],
        "img-src": ["'self'", "data:"],
        "frame-ancestors": ["'none'"],
    }
}

# One JSON line a record for machines (`LOG_FORMAT=json`), readable lines for people; without secrets either way.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"ours": {"()": "foundation.logs.formatter"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "ours"}},
    "root": {"handlers": ["stderr"], "level": env.str("LOG_LEVEL", "INFO")},
    "loggers": {
        # Django's own handlers (mail to admins, coloured lines of its test server) would bypass our formatter.
        "django": {"handlers": [], "level": "INFO"},
        "django.server": {"handlers": [], "propagate": True},
        "django.request": {"level": "ERROR"},
        # A scan a second would leave three lines a second; what a scan finds to do tells of itself.
        "celery.beat": {"level": "WARNING"},
        "celery.worker.strategy": {"level": "WARNING"},
        "celery.app.trace": {"level": "WARNING"},
        # The SDK logs request bodies at DEBUG; a client_secret must never reach a log.
        "stripe": {"level": "WARNING"},
        "urllib3": {"level": "WARNING"},
    },
}
