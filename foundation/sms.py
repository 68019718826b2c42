"""Text messages, by whichever class SMS_BACKEND names. The one we ship writes them into the log."""

import logging
import re
from typing import Protocol, cast

from django.conf import settings
from django.utils.module_loading import import_string

from foundation.logs import redact

log = logging.getLogger(__name__)

# E.164, with the spaces, dashes and brackets that people write into it.
_NUMBER = re.compile(r"\+?[0-9][0-9 ()./-]{5,30}")


class SmsBackend(Protocol):
    """Sends text messages. Made without arguments, once per message; its credentials are settings of its own."""

    def send(self, *, to: str, text: str, key: str) -> None:
        """Send `text` to a telephone number. Raises for whatever went wrong: it is tried again, under the same `key`,
        by which the other side can drop the repeat."""


class ConsoleSms:
    """Writes messages into the log, without the number and without secrets."""

    def send(self, *, to: str, text: str, key: str) -> None:
        log.info("SMS to …%s (%s): %s", to[-2:], key, redact(text))


def is_number(text: str) -> bool:
    """Whether this looks like a telephone number."""
    return bool(_NUMBER.fullmatch(text))


def send(*, to: str, text: str, key: str) -> None:
    """Send a text message, once per `key` as far as the backend can. Belongs outside of transactions."""
    cast(SmsBackend, import_string(settings.SMS_BACKEND)()).send(to=re.sub(r"[ ()./-]", "", to), text=text, key=key)
