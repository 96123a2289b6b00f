"""Connections between processes: each end of one is noticed once, with its reason, and a good end is none."""

import queue
import socket
import threading

import pytest

from vilbert_jax.peers import Peers, Server


class Party:
    """Three processes, here threads of one: the first and two others, and what each was told last."""

    def __init__(self):
        self.told = [queue.Queue() for _ in range(3)]
        self.server = Server()
        self.first = Peers.of_first(self.server, "first", self.told[0].put)
        self.others = [self.join(f"other {k}", self.told[k].put) for k in (1, 2)]
        self.heard(self.first, 2)

    def join(self, name, on_lost, token=None):
        address = ("localhost", self.server.port)
        return Peers.of_other(address, token or self.server.token, name, "first", on_lost)

    def heard(self, peers, count):
        """Waits until that many others have said who they are."""
        ready = threading.Event()
        while sum(bool(other.name) for other in list(peers._others.values())) < count:
            ready.wait(0.01)

    def cut(self, peers):
        """What the system does with the connections of a process that ends."""
        for connection in list(peers._others):
            connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def party():
    party = Party()
    yield party
    for peers in (party.first, *party.others):
        peers.close()


def test_the_end_of_one_is_told_to_all_others(party):
    party.others[0]._silent = True
    party.cut(party.others[0])
    sentence = "other 1 ended without a word: its own log or the scheduler's says why"
    assert party.told[0].get(timeout=20) == sentence
    assert party.told[2].get(timeout=20) == sentence


def test_the_end_of_the_first_is_noticed_by_all(party):
    party.first._silent = True
    party.cut(party.first)
    for told in party.told[1:]:
        assert told.get(timeout=20).startswith("first ended without a word")


@pytest.mark.parametrize("who", [0, 1])
def test_a_reason_goes_to_all_others(party, who):
    peers = (party.first, *party.others)[who]
    peers.fail("error: the disk is full")
    for number in {0, 1, 2} - {who}:
        assert party.told[number].get(timeout=20).endswith("stopped (error: the disk is full)")
    assert party.told[who].empty()


def test_a_good_end_is_no_loss(party):
    for peers in (*party.others, party.first):
        peers.finish()
    while not all(other.done for peers in (party.first, *party.others) for other in list(peers._others.values())):
        threading.Event().wait(0.01)
    for peers in party.others:
        party.cut(peers)
    threading.Event().wait(0.3)
    assert all(told.empty() for told in party.told)


def test_strangers_are_not_believed(party):
    stranger = socket.create_connection(("localhost", party.server.port))
    stranger.sendall(b'{"token": "guessed", "name": "other 1"}\n{"lost": "everything"}\nnonsense\n')
    assert stranger.recv(10) == b""  # hung up on
    stranger.close()
    assert all(told.empty() for told in party.told)


def test_a_port_that_nobody_listens_on_is_an_error():
    with socket.create_server(("localhost", 0)) as gone:
        address = ("localhost", gone.getsockname()[1])
    with pytest.raises(OSError, match="refused"):
        Peers.of_other(address, "token", "name", "first", lambda sentence: None)
