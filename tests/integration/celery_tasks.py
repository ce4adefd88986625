"""The app of the tests of the Celery face, and its tasks; what they do is seen in `LOG`, for executors are threads."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from futurebroker.celery import Celery, Task
from futurebroker.celery.exceptions import Ignore, Reject
from futurebroker.celery.results import allow_join_result
from futurebroker.exceptions import Reschedule

app = Celery("shown", set_as_current=False)
LOG: list[Any] = []
GATES: dict[str, threading.Event] = {}


class MyError(Exception):
    """An exception of the user's own."""


class Logged(Task):
    """Tells of its handlers."""

    def before_start(self, task_id: Any, args: Any, kwargs: Any) -> None:
        LOG.append("before_start")

    def on_success(self, retval: Any, task_id: Any, args: Any, kwargs: Any) -> None:
        LOG.append("on_success")

    def on_failure(self, exc: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> None:
        LOG.append("on_failure")

    def on_retry(self, exc: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> None:
        LOG.append("on_retry")

    def after_return(self, status: Any, retval: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> None:
        LOG.append(f"after_return {status}")


@app.task
def add(x: Any, y: Any) -> Any:
    return x + y


@app.task
def total(numbers: list[Any]) -> Any:
    return sum(numbers)


@app.task
def identity(value: Any) -> Any:
    return value


@app.task
def keywords(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


@app.task
def nothing() -> str:
    return "nothing"


@app.task
def log(*args: Any) -> Any:
    LOG.append(args)
    return args


@app.task
def fail(*args: Any) -> None:
    raise MyError("no")


@app.task
def new_errback(request: Any, error: Any, traceback: Any) -> None:
    LOG.append(("new", request.id, repr(error), "MyError" in traceback))
    LOG.append((request.task.rpartition(".")[2], request.args, request.kwargs))


@app.task(bind=True)
def old_errback(self: Any, task_id: str) -> None:
    LOG.append(("old", task_id))


@app.task(base=Logged)
def logged(value: Any) -> Any:
    LOG.append("run")
    if value == "fail":
        raise MyError("no")
    return value


@app.task(base=Logged, bind=True, max_retries=1)
def logged_retry(self: Any) -> str:
    LOG.append("run")
    if not self.request.retries:
        raise self.retry(countdown=0.01)
    return "done"


@app.task(bind=True, max_retries=2)
def flaky(self: Any, fails: int, countdown: float = 0.01) -> Any:
    LOG.append((self.request.id, self.request.retries))
    if self.request.retries < fails:
        raise self.retry(exc=MyError("again"), countdown=countdown)
    return self.request.retries


@app.task(bind=True, max_retries=2)
def flaky_without_reason(self: Any) -> None:
    raise self.retry(countdown=0.01)


@app.task(bind=True, priority=1)
def retry_elsewhere(self: Any) -> Any:
    if not self.request.retries:
        raise self.retry(queue="elsewhere", priority=7, soft_time_limit=30, countdown=0)
    if self.request.retries == 1:
        raise self.retry(countdown=0)
    info = self.request.delivery_info
    return info["routing_key"], info["priority"], self.request.soft_time_limit, self.request.headers


@app.task(bind=True)
def retry_with(self: Any, number: int) -> Any:
    if number < 3:
        raise self.retry(args=(number + 1,), countdown=0)
    return number, self.request.retries


@app.task(bind=True, autoretry_for=(MyError,), retry_backoff=0.01, max_retries=3)
def by_itself(self: Any) -> int:
    if self.request.retries < 2:
        raise MyError("again")
    return int(self.request.retries)


@app.task(bind=True, autoretry_for=(MyError,), retry_backoff=0.01, max_retries=1)
def by_itself_too_often(self: Any) -> None:
    raise MyError("always")


@app.task(bind=True)
def request_of(self: Any) -> dict[str, Any]:
    names = ("id", "root_id", "parent_id", "group", "group_index", "retries", "headers", "is_eager", "task", "hostname")
    more = ("called_directly", "delivery_info", "chain", "chord", "callbacks", "errbacks")
    return {name: getattr(self.request, name) for name in (*names, *more)}


@app.task(bind=True)
def stamps_of_request(self: Any) -> Any:
    return self.request.stamps, self.request.stamped_headers


@app.task(bind=True)
def replaced_by_stamped(self: Any) -> Any:
    raise self.replace(stamps_of_request.si())


@app.task(bind=True, base=Logged, max_retries=1, autoretry_for=(Exception,))
def reschedules(self: Any, times: int) -> Any:
    """Raises Reschedule so often, then retries once."""
    LOG.append(self.request.retries)
    if LOG.count(0) <= times:
        raise Reschedule
    if not self.request.retries:
        raise self.retry(countdown=0)
    return self.request.headers


@app.task
def fails_without(path: str) -> str:
    if not Path(path).exists():
        raise MyError("no")
    return "there"


@app.task(bind=True)
def waits_for(self: Any, gate: str) -> str:
    GATES.setdefault(gate, threading.Event()).wait(20)
    return gate


@app.task(bind=True)
def progress(self: Any, gate: str) -> str:
    self.update_state(state="PROGRESS", meta={"done": 5})
    GATES.setdefault(gate, threading.Event()).wait(20)
    return "done"


@app.task(bind=True)
def ignores(self: Any) -> None:
    self.update_state(state="LOOKED", meta=1)
    raise Ignore


@app.task
def rejects() -> None:
    raise Reject("no", requeue=False)


@app.task(bind=True)
def rejects_once(self: Any) -> str:
    LOG.append(self.request.id)
    if LOG.count(self.request.id) == 1:
        raise Reject("again", requeue=True)
    return "done"


@app.task(ignore_result=True, store_errors_even_if_ignored=True)
def unkept_but_for_errors(fails: bool) -> str:
    LOG.append("unkept")
    if fails:
        raise MyError("no")
    return "value"


@app.task(ignore_result=True)
def unkept() -> str:
    LOG.append("unkept")
    return "value"


@app.task(bind=True)
def countdown_from(self: Any, number: int, found: int = 1) -> Any:
    if number <= 1:
        return found
    raise self.replace(countdown_from.s(number - 1, found * number))


@app.task(bind=True, max_retries=1)
def calls_replaced_twice(self: Any, child: str) -> Any:
    called = countdown_from.apply_async((4,), task_id=child)
    with allow_join_result():
        found = called.get(timeout=10)
    if not self.request.retries:
        raise self.retry(countdown=0)
    return found


@app.task(bind=True)
def replaced_by_group(self: Any, numbers: list[int]) -> Any:
    raise self.replace(app.signature("celery.group", kwargs={}) if not numbers else group_of(numbers))


def group_of(numbers: list[int]) -> Any:
    from futurebroker.celery import group  # noqa: PLC0415 - a user's own module would import it at the top

    return group(identity.s(number) for number in numbers)


@app.task
def calls_another(number: int) -> str:
    return str(add.delay(number, 1).id)


@app.task
def waits_inside() -> Any:
    return add.delay(1, 1).get(timeout=10)


@app.task
def may_wait_inside() -> Any:
    result = add.delay(1, 1)
    with allow_join_result():
        return result.get(timeout=10)


@app.task(soft_time_limit=0.2)
def soft() -> str:
    end = time.monotonic() + 10
    try:
        while time.monotonic() < end:
            time.sleep(0.01)
    except Exception as error:  # noqa: BLE001 - the test says which
        return type(error).__name__
    return "too late"


@app.task(rate_limit="20/s")
def limited() -> float:
    return time.monotonic()


@app.task
async def coroutine(value: Any) -> Any:
    return value


@app.task
def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(acks_late=True)
def dies_late() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(acks_late=True, reject_on_worker_lost=True)
def dies_once(path: str) -> str:
    if not os.path.exists(path):
        open(path, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


@app.task(time_limit=0.5)
def forever() -> None:
    while True:
        time.sleep(0.05)


@app.task
def sleeps(seconds: float, path: str) -> str:
    open(path, "w").close()
    time.sleep(seconds)
    return "slept"


@app.task
def appends(path: str) -> None:
    with open(path, "a") as file:
        file.write(f"{time.time()}\n")


@app.task
def process_of() -> int:
    return os.getpid()


@app.task(bind=True)
def adds_to_chord(self: Any, value: int, more: list[int]) -> int:
    for place, number in enumerate(more):
        sig = identity.si(number)
        if place % 2:
            self.add_to_chord(sig, lazy=True)
            sig.delay()
        else:
            self.add_to_chord(sig)
    return value


@app.task(bind=True)
def tells(self: Any, gate: str) -> str:
    self.update_state(state="HALF", meta={"done": 1})
    while not Path(gate).exists():
        time.sleep(0.02)
    return "told"


@app.task(acks_late=True)
def sleeps_late(seconds: float, path: str) -> str:
    with open(path, "a") as file:
        file.write("begun\n")
    time.sleep(seconds)
    return "slept"


@app.task(bind=True)
def tells_what_follows(self: Any, *args: Any) -> Any:
    request = self.request
    fields = {name: getattr(request, name) for name in ("chain", "chord", "callbacks", "errbacks")}
    return {name: shape_of(value) for name, value in fields.items() if value is not None}


def shape_of(value: Any) -> Any:
    """What signatures are, for comparing: names and arguments, with ids of single tasks."""
    if isinstance(value, list):
        return [shape_of(one) for one in value]
    kind = value["subtask_type"]
    if kind == "chord":
        return ("chord", [shape_of(one) for one in value.tasks], shape_of(value.body))
    if kind is not None:
        return (kind, [shape_of(one) for one in value.tasks])
    return (value["task"].rpartition(".")[2], tuple(value["args"]), value["options"]["task_id"])


@app.task(bind=True)
def empties(self: Any, field: str, read: bool = False) -> str:
    if read:
        getattr(self.request, field).clear()
    else:
        setattr(self.request, field, None)
    return field


@app.task(bind=True)
async def tells_what_follows_later(self: Any) -> Any:
    return shape_of(self.request.chain)
