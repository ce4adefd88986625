"""Who may open a channel to a kernel, and where its frames go."""

from __future__ import annotations

from typing import Any

from futurebroker.protocol.messages import Answer, Ask, FromPeer, ToPeer
from futurebroker.scheduler.channels import Gate
from futurebroker.scheduler.state import Policy, SchedulerState
from futurebroker.secret import operator_proof


class Played:
    """A gate, and what it sent."""

    def __init__(self, secret: bytes | None, is_local: bool) -> None:
        self.sent: list[tuple[str, Any]] = []
        self.gate = Gate(
            SchedulerState(Policy()), lambda peer, message: self.sent.append((peer, message)), secret, is_local
        )

    def open(self, peer: str, **about: Any) -> str:
        """Ask for a channel; the error."""
        self.gate.open(peer, Ask(1, "open_channel", about), None, "no code here")
        answer = self.sent.pop()[1]
        assert isinstance(answer, Answer)
        return answer.error


def test_without_a_secret_only_a_local_broker_has_channels() -> None:
    """Off by default at a broker that others can reach; the error says how to switch it on."""
    assert Played(None, True).open("c1", channel="x") == ""
    assert "FUTUREBROKER_OPERATOR_SECRET" in Played(None, False).open("c1", channel="x")


def test_a_proof_is_for_one_channel_and_one_secret() -> None:
    """One that was seen elsewhere opens nothing here."""
    for is_local in (True, False):
        played = Played(b"s", is_local)
        assert played.open("c1", channel="x", proof=operator_proof(b"s", "x")) == ""
        assert "not that of the scheduler" in played.open("c1", channel="x", proof=operator_proof(b"s", "y"))
        assert "not that of the scheduler" in played.open("c1", channel="x", proof=operator_proof(b"t", "x"))
        assert "not that of the scheduler" in played.open("c1", channel="x")


def test_a_scheduler_that_runs_no_code_has_no_kernel() -> None:
    """Whatever is proven."""
    assert Played(None, True).open("c1", channel="x", scheduler=True) == "no code here"


def test_frames_go_from_one_end_to_the_other_only() -> None:
    """Nobody else can write to a kernel, or read it."""
    played = Played(None, True)
    assert played.open("k1", channel="x", kernel=True) == "nobody opened this channel"
    assert played.open("c1", channel="x") == ""
    assert played.open("k1", channel="x", kernel=True) == ""
    played.gate.forward("c1", ToPeer("x", [b"shell", b"1"]), None)
    played.gate.forward("k1", ToPeer("x", [b"shell", b"2"]), None)
    played.gate.forward("c2", ToPeer("x", [b"shell", b"3"]), None)
    played.gate.forward("c1", ToPeer("y", [b"shell", b"4"]), None)
    assert played.sent == [("k1", FromPeer("x", [b"shell", b"1"])), ("c1", FromPeer("x", [b"shell", b"2"]))]
