"""Log lines: their fields, and what they don't show."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from futurebroker.logs import JsonFormatter, TextFormatter, passwords_of


def record(message: str, *arguments: object, error: BaseException | None = None, **extra: str) -> logging.LogRecord:
    """A line about to be written."""
    about = (type(error), error, error.__traceback__) if error is not None else None
    line = logging.LogRecord("futurebroker.worker", logging.WARNING, "f", 1, message, arguments, about)
    vars(line).update(extra)
    return line


def raised(text: str) -> BaseException:
    """An error with a traceback."""
    try:
        raise ValueError(text)
    except ValueError:
        error = sys.exc_info()[1]
        assert error is not None
        return error


def test_json_has_task_and_worker_as_fields() -> None:
    """A collector of logs finds all lines of a task without reading sentences."""
    formatter = JsonFormatter([], lambda: {"worker": "around", "task": ""})
    line = json.loads(formatter.format(record("executor %d ended", 7, task="inc-1")))
    assert (line["task"], line["worker"], line["message"]) == ("inc-1", "around", "executor 7 ended")
    assert (line["level"], line["logger"]) == ("warning", "futurebroker.worker")
    assert "exception" not in line
    line = json.loads(formatter.format(record("a\nb", worker="own", error=raised("why"))))
    assert (line["worker"], line["message"]) == ("own", "a\nb")
    assert "task" not in line
    assert line["exception"].endswith("ValueError: why")


def test_text_names_them_once() -> None:
    """What the sentence says already is not repeated."""
    formatter = TextFormatter([], dict)
    assert formatter.format(record("it ended", task="k", worker="w1")).endswith(": it ended [worker=w1 task=k]")
    assert formatter.format(record("worker w1 is gone", worker="w1")).endswith(": worker w1 is gone")
    first, *rest = formatter.format(record("it raised", task="k", error=raised("why"))).splitlines()
    assert first.endswith("it raised [task=k]")
    assert rest[-1] == "ValueError: why"


@pytest.mark.parametrize("kind", [TextFormatter, JsonFormatter])
def test_no_secret_passes_however_it_got_into_the_line(kind: type[TextFormatter] | type[JsonFormatter]) -> None:
    """Libraries quote what they were given; logs are copied to places with other readers."""
    url = "amqp://user:p%22ss%2Fword@host/;amqp://user:other-one@host2/"
    formatter = kind(["canary-secret", "abc", *passwords_of([url, None, "amqp://[broken"])], dict)
    error = raised('canary-secret and p"ss/word')
    text = formatter.format(record("at %s with %s", url, "redis://:un-known@h", error=error, task="canary-secret"))
    for secret in ("canary-secret", 'p"ss/word', "p%22ss%2Fword", "other-one", "un-known"):
        assert secret not in text
        assert json.dumps(secret)[1:-1] not in text
    assert "amqp://user:***@host/" in text
    assert "redis://:***@h" in text
