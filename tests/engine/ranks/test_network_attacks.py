"""Whoever reaches the port of ranks, or sits on the path, gets nothing and hinders nobody."""

from __future__ import annotations

import os
import queue
import resource
import socket
import threading
import time
import tracemalloc
from contextlib import suppress

import pytest
from engine.ranks.network_wire import (
    DEADLINE_S,
    GREETING_BYTES,
    HEAD_BYTES,
    HOST,
    LENGTH_BYTES,
    SECRET,
    Listening,
    dial,
    is_hung_up,
    listening,
    middle,
    read_exactly,
    until_closed,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmplug.engine.ranks import network
from llmplug.engine.ranks.link import Link
from llmplug.engine.ranks.network import MAX_STRANGERS
from llmplug.errors import ConfigError

QUESTION, ANSWER, PROOF = GREETING_BYTES
GREETING_S = 1.0
SILENCE_S = 3
SOON_S = GREETING_S + 10.0  # on a machine that is busy


UNCHANGED = [HealthCheck.function_scoped_fixture]  # by examples


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "GREETING_S", GREETING_S)
    monkeypatch.setattr(network, "SILENCE_S", SILENCE_S)


def test_a_guest_with_another_secret_gets_no_link() -> None:
    with listening() as here:
        with pytest.raises(ConfigError, match="secret") as caught:
            here.dial(SECRET + "!")
        assert SECRET not in str(caught.value)
        here.dial().send(b"a rank")  # the door is as it was
        assert here.accept().receive() == b"a rank"
        assert here.links.empty()


def test_a_host_with_another_secret_gets_no_rank() -> None:
    """A stranger who has taken the address answers with what he can make up: noise, an echo."""
    for make_proof in (lambda answer: os.urandom(PROOF), lambda answer: answer[-PROOF:]):
        with socket.create_server((HOST, 0)) as own:

            def pretend(own: socket.socket = own, make_proof=make_proof) -> None:
                end, _ = own.accept()
                with end:
                    end.sendall(b"llmplug ranks 1\n" + os.urandom(32))
                    end.sendall(make_proof(read_exactly(end, ANSWER)))
                    end.recv(1)

            threading.Thread(target=pretend, daemon=True).start()
            with pytest.raises(ConfigError, match="secret"):
                dial(HOST, own.getsockname()[1], SECRET)


def test_what_was_overheard_opens_no_door_again() -> None:
    """The whole greeting and the first frames of one link, said again by somebody else."""
    with listening() as here, socket.create_server((HOST, 0)) as own:
        dialled: queue.Queue = queue.Queue()
        port = own.getsockname()[1]
        threading.Thread(target=lambda: dialled.put(here.dial(port=port)), daemon=True).start()
        to_guest, _ = own.accept()
        to_host = here.connect()
        to_guest.sendall(read_exactly(to_host, QUESTION))
        answer = read_exactly(to_guest, ANSWER)
        to_host.sendall(answer)
        to_guest.sendall(read_exactly(to_host, PROOF))
        here.accept()
        dialled.get(timeout=DEADLINE_S).send(b"order")
        frame = read_exactly(to_guest, HEAD_BYTES + 5)
        again = here.connect()
        again.sendall(answer + frame)
        read_exactly(again, QUESTION)
        assert is_hung_up(again)
        assert here.links.empty()
        to_guest.close()


def test_a_proof_of_one_side_is_none_of_the_other() -> None:
    """The door's own words are shown to a second door, as if by a guest."""
    with listening() as one, listening() as two:
        first, second = one.connect(), two.connect()
        question = read_exactly(first, QUESTION)
        read_exactly(second, QUESTION)
        # As its nonce and proof the stranger gives what is at hand: the other door's nonce.
        second.sendall(question[-32:] + question[-32:])
        first.sendall(bytes(ANSWER))
        assert is_hung_up(first)
        assert is_hung_up(second)
        assert one.links.empty()
        assert two.links.empty()


@settings(max_examples=40, deadline=None, suppress_health_check=UNCHANGED)
@given(place=st.integers(0, QUESTION + ANSWER + PROOF - 1), bit=st.integers(0, 7))
def test_no_bit_of_the_greeting_can_be_changed(place: int, bit: int) -> None:
    with listening() as here, socket.create_server((HOST, 0)) as own:
        ends: list[socket.socket] = []

        def pass_on() -> None:
            offset = 0
            guest, _ = own.accept()
            host = here.connect()
            ends.extend((guest, host))
            try:
                for source, target, count in (
                    (host, guest, QUESTION), (guest, host, ANSWER), (host, guest, PROOF),
                ):  # fmt: skip
                    data = bytearray(read_exactly(source, count))
                    if offset <= place < offset + count:
                        data[place - offset] ^= 1 << bit
                    target.sendall(data)
                    offset += count
            except (OSError, AssertionError):
                for end in ends:
                    end.close()

        threading.Thread(target=pass_on, daemon=True).start()
        with pytest.raises((ConfigError, OSError)):
            dial(HOST, own.getsockname()[1], SECRET)
        # The door may have let in a link whose proof was changed on the way: nothing comes by it.
        for end in ends:
            end.close()
        if not here.links.empty():
            assert until_closed(here.accept()) == []


