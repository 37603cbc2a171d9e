"""Measurements: `python -m benchmarks.serve` measures a server from outside, over HTTP.

workload   prompts, the same for the same seed
client     requests and their timings, in processes of their own
server     start, wait until ready, peak memory, stop
probe      what the machine can do: bandwidth, matrix products
cost       what the model asks of it, and so the limit that no server passes
samplers   what sampling alone costs, without a server
report     timings to numbers, numbers to a JSON line
machine    what it ran on
"""
