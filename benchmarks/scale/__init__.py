"""How many machines for how many users: a simulation of many servers, for docs/scale.md.

    python -m benchmarks.scale routing          # one JSON line a row; all: every study
    python -m benchmarks.scale write benchmarks/results/scale.jsonl   # into docs/

speed.py      what a step costs on a machine: fitted to measurements, or assumed
capacity.py   arithmetic: requests a second that a machine can bear, machines for so many users
traffic.py    conversations with the published statistics of real ones
prefixes.py   which prompts a server still holds, by whole conversations
replica.py    one server: our scheduler's rules, jumping over equal steps
routing.py    which server a request is sent to
scaling.py    how many servers there should be
fleet.py      all of it together, in simulated time; what became of each request
studies.py    the questions of docs/scale.md
validate.py   a real server and the simulation, asked the same
tables.py, pictures.py   the lines, for docs/scale.md

Everything is drawn from one seed: equal calls give equal lines.
"""