@settings(max_examples=60, deadline=None, suppress_health_check=UNCHANGED)
@given(message=st.binary(min_size=1, max_size=200), data=st.data())
def test_no_bit_of_a_message_can_be_changed(message: bytes, data: st.DataObject) -> None:
    with middle() as wire:
        frame = bytearray(wire.take_frame(message))
        place = data.draw(st.integers(0, len(frame) - 1))
        frame[place] ^= 1 << data.draw(st.integers(0, 7))
        wire.to_guest.sendall(frame)
        wire.to_guest.shutdown(socket.SHUT_WR)
        assert until_closed(wire.guest) == []


@settings(max_examples=60, deadline=None, suppress_health_check=UNCHANGED)
@given(order=st.lists(st.integers(0, 4), min_size=1, max_size=8))
def test_messages_come_once_each_and_in_their_order(order: list[int]) -> None:
    """Replayed, moved or left out: what gets through is the longest part that is as it was sent."""
    with middle() as wire:
        frames = [wire.take_frame(b"message %d" % i) for i in range(5)]
        for i in order:
            wire.to_guest.sendall(frames[i])
        wire.to_guest.shutdown(socket.SHUT_WR)
        intact = 0
        while intact < len(order) and order[intact] == intact:
            intact += 1
        assert until_closed(wire.guest) == [b"message %d" % i for i in range(intact)]


def test_a_message_does_not_come_back_to_who_sent_it() -> None:
    with middle() as wire:
        wire.to_host.sendall(wire.take_frame(b"to the guest"))  # reflected
        assert until_closed(wire.host) == []


def test_a_message_of_one_link_is_none_of_another() -> None:
    """Same secret, same place in the count, two links: keys differ."""
    with middle() as one, middle() as two:
        two.to_guest.sendall(one.take_frame(b"first"))
        two.to_guest.shutdown(socket.SHUT_WR)
        assert until_closed(two.guest) == []


@settings(max_examples=30, deadline=None, suppress_health_check=UNCHANGED)
@given(message=st.binary(max_size=100), data=st.data())
def test_a_message_that_is_cut_is_none(message: bytes, data: st.DataObject) -> None:
    with middle() as wire:
        frame = wire.take_frame(message)
        wire.to_guest.sendall(frame[: data.draw(st.integers(0, len(frame) - 1))])
        wire.to_guest.shutdown(socket.SHUT_WR)
        assert until_closed(wire.guest) == []


def test_a_message_that_is_cut_is_none_between_processes_either() -> None:
    """The pair of sockets on one machine: the sender is killed in the middle of `sendall`."""
    ours, theirs = socket.socketpair()
    ours.sendall((100).to_bytes(LENGTH_BYTES, "big") + b"only a part")
    ours.close()
    link = Link(theirs)
    assert link.receive() is None
    link.close()


@pytest.mark.parametrize("claimed", [2**27, 2**31, 2**63, 2**64 - 1])
def test_a_length_that_is_claimed_takes_no_memory(claimed: int) -> None:
    with middle() as wire:
        tracemalloc.start()
        try:
            wire.to_guest.sendall(claimed.to_bytes(LENGTH_BYTES, "big") + bytes(64))
            wire.to_guest.shutdown(socket.SHUT_WR)
            assert until_closed(wire.guest) == []
            assert tracemalloc.get_traced_memory()[1] < 2**20
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(
    "said",
    [b"", b"\x00", b"GET / HTTP/1.1\r\n\r\n", b"\x80\x04\x95", os.urandom(ANSWER), bytes(2**20)],
    ids=["nothing", "a byte", "http", "a pickle's beginning", "noise", "a megabyte"],
)  # fmt: skip
def test_a_stranger_is_dropped_soon_and_hinders_nobody(said: bytes) -> None:
    with listening() as here, here.connect() as stranger:
        with suppress(OSError):  # he is dropped already
            stranger.sendall(said)
        here.dial().send(b"a rank")  # while he is there
        assert here.accept().receive() == b"a rank"
        started = time.monotonic()
        assert is_hung_up(stranger)
        assert time.monotonic() - started < SOON_S


