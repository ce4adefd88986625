"""How deep is the standard library? A graph of futures that has the shape of the library's own imports.

Each module is one task whose arguments are the futures of the modules it imports; its result is one more than theirs.
"""

import ast
import sysconfig
from pathlib import Path

from futurebroker import Client, progress

LIBRARY = Path(sysconfig.get_path("stdlib"))


def imports_of(name):
    """The modules that a module imports at its top level, of those that are files of the library."""
    found = set()
    for node in ast.parse((LIBRARY / f"{name}.py").read_text("utf-8")).body:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return sorted(found)


def depth(below):
    return 1 + max(below, default=0)


def main():
    names = sorted(path.stem for path in LIBRARY.glob("*.py"))
    with Client() as client:
        futures = client.map(imports_of, names, chunksize=8)
        imports = dict(zip(names, client.gather(futures), strict=True))
        depths = {}

        def visit(name, above):
            """Submit a module after those it imports; of a circle, the import that closes it is left out."""
            if name not in depths:
                others = [other for other in imports[name] if other in imports and other not in above]
                below = [visit(other, {*above, name}) for other in others]
                depths[name] = client.submit(depth, below, key=f"depth-{name}")
            return depths[name]

        for name in names:
            visit(name, set())
        progress(list(depths.values()))
        found = dict(zip(depths, client.gather(list(depths.values())), strict=True))
    deepest = max(found, key=found.get)
    print(f"\n{len(names)} modules; the deepest chain of imports has {found[deepest]} and ends at {deepest}")


if __name__ == "__main__":
    main()
