"""Which words make a package of the standard library special: counts of its sources, weighted by rarity (tf-idf).

One task counts the words of a file; the files' counts are merged by package, the packages' words into the number of
packages that use each (as a tree), and from both come each package's top terms. Needs nothing but Python.
"""

from __future__ import annotations

import math
import re
import sysconfig
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter

from futurebroker.client.client import Client
from futurebroker.client.progress import progress
from futurebroker.demo.common import Check, table, tree_reduce

#: folders of the standard library whose sources say nothing about it
SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "lib2to3", "ensurepip"}
#: terms a package is shown with
TOP = 5
#: packages that the table shows
SHOWN = 20

#: words inside identifiers: parseTree and parse_tree are both "parse" and "tree"
_WORD = re.compile(r"[A-Z]?[a-z]{2,}")

Scores = list[tuple[str, float]]


def source_files() -> dict[str, list[str]]:
    """Package or module of the standard library -> its files, relative to the library's folder, both in order."""
    library = Path(sysconfig.get_path("stdlib"))
    packages: dict[str, list[str]] = {}
    for path in sorted(library.rglob("*.py")):
        place = path.relative_to(library)
        if not SKIPPED.intersection(place.parts[:-1]):
            packages.setdefault(place.parts[0].removesuffix(".py"), []).append(str(place))
    return packages


# -- tasks ---------------------------------------------------------------------------------------------------------


def count_terms(place: str) -> Counter[str]:
    """How often each word stands in a file of the standard library."""
    text = (Path(sysconfig.get_path("stdlib")) / place).read_text("utf-8", errors="replace")
    return Counter(word.lower() for word in _WORD.findall(text))


def add_counts(*parts: Mapping[str, int]) -> Counter[str]:
    """The sums of several counts."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return total


def distinct(counts: Mapping[str, int]) -> Counter[str]:
    """Each word once: what a package adds to the number of packages that use the word."""
    return Counter(dict.fromkeys(counts, 1))


def top_terms(counts: Mapping[str, int], packages_with: Mapping[str, int], packages: int) -> Scores:
    """The words that are frequent here and rare elsewhere, best first."""
    total = sum(counts.values())
    scores = [(term, count / total * math.log(packages / packages_with[term])) for term, count in counts.items()]
    return sorted(scores, key=lambda pair: (-pair[1], pair[0]))[:TOP]


# -- the computation -----------------------------------------------------------------------------------------------


def compute(
    client: Client, files: Mapping[str, list[str]], say: Callable[[str], object]
) -> tuple[Counter[str], dict[str, Scores]]:
    """All words' counts and each package's top terms, computed on the cluster."""
    counted = {package: client.map(count_terms, places) for package, places in files.items()}
    by_package = {package: tree_reduce(client, add_counts, counts, 16) for package, counts in counted.items()}
    words = tree_reduce(client, add_counts, list(by_package.values()), 8)
    packages_with = tree_reduce(client, add_counts, client.map(distinct, list(by_package.values())), 8)
    tops = [client.submit(top_terms, counts, packages_with, len(files)) for counts in by_package.values()]
    say("\ncount the words of each file, add up by package, weigh")
    progress(*(count for counts in counted.values() for count in counts), words, *tops)
    return words.result(), dict(zip(files, client.gather(tops)))


def compute_alone(files: Mapping[str, list[str]]) -> tuple[Counter[str], dict[str, Scores]]:
    """The same in this process, with loops."""
    by_package: dict[str, Counter[str]] = {}
    for package, places in files.items():
        by_package[package] = Counter()
        for place in places:
            by_package[package].update(count_terms(place))
    words: Counter[str] = Counter()
    packages_with: Counter[str] = Counter()
    for counts in by_package.values():
        words.update(counts)
        packages_with.update(set(counts))
    return words, {package: top_terms(counts, packages_with, len(files)) for package, counts in by_package.items()}


def run(client: Client, say: Callable[[str], object]) -> Check:
    """Compute, print and check."""
    files = source_files()
    count = sum(map(len, files.values()))
    say(f"Terms of the standard library: {count:,} files in {len(files)} packages")
    begin = perf_counter()
    words, tops = compute(client, files, say)
    seconds = perf_counter() - begin
    say("")
    largest = sorted(files, key=lambda package: -len(files[package]))[:SHOWN]
    rows = [[package, len(files[package]), ", ".join(term for term, _ in tops[package])] for package in largest]
    say(table(("package", "files", "top terms"), rows, ["all packages", count, f"{words.total():,} words"]))
    begin = perf_counter()
    single_words, single_tops = compute_alone(files)
    alone = perf_counter() - begin
    say(f"\n{count:,} files took {seconds:.1f} s on the cluster; one process took {alone:.1f} s")
    return check(words, tops, single_words, single_tops)


def check(
    words: Counter[str], tops: Mapping[str, Scores], single_words: Counter[str], single_tops: Mapping[str, Scores]
) -> Check:
    """All counts and all scores must be equal."""
    result = Check()
    result.same("words", words.total(), single_words.total())
    result.same("distinct words", len(words), len(single_words))
    for term, count in single_words.items():
        result.same(f"count of {term}", words[term], count)
    for package, scores in single_tops.items():
        result.same(f"top terms of {package}", tops.get(package), scores)
    return result
