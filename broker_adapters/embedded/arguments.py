"""Arguments of methods as Python values, checked: what cannot be served is refused, never ignored."""

from __future__ import annotations

from struct import error as StructError  # noqa: N812 - it is an exception
from typing import Any

from amqp.exceptions import FrameSyntaxError
from amqp.serialization import loads

from futurebroker.broker_adapters.embedded.queues import QueueSettings
from futurebroker.broker_adapters.frames import AmqpError

_MALFORMED = (StructError, IndexError, ValueError, TypeError, OverflowError, RecursionError, FrameSyntaxError)

#: arguments of queues that change what a queue does and that this broker does not serve
_REFUSED = ("x-message-ttl", "x-dead-letter-exchange", "x-dead-letter-routing-key", "x-max-priority")


def decode(layout: str, payload: bytes) -> list[Any]:
    """The arguments behind a method's signature; ``layout`` is py-amqp's format.

    Raises:
        AmqpError: the bytes do not follow ``layout``.
    """
    try:
        values, end = loads(layout, payload, 4)
    except _MALFORMED:
        raise AmqpError(502, "the arguments of a method cannot be read") from None
    if end > len(payload):
        raise AmqpError(502, "the arguments of a method are cut short")
    return list(values)


def sasl_credentials(mechanism: str, response: bytes) -> tuple[bytes, bytes]:
    """User and password of the response of connection.start-ok; empty ones where it holds none.

    Raises:
        AmqpError: the mechanism is unknown.
    """
    if mechanism == "PLAIN":
        parts = response.split(b"\x00")
        if len(parts) == 3:
            return parts[1], parts[2]
    elif mechanism == "AMQPLAIN":
        (table,) = decode("F", b"\x00" * 4 + len(response).to_bytes(4, "big") + response)
        user, password = table.get("LOGIN"), table.get("PASSWORD")
        if isinstance(user, str) and isinstance(password, str):
            return user.encode(errors="surrogatepass"), password.encode(errors="surrogatepass")
    else:
        raise AmqpError(503, "unknown authentication mechanism")
    return b"", b""


def queue_settings(durable: bool, exclusive: bool, auto_delete: bool, arguments: dict[str, Any]) -> QueueSettings:
    """What queue.declare asks for.

    Raises:
        AmqpError: an argument has an impossible value, or asks for what this broker does not do.
    """
    for name in _REFUSED:
        if name in arguments:
            raise AmqpError(540, f"the queue argument {name} is not served here")
    kind = arguments.get("x-queue-type", "classic")
    if kind != "classic":
        raise AmqpError(540, f"queues of type '{kind}' are not served here")
    overflow = arguments.get("x-overflow", "drop-head")
    if overflow not in ("drop-head", "reject-publish"):
        raise AmqpError(540, f"the overflow behaviour '{overflow}' is not served here")
    expires = _whole_number(arguments, "x-expires", least=1)
    return QueueSettings(
        durable=durable,
        exclusive=exclusive,
        auto_delete=auto_delete,
        expires=None if expires is None else expires / 1000,
        single_active_consumer=_flag(arguments, "x-single-active-consumer"),
        max_length=_whole_number(arguments, "x-max-length", least=0),
        max_bytes=_whole_number(arguments, "x-max-length-bytes", least=0),
        reject_publish=overflow == "reject-publish",
    )


def consumer_priority(arguments: dict[str, Any]) -> int:
    """The consumer's ``x-priority``, 0 without one."""
    value = arguments.get("x-priority", 0)
    if type(value) is not int:
        raise AmqpError(406, "invalid arg 'x-priority': it is a whole number")
    return value


def _whole_number(arguments: dict[str, Any], name: str, *, least: int) -> int | None:
    value = arguments.get(name)
    if value is None:
        return None
    if type(value) is not int or value < least:
        raise AmqpError(406, f"invalid arg '{name}': it is a whole number of at least {least}")
    return value


def _flag(arguments: dict[str, Any], name: str) -> bool:
    value = arguments.get(name, False)
    if type(value) is not bool:
        raise AmqpError(406, f"invalid arg '{name}': it is true or false")
    return value
