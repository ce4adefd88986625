"""Where tasks are to be found in a Django project."""

from __future__ import annotations

import importlib
import os
from typing import Any


def watch_django(app: Any) -> None:
    """Where DJANGO_SETTINGS_MODULE is set, tasks run with Django set up."""
    app.uses_django = bool(os.environ.get("DJANGO_SETTINGS_MODULE"))


def set_up_django() -> None:
    """Have Django's apps loaded, once."""
    django = importlib.import_module("django")
    registry = importlib.import_module("django.apps").apps
    if not registry.ready:
        django.setup()


def django_packages() -> list[str]:
    """The packages of Django's installed apps; none without Django."""
    if not os.environ.get("DJANGO_SETTINGS_MODULE"):
        return []
    set_up_django()
    registry = importlib.import_module("django.apps").apps
    return [config.name for config in registry.get_app_configs()]
