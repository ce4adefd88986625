"""Where the cluster's dashboard is, as a client finds it."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from futurebroker.client.core import ClientCore
from futurebroker.client.waiters import run_blocking
from futurebroker.exceptions import FuturebrokerError
from futurebroker.secret import derive_token

#: seconds the scheduler has to answer
TIMEOUT = 5.0


class Dashboards(ClientCore):
    """`Client.dashboard_link`, and the link in the client's HTML."""

    @property
    def dashboard_link(self) -> str:
        """The address of the cluster's dashboard, with the token that opens it.

        A cluster that this client started, or was given as an object, starts its site when it is first asked for;
        another one has a site if somebody runs `futurebroker web` or `futurebroker up`. Where the site's token was set
        (FUTUREBROKER_WEB_TOKEN), the link has it only if this program's settings do.

        Raises:
            FuturebrokerError: the cluster has no dashboard; the message says how to start one.
        """
        cluster: Any = self.cluster
        if cluster is not None and hasattr(type(cluster), "dashboard_link"):
            return str(cluster.dashboard_link)
        question = self._connection.ask("scheduler_info", None, True, TIMEOUT)
        info: Mapping[str, Any] = run_blocking(question)
        for program in info["programs"].values():
            if program.get("program") == "dashboard" and program.get("link"):
                return self._opened(str(program["link"]), bool(program.get("token_set")))
        raise FuturebrokerError("this cluster has no dashboard; start one with: futurebroker web ADDRESS")

    def overview(self, timeout: float | None = None) -> Any:
        """What dashboards make their snapshots from; see `futurebroker.snapshot.Tracker`."""
        return self._ask("overview", None, timeout)

    def recent(self, since: int = 0, timeout: float | None = None) -> Any:
        """Runs that ended after the one numbered ``since``, column by column; the scheduler keeps some for who asks."""
        return self._ask("recent", {"since": since}, timeout)

    def _opened(self, link: str, token_set: bool) -> str:
        token = self._settings.web_token if token_set else derive_token(self._connection.secret, "operator")
        return f"{link}?token={token}" if token else link

    def _more_rows(self) -> str:
        try:
            link = html.escape(self.dashboard_link, quote=True)
        except (FuturebrokerError, TimeoutError):
            return ""
        return f'<tr><th>dashboard</th><td><a href="{link}" target="_blank" rel="noopener">{link}</a></td></tr>'
