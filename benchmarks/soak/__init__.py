"""Clients that ask for minutes while processes are killed: `python -m benchmarks.soak`.

questions  what is asked, over every protocol; an answer is the same whenever it is asked for
replies    what a protocol says when an answer is whole, or has failed, and how often it must
clients    one request after another, and what became of each
kills      SIGKILL for engines and for the HTTP process, from time to time
vitals     memory, open files and gauges of the server; whether they grow
run        all of it against one server, and the report
"""
