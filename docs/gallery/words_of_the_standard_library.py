"""Count the names used in Python's own library: a map over its files, and a reduction by tasks that take lists."""

import io
import sysconfig
import tokenize
from collections import Counter
from keyword import iskeyword
from pathlib import Path

from futurebroker import Client


def names_in(path):
    """How often each name stands in a file; a file that isn't valid Python counts for nothing."""
    try:
        tokens = tokenize.generate_tokens(io.StringIO(Path(path).read_text("utf-8")).readline)
        return Counter(token.string for token in tokens if token.type == tokenize.NAME and not iskeyword(token.string))
    except (tokenize.TokenError, SyntaxError, UnicodeDecodeError):
        return Counter()


def add(counts):
    return sum(counts, Counter())


def main():
    library = Path(sysconfig.get_path("stdlib"))
    paths = [str(path) for path in sorted(library.glob("*.py"))]
    with Client() as client:
        counts = client.map(names_in, paths, chunksize=4)  # a file takes milliseconds: four of them make one task
        groups = [client.submit(add, counts[i : i + 20]) for i in range(0, len(counts), 20)]
        total = client.submit(add, groups).result()
    for name, count in total.most_common(5):
        print(f"{count:7,} {name}")
    print(f"{len(paths)} files, {len(total):,} different names; the most frequent: {total.most_common(1)[0][0]}")


if __name__ == "__main__":
    main()
