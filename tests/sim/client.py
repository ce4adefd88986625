"""Clients in the simulator: they submit parts of a graph, change their minds, fetch results and judge them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from futurebroker.protocol import messages as m
from tests.sim.network import Hub, Line, Weather
from tests.sim.oracle import FUNCTION, LIMITED, Call, Node, Oracle, encode_call, unpacked
from tests.sim.reuse import Reuse, Use, version_of
from tests.sim.shared import SharingThread
from tests.sim.world import World

PART = 256 * 1024
PATIENCE = 5.0
BEAT_EVERY = 1.0
AGAIN = 0.2
#: what is ordered of all tasks of a name
LIMITS = ("rate_limit", "time_limit")


class SimClient:
    """One program with futures.

    Args:
        given_up: keys that some client cancelled with force; shared by all.
        revoked: keys that some client revoked; shared by all.
        reuse: which keys are chosen, and used again.
    """

    def __init__(
        self,
        world: World,
        weather: Weather,
        hub: Hub,
        name: str,
        oracle: Oracle,
        given_up: set[str],
        revoked: set[str],
        reuse: Reuse,
    ) -> None:
        self.world = world
        self.oracle = oracle
        self._reuse = reuse
        self.line = Line(world, weather, hub, name, False, {"user": name, "topics": []})
        self.line.near.deliver = self._deliver
        self.line.on_fresh = self.start_over
        self.line.on_resumed = self.go_on
        self.threads: list[SharingThread] = []
        #: what was published to it
        self.heard: list[m.Published] = []
        self.alive = True
        self.planned = 0  #: things it has not done yet
        #: key -> the value, the failure, or None while it is open
        self.futures: dict[str, int | m.Failure | None] = {}
        self.open: set[str] = set()
        self.cancelled: set[str] = set()
        self.released: set[str] = set()
        self._submitted: list[Node] = []
        #: all keys that it ever had a future of
        self._had: set[str] = set()
        #: what it was released of and shall run all the same
        self._detached: dict[str, None] = {}
        self._given_up = given_up
        self._revoked = revoked
        #: arguments and conditions of what was submitted, as they were the first time
        self._agreed: dict[tuple[str, int], tuple[bytes, m.Conditions | None]] = {}
        #: which of the calls under its key each future is of; and keys of which what comes is still about another
        self.versions: dict[str, int] = {}
        self._former: dict[str, set[int]] = {}
        self.retried = False
        #: when they were submitted; and until when what was seen finished is kept at least
        self._began: dict[str, float] = {}
        self._kept: dict[str, float] = {}
        self._held: dict[str, m.Held] = {}
        self._transfers: dict[int, str] = {}
        #: the last that it ordered of the tasks of a name, by kind of limit and name
        self.limited: dict[tuple[str, str], list[Any]] = {}
        self._number = 0
        self.line.near.send(self._functions())
        self.line.connect()
        self._beat()

    def _beat(self) -> None:
        if self.alive:
            self.line.beat("running")
            self.world.after(BEAT_EVERY, self._beat)

    @staticmethod
    def _functions() -> list[m.Message]:
        return [m.AddFunction(FUNCTION, "f", b"code"), m.AddFunction(LIMITED, "limited", b"code")]

    # -- doing ------------------------------------------------------------------------------------------------------

    def later(self, seconds: float, what: Any, *args: Any) -> None:
        """Plan something; the client isn't done before."""
        self.planned += 1

        def act() -> None:
            self.planned -= 1
            if self.alive:
                what(*args)

        self.world.after(seconds, act)

    def submit(self, nodes: list[Node]) -> None:
        """Submit these, one message for those with equal options in a row, all in one envelope."""
        self._submitted += nodes
        for node in nodes:
            self._began[node.key] = self.world.now
            self._expect(node.key)
        plans: list[m.Message] = [
            m.OnFailure(node.key, [m.PlannedCall(FUNCTION, node.errback, encode_call(Call(node.errback)))])
            for node in nodes
            if node.errback
        ]
        self.line.near.send([*self._calls(nodes, [node.key for node in nodes] if self._reuse.chosen else ()), *plans])

    def use(self, use: Use) -> None:
        """Make another call under a key; what was called under it before is given up, if it is not already."""
        node, key = use.node, use.node.key
        nodes = [node] if use.follower is None else [node, use.follower]
        messages: list[m.Message] = self._given_up_call(use)
        if version_of(node):
            self._former[key] = set()
            messages.append(self._ask_for_silence(key))
        self.versions[key] = version_of(node)
        self._submitted += nodes
        for one in nodes:
            self._expect(one.key)
        self.line.near.send([*messages, *self._calls(nodes, [one.key for one in nodes])])

    def give_up_call(self, use: Use) -> None:
        """Give up what was called under a key, some time before it is used again."""
        self.line.near.send(self._given_up_call(use))

    def _given_up_call(self, use: Use) -> list[m.Message]:
        key = use.node.key
        if key not in self.futures:
            return []
        self._drop(key)
        return [m.Cancel([key])] * use.cancels + [m.Release([key])]

    def _ask_for_silence(self, key: str) -> m.Message:
        """As the real client does: what is heard of a key before the answer is about the call before."""
        self._number += 1
        self._former[key].add(self._number)
        return m.Ask(self._number, "who_has", [])

    def _calls(self, nodes: list[Node], new: Collection[str] = ()) -> list[m.Message]:
        messages: list[m.Message] = []
        for node in nodes:
            if node.call is None:
                value = str(self.oracle.value(node.key)).encode().ljust(node.size)
                messages.append(m.PutValue(node.key, value, node.options.workers, node.broadcast))
                continue
            args, conditions = self._agree(node, node.call)
            last = messages[-1] if messages else None
            if (
                isinstance(last, m.Submit)
                and last.is_new == (node.key in new)
                and last.is_reused == (node.key in new and version_of(node) > 0)
                and last.options == node.options
                and last.function == node.function
                and last.dependencies is not None
                and last.conditions is not None
            ):
                last.keys.append(node.key)
                last.args.append(args)
                last.dependencies.append(node.dependencies)
                last.conditions.append(conditions)
            else:
                messages.append(
                    m.Submit(
                        node.function, [node.key], [args], [node.dependencies], node.options, conditions=[conditions],
                        is_new=node.key in new, is_reused=node.key in new and version_of(node) > 0,
                    )
                )  # fmt: skip
        return messages

    def _agree(self, node: Node, call: Call) -> tuple[bytes, m.Conditions | None]:
        """Arguments and conditions of a call; times count from when it is first submitted."""
        known = self._agreed.get((node.key, call.version))
        if known is None:
            now = self.world.now
            due = now + node.countdown if node.countdown else 0.0
            expires = now + node.lifetime if node.lifetime else 0.0
            conditions = None
            if due or expires or node.joins or node.parent:
                conditions = m.Conditions(due, expires, node.parent, node.joins)
            args = encode_call(msgspec.structs.replace(call, due=due, becomes=node.becomes))
            known = self._agreed[node.key, call.version] = args, conditions
        return known

    def ask(self, topic: str, about: Any) -> int:
        """Ask the scheduler; returns the number that its answer will have."""
        self._number += 1
        self.line.near.send([m.Ask(self._number, topic, about)])
        return self._number

    def follow(self, what: str, topic: str) -> None:
        """Subscribe to a topic, or leave it; who says hello says that as well."""
        topics = set(self.line.info["topics"]) - {topic}
        self.line.info["topics"] = sorted(topics | {topic} if what == "subscribe_topic" else topics)
        self.ask(what, topic)

    def submit_again(self, keys: list[str]) -> None:
        """The same calls once more, as a parent that is run again makes them; what became of them stays so."""
        held = self.futures.keys()
        again = [node for node in self._submitted if node.key in keys and held >= {node.key, *node.needs}]
        # What is cancelled and comes again in one envelope is more than the books can follow.
        given_up = self.cancelled | self._given_up
        self.line.near.send(
            self._calls([node for node in again if given_up.isdisjoint(self.oracle.ancestors(node.key))])
        )

    def want(self, keys: list[str]) -> None:
        """Got hold of other clients' futures."""
        keys = [key for key in keys if key not in self.futures]
        for key in keys:
            self._expect(key)
        self.line.near.send([m.Want(keys)])

    def look_for(self, key: str) -> None:
        """Let go of a result that is kept, or ask for it again by its key, as another program does later."""
        if isinstance(self.futures.get(key), int):
            self._kept[key] = self._began[key] + self.oracle.nodes[key].options.keep
            self.release([key])
        elif key not in self.futures and key in self._kept:
            self.ask("task_metas", [key])
            self.want([key])

    def await_keys(self, keys: list[str]) -> None:
        """Knows the keys of futures that may come only later."""
        keys = [key for key in keys if key not in self.futures]
        for key in keys:
            self._expect(key)
        self.line.near.send([m.Await(keys)])

    def give_up_open(self, keys: list[str]) -> None:
        """Doesn't wait any longer for those that have not come."""
        self.release([key for key in keys if key in self.open])

    def revoke(self, keys: list[str], terminate: bool) -> None:
        """Have these not run, whoever submitted them, or will."""
        self._revoked.update(keys)
        self.ask("revoke", [keys, terminate])

    def order(self, method: str, names: list[str] | None, argument: Any) -> None:
        """Have this done to workers, or to all tasks of a name."""
        if method in LIMITS:
            self.limited[method, argument[0]] = argument[1:]
            self.ask("limit_tasks", [method, argument])
        else:
            self.ask("control", [method, names, argument])

    def purge(self) -> None:
        """Have nothing run of what is kept and has not begun."""
        self._revoked.update(self.oracle.nodes)
        self.ask("purge_tasks", None)

    def release(self, keys: list[str], detach: bool = False) -> None:
        """Let go of some futures."""
        keys = [key for key in keys if key in self.futures]
        for key in keys:
            self._drop(key)
        self.released.update(keys)
        if detach:
            self._detached.update(dict.fromkeys(keys))
        self.line.near.send([m.Detach(keys), m.Release(keys)] if detach else [m.Release(keys)])

    def release_all(self) -> None:
        """Let go of everything, also of what the scheduler has said to be cancelled, as dropped futures do."""
        self.futures.clear()
        self.open.clear()
        self.line.near.send([m.Release(sorted(self._had))])

    def cancel(self, keys: list[str], force: bool) -> None:
        """Cancel some futures."""
        keys = [key for key in keys if key in self.futures]
        for key in keys:
            self._drop(key)
        self.cancelled.update(keys)
        if force:
            self._given_up.update(keys)
        self.line.near.send([m.Cancel(keys, force)])

    def retry(self) -> None:
        """Try again what failed; it fails again, but not silently."""
        failed = [key for key, end in self.futures.items() if isinstance(end, m.Failure)]
        if failed:
            self.retried = True
            self.line.near.send([m.Retry(failed)])

    def crash(self) -> None:
        """The program ends."""
        self.forgotten()
        self.line.end()

    def start_over(self) -> None:
        """A scheduler that knows nothing, as the real client does: give what is here, submit what is open again."""
        if not self.alive:
            return
        for thread in self.threads:
            thread.start_over()
        mine = {node.key for node in self._submitted}
        self._held.clear()
        given = {key: end for key, end in self.futures.items() if isinstance(end, int)}
        failures = {key: end for key, end in self.futures.items() if isinstance(end, m.Failure)}
        needed = {*self.open, *self._detached}
        for node in reversed(self._submitted):
            if node.key in needed:
                needed.update(name for name in node.needs if name not in given and name not in failures)
        followed = {name for node in self._submitted if node.key in needed for name in node.needs}
        for key in [key for key in followed & self.open if self.versions.get(key)]:
            self._drop(key)  # its scheduler would have refused it: what follows on the call before is still to come
            self.versions[key] = 0
        self._former.clear()
        again = [
            node
            for node in self._submitted
            if node.key in needed
            and (
                node.call is None
                or node.call.version == (self.versions.get(node.key, 0) if node.key in self.open else 0)
            )
        ]
        keys = [node.key for node in again]
        self.line.near.send([
            *self._functions(),
            *(m.PutValue(key, str(end).encode(), given=True) for key, end in given.items()),
            *(m.GiveFailure(key, end) for key, end in failures.items()),
            m.Want([key for key in self.futures if key in self.open and key not in mine], patient=True),
            # What a worker has of a key that was used before may be of the former call.
            *self._calls(again, [node.key for node in again if version_of(node)]),
            m.Detach(list(self._detached)),
            m.Release([key for key in keys if key not in self.futures]),
            m.Cancel([key for key in keys if key in self.cancelled]),
        ])  # fmt: skip
        for thread in self.threads:
            thread.ask_again()

    def go_on(self) -> None:
        """Another scheduler goes on where one stopped, as the real client does: ask what became of what is open."""
        if self.alive:
            self._held.clear()
            asked = [self._ask_for_silence(key) for key in self._former]
            # The key of what was refused, which we didn't hear, is somebody else's.
            again = [one for one in self._submitted if version_of(one) and self.versions[one.key] == version_of(one)]
            again = [node for node in again if node.key in self.open]
            wanted = self.open.difference(node.key for node in again)
            detached = m.Detach(list(self._detached))
            self.line.near.send([*asked, m.Want(sorted(wanted)), *self._calls(again), detached])
            for thread in self.threads:
                thread.ask_again()

    def forgotten(self) -> None:
        """What this client had is lost to it, because it crashed."""
        self.alive = False
        for thread in self.threads:
            thread.end()
        self.futures.clear()
        self.open.clear()
        self._held.clear()

    @property
    def done(self) -> bool:
        """Nothing is open and nothing is planned."""
        if not self.alive:
            return True
        return not (self.open or self._detached or self.planned) and all(thread.done for thread in self.threads)

    # -- hearing ----------------------------------------------------------------------------------------------------

    def _expect(self, key: str) -> None:
        self._had.add(key)
        self.futures[key] = None
        self.open.add(key)

    def _drop(self, key: str) -> None:
        self.futures.pop(key, None)
        self.open.discard(key)
        self._held.pop(key, None)

    def _settle(self, key: str, end: int | m.Failure) -> None:
        self.futures[key] = end
        self.open.discard(key)
        self._held.pop(key, None)

    def _deliver(self, messages: list[Any]) -> None:
        for message in messages:
            if getattr(message, "key", None) in self._former and not isinstance(message, m.DataPart):
                continue
            match message:
                case m.Answer():
                    self._former = {key: asked for key, asked in self._former.items() if message.number not in asked}
                    for thread in self.threads:
                        thread.answered(message)
                case m.Published():
                    assert message.event not in [one.event for one in self.heard], f"{message} came twice"
                    self.heard.append(message)
                case m.KeyFinished(key=key) if key in self.futures:
                    if message.value is not None:
                        self._settle(key, unpacked(message.value))
                    elif message.held is not None and not isinstance(self.futures[key], int):
                        self._held[key] = message.held
                        self._fetch(key, message.held)
                case m.KeyErred(key=key) if key in self.futures:
                    self._settle(key, message.failure)
                case m.KeyLost(key=key) if key in self.futures:
                    self._held.pop(key, None)
                    if not isinstance(self.futures[key], int):  # a fetched value stays ours
                        self._expect(key)
                case m.KeyCancelled(key=key) if key in self.futures:
                    self._check_cancelled(message)
                    self._drop(key)
                case m.DetachedEnded(keys=keys):
                    for key in keys:
                        self._detached.pop(key, None)
                case m.DataPart():
                    self._part(message)

    def _check_cancelled(self, message: m.KeyCancelled) -> None:
        if self._reuse.permits(message):
            return
        given_up = self.cancelled | self._given_up
        kept = self._kept.get(message.key, 0.0) if message.key not in given_up else 0.0
        assert self.world.now > kept, f"{message.key} was to be kept until {kept}, and is not known: {message}"
        if message.kind == "rejected":
            given_up |= self.released
        keys, ancestors = [message.key], {message.key}
        while keys:
            for name in self.oracle.nodes[keys.pop()].needs:
                if name not in ancestors:
                    ancestors.add(name)
                    keys.append(name)
        assert message.kind == "lost" or ancestors & given_up, f"{self.line.name} never cancelled {message}"

    def _fetch(self, key: str, held: m.Held) -> None:
        if self._held.get(key) is held and self.alive:
            self._number += 1
            self._transfers[self._number] = key
            self.line.near.send([m.DataWanted(self._number, key, 0, PART)])
            self.world.after(PATIENCE, lambda: self._fetch(key, held))

    def _part(self, part: m.DataPart) -> None:
        key = self._transfers.pop(part.transfer, None)
        held = self._held.get(key) if key is not None else None
        if key is None or held is None:
            return
        if part.nbytes < 0:
            self.world.after(AGAIN, lambda: self._fetch(key, held))
        else:
            self._settle(key, unpacked(part.data))
