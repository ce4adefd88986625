from builtins import TimeoutError as TimeoutError

from futurebroker.client.client import Client as Client
from futurebroker.client.client import Executor as Executor
from futurebroker.client.collections import futures_of as futures_of
from futurebroker.client.coordination import Event as Event
from futurebroker.client.coordination import Lock as Lock
from futurebroker.client.coordination import MultiLock as MultiLock
from futurebroker.client.coordination import Semaphore as Semaphore
from futurebroker.client.futures import Future as Future
from futurebroker.client.inside import get_client as get_client
from futurebroker.client.inside import local_client as local_client
from futurebroker.client.inside import rejoin as rejoin
from futurebroker.client.inside import secede as secede
from futurebroker.client.inside import worker_client as worker_client
from futurebroker.client.mailboxes import Queue as Queue
from futurebroker.client.mailboxes import Variable as Variable
from futurebroker.client.printing import print as print
from futurebroker.client.printing import warn as warn
from futurebroker.client.progress import progress as progress
from futurebroker.client.tending import SchedulerPlugin as SchedulerPlugin
from futurebroker.client.tending import WorkerPlugin as WorkerPlugin
from futurebroker.client.waiting import as_completed as as_completed
from futurebroker.client.waiting import fire_and_forget as fire_and_forget
from futurebroker.client.waiting import wait as wait
from futurebroker.client.watching import default_client as default_client
from futurebroker.client.watching import get_task_metadata as get_task_metadata
from futurebroker.client.watching import get_task_stream as get_task_stream
from futurebroker.data.environments import pack_environment as pack_environment
from futurebroker.exceptions import CancelledError as CancelledError
from futurebroker.exceptions import KilledWorker as KilledWorker
from futurebroker.exceptions import Reschedule as Reschedule
from futurebroker.local import LocalCluster as LocalCluster
from futurebroker.reporting import performance_report as performance_report
from futurebroker.worker.context import get_worker as get_worker

__version__: str
