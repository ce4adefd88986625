"""The site: pages, JSON and a live stream over what scheduler and database tell; servers call ``create_app``."""

from futurebroker.web.app import create_app, create_blueprint

__all__ = ["create_app", "create_blueprint"]
