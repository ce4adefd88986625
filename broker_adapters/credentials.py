"""The user and password of the embedded broker, for the server and for whoever connects to it."""

from __future__ import annotations

import hmac

USER = "futurebroker"


def derive_password(secret: bytes) -> str:
    """The embedded broker's password, so that one secret is all that a cluster shares."""
    return hmac.new(secret, b"futurebroker broker password", "sha256").hexdigest()
