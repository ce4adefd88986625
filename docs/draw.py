"""Draws the diagrams and tables of docs/scheduling.md from the code: ``python docs/draw.py`` writes them anew."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

from futurebroker.scheduler.state import Policy
from futurebroker.scheduler.transitions import TRANSITIONS
from futurebroker.states import TaskState

PAGE = Path(__file__).with_name("scheduling.md")
_PART = re.compile(r"(<!-- drawn: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def diagram() -> str:
    """Every move a task can make, with the function that makes it."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> released: submitted"]
    for (start, finish), function in TRANSITIONS.items():
        lines.append(f"    {start.value} --> {finish.value}: {function.__name__}")
    return "\n".join([*lines, "    forgotten --> [*]", "```"])


def table() -> str:
    """Every move, with the first sentence of its function."""
    lines = ["| from | to | when |", "|---|---|---|"]
    for (start, finish), function in TRANSITIONS.items():
        sentence = (inspect.getdoc(function) or "").split("\n\n")[0].replace("\n", " ")
        lines.append(f"| {start.value} | {finish.value} | {sentence} |")
    return "\n".join(lines)


def states() -> str:
    """What each state means, from the comments beside them."""
    source = inspect.getsource(TaskState)
    found = re.findall(r'^    (\w+) = "(\w+)"  #: (.*)$', source, re.MULTILINE)
    return "\n".join(["| state | meaning |", "|---|---|", *(f"| {name} | {text} |" for _, name, text in found)])


def policies() -> str:
    """The settings of the policies and their defaults, from the comments beside them."""
    source = inspect.getsource(Policy)
    found = re.findall(r"^    (\w+): \w+ = (.*?)  #: (.*)$", source, re.MULTILINE)
    return "\n".join(["| | default | |", "|---|---|---|", *(f"| {n} | {value} | {text} |" for n, value, text in found)])


def drawn(page: str) -> str:
    """The page with its drawn parts as the code has them."""
    makers = {"diagram": diagram, "table": table, "states": states, "policies": policies}
    return _PART.sub(lambda part: f"{part[1]}{makers[part[2]]()}\n{part[3]}", page)


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text("utf-8")), "utf-8")
    sys.stdout.write(f"{PAGE} is drawn\n")
