"""futurebroker over RabbitMQ: scheduler and worker by the command that a user types, the client in this process."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys

from bench.peers.ours import FuturebrokerPeer
from futurebroker import Client


class RabbitMQPeer(FuturebrokerPeer):
    """One worker with two executor processes, as beside the embedded broker; all that is sent crosses RabbitMQ."""

    def start(self) -> None:
        url = os.environ["FUTUREBROKER_TEST_RABBITMQ_URL"]
        cluster, secret = f"bench-{secrets.token_hex(4)}", secrets.token_hex(16)
        self.up = subprocess.Popen(
            [sys.executable, "-m", "futurebroker", "up", "--executors", "2", "--broker", url],
            env={
                **os.environ,
                "FUTUREBROKER_CLUSTER": cluster,
                "FUTUREBROKER_SECRET": secret,
                "FUTUREBROKER_DASHBOARD": "false",
                "FUTUREBROKER_JOURNAL": "none",
                "PYTHONUNBUFFERED": "1",
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.up.stdout is not None
        for line in self.up.stdout:
            if "one worker runs" in line:
                break
        else:
            raise RuntimeError("the cluster did not start")
        self.client = Client(url, cluster=cluster, secret=secret)
        self.client.wait_for_workers(1, timeout=30)

    def stop(self) -> None:
        self.client.close()
        self.up.terminate()
        assert self.up.stdout is not None
        self.up.stdout.close()
        self.up.wait(60)
