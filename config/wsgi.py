import os

from django.core.exceptions import ImproperlyConfigured
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
application = get_wsgi_application()

from config import settings  # noqa: E402  after the environment names it

if settings.SECRET_KEY == settings.NO_SECRET_KEY:
    raise ImproperlyConfigured("Set SECRET_KEY to a long random text: without it anybody can sign a session.")
