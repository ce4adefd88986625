"""A shop's background work: an order is charged, then e-mail, invoice, thumbnail and webhooks go out at the same time.

Run it as it is, ``python docs/examples/shop.py``, or with workers elsewhere:

    futurebroker scheduler
    futurebroker worker -A shop -Q celery,mail
    FUTUREBROKER_BROKER_URL=127.0.0.1:8786 python shop.py
"""

from __future__ import annotations

import os
import random
from typing import Any

from futurebroker.celery import Celery, chain, chord, group
from futurebroker.celery.log import get_task_logger

app = Celery("shop", broker=os.environ.get("FUTUREBROKER_BROKER_URL", "memory://"))
app.conf.task_routes = {"shop.send_mail": {"queue": "mail"}}
logger = get_task_logger(__name__)


class UnreachableError(Exception):
    """A customer's server doesn't answer."""


@app.task(acks_late=False)
def charge(order: dict[str, Any]) -> dict[str, Any]:
    """Take the money, once: this task is never run a second time."""
    return {**order, "paid": True}


@app.task
def send_mail(order: dict[str, Any]) -> str:
    """Tell the customer."""
    return f"mail to {order['customer']}"


@app.task
def make_invoice(order: dict[str, Any]) -> str:
    """Write the invoice."""
    return f"invoice-{order['number']}.pdf"


@app.task
def make_thumbnail(order: dict[str, Any], size: int) -> str:
    """Draw a picture of what was ordered."""
    return f"{order['number']}-{size}.png"


@app.task(bind=True, autoretry_for=(UnreachableError,), retry_backoff=0.1, retry_backoff_max=2, max_retries=20)
def call_webhook(self: Any, order: dict[str, Any], url: str) -> str:
    """Tell a partner, whose server answers every third time."""
    if random.random() > 0.34:
        raise UnreachableError(url)
    return f"{url} after {self.request.retries} retries"


@app.task
def close_order(results: list[str], number: int) -> dict[str, Any]:
    """All has gone out."""
    return {"number": number, "done": results}


def process(number: int, partners: list[str]) -> Any:
    """Send all that an order needs; returns the result to come."""
    order = {"number": number, "customer": f"customer-{number}@example.com"}
    webhooks = group(call_webhook.s(url) for url in partners)
    everything = group(send_mail.s(), make_invoice.s(), make_thumbnail.s(128), webhooks)
    return chain(charge.s(order), chord(everything, close_order.s(number)))()


def main() -> None:
    """Process a few orders, and show what became of them."""
    partners = [f"https://partner-{n}.example.com/hook" for n in range(5)]
    for result in [process(number, partners) for number in range(3)]:
        closed = result.get(timeout=60)
        print(f"order {closed['number']}: {len(closed['done'])} things done")
    app.close()


if __name__ == "__main__":
    main()