def test_a_stranger_who_speaks_byte_by_byte_gets_no_more_time() -> None:
    with listening() as here, here.connect() as stranger:
        started = time.monotonic()
        read_exactly(stranger, QUESTION)
        stranger.settimeout(0.2)
        while True:
            try:
                stranger.sendall(b"\0")
                if stranger.recv(1) == b"":
                    break
            except TimeoutError:
                pass
            except OSError:
                break
            assert time.monotonic() - started < SOON_S


def test_a_crowd_of_silent_strangers_keeps_no_rank_out() -> None:
    """More than are met at once, who come again as soon as they are dropped."""
    over = threading.Event()

    def crowd(here: Listening) -> None:
        ends: list[socket.socket] = []
        while not over.is_set():
            with suppress(OSError):
                ends.append(socket.create_connection((HOST, here.port), timeout=1))
            if len(ends) > 4 * MAX_STRANGERS:
                ends.pop(0).close()
        for end in ends:
            end.close()

    with listening() as here:
        threading.Thread(target=crowd, args=(here,), daemon=True).start()
        try:
            deadline = time.monotonic() + DEADLINE_S
            while here.links.empty():
                assert time.monotonic() < deadline, "no rank gets in"
                try:
                    here.dial()
                except (ConfigError, OSError):
                    time.sleep(0.05)  # as a rank that dials again
        finally:
            over.set()


def test_silent_strangers_leave_no_threads_and_no_sockets() -> None:
    with listening() as here:
        threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
        strangers = [here.connect() for _ in range(3 * MAX_STRANGERS)]
        assert threading.active_count() <= threads + MAX_STRANGERS
        assert all(is_hung_up(each) for each in strangers)
        for each in strangers:
            each.close()
        deadline = time.monotonic() + DEADLINE_S
        while (threading.active_count(), len(os.listdir("/proc/self/fd"))) > (threads, files):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_door_without_descriptors_opens_again_when_there_are_some() -> None:
    """`accept` fails for other reasons than that it is closed: EMFILE, ECONNABORTED."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with listening() as here:
        ends = [socket.socket() for _ in range(2)]
        taken = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
        spare: list[int] = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken, hard))
        try:
            while True:  # up to the limit
                try:
                    spare.append(os.dup(0))
                except OSError:
                    break
            for end in ends:
                end.connect((HOST, here.port))  # the system takes them, `accept` cannot
            time.sleep(0.3)
        finally:
            for each in spare:
                os.close(each)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for end in ends:
                end.close()
        here.dial().send(b"a rank")
        assert here.accept().receive() == b"a rank"


def test_a_rank_that_is_slow_to_read_is_not_taken_for_a_dead_one() -> None:
    """TCP_USER_TIMEOUT also ends a connection whose reader leaves no room: not this one."""
    with listening() as here:
        guest = here.dial()
        host = here.accept()
        message = bytes(2**24)  # more than the system keeps for who does not read
        failed: list[OSError] = []

        def send() -> None:
            try:
                host.send(message)
            except OSError as error:
                failed.append(error)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        sender.join(SILENCE_S * 2.5)  # it compiles a kernel meanwhile
        assert not failed, failed
        assert guest.receive() == message


def test_closing_the_door_lets_nobody_in_who_is_half_way() -> None:
    caught: queue.Queue = queue.Queue()
    with listening() as here, socket.create_server((HOST, 0)) as own:

        def enter() -> None:
            try:
                caught.put(here.dial(port=own.getsockname()[1]))
            except (ConfigError, OSError) as error:
                caught.put(error)

        threading.Thread(target=enter, daemon=True).start()
        to_guest, _ = own.accept()
        with to_guest:
            to_host = here.connect()
            to_guest.sendall(read_exactly(to_host, QUESTION))
            answer = read_exactly(to_guest, ANSWER)
            here.door.close()
            with suppress(OSError):
                to_host.sendall(answer)
            assert is_hung_up(to_host)
        assert isinstance(caught.get(timeout=DEADLINE_S), Exception)
        assert here.links.empty()


def test_many_threads_may_send_at_once() -> None:
    """No attack, but it looks like one: counted and sealed, a race ends the link."""
    with listening() as here:
        guest = here.dial()
        host = here.accept()
        threads = [
            threading.Thread(target=lambda: [host.send(b"%0200d" % i) for i in range(300)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        found = [guest.receive() for _ in range(1200)]
        assert all(found)
