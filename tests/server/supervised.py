"""What a supervisor starts in tests: `python -m tests.server.supervised PLAN...`, a word a child.

serve    listens, is ready, and answers each connection with its pid and the word that came
mute     listens and is ready, and takes no connection
exit-N   ends with status N before it is ready
kill-N   ends by signal N before it is ready

The last word is for all further children. Each says on stdout `PID WORD PORT` when it starts, and
`signal N` for each signal that it gets.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

from llmplug.server.supervisor import Supervisor, supervise

INHERITABLE = 9


def serve(supervisor: Supervisor) -> int:
    journal = Path(os.environ["JOURNAL"])
    plan = sys.argv[1:]
    life = len(journal.read_text().splitlines()) if journal.exists() else 0
    word = plan[min(life, len(plan) - 1)]
    with journal.open("a") as file:
        file.write(f"{os.getpid()}\n")
    if word.startswith("exit-"):
        return int(word[5:])
    if word.startswith("kill-"):
        os.kill(os.getpid(), int(word[5:]))
    listener = supervisor.listener
    if listener is None:
        listener = socket.create_server(("127.0.0.1", 0))
        supervisor.keep(listener)
    if listener.get_inheritable():  # programs that it starts would hold the port
        return INHERITABLE
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, frame: react(supervisor, number))
    supervisor.tell_ready()
    say(f"{os.getpid()} {word} {listener.getsockname()[1]}")
    while word == "mute":
        signal.pause()
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(f"{os.getpid()} ".encode() + connection.recv(100))


def react(supervisor: Supervisor, number: int) -> None:
    say(f"signal {number}{' orphan' if supervisor.is_gone else ''}")
    if number == signal.SIGTERM:
        sys.exit(3)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(supervise(serve))
