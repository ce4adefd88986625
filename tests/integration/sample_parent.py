"""A program with a child, for test_processes.py to kill: ``python sample_parent.py ROOT DIARY``.

It has forked a copy of itself by then, which holds the child's lifeline open, as multiprocessing may do.
"""

import os
import sys

sys.path.append(sys.argv[1])

from futurebroker.processes import Child

if __name__ == "__main__":
    child = Child("patient", "tests.integration.sample_child")
    child.order({"log_level": "info", "secret": "s3cret", "diary": sys.argv[2]})
    pid = child.report(30)["pid"]
    copy = os.fork()
    if copy:
        print(pid, flush=True)
    sys.stdin.read()
