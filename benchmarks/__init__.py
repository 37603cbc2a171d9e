"""Measurements: `python -m benchmarks.serve` measures servers from outside, over HTTP.

workload   prompts, the same for the same seed
client     requests and their timings, in processes of their own
target     the servers of the command line: ours, variants of it, peers
server     start, wait until ready, ask what it is, stop
processes  memory and processor time of a server's processes
session    what is done with one server: warm it up, measure it, watch it idle
probe      what the machine can do: bandwidth, matrix products
cost       what the model asks of it, and so the limit that no server passes
report     timings to numbers; defines them
compare    ours / theirs
machine    what it ran on

embeddings how fast texts are embedded, beside sentence-transformers (encode_peer)
structured what holding answers to a form costs

overload   what a server does when asked for more than it can do
soak/      whether all goes well for minutes while processes are killed (make soak)

quality    what a weight format costs in quality, without a server
samplers   what sampling alone costs, without a server
cpu_kernels   what the kernels alone reach
gpu/       programs for a machine with an NVIDIA GPU (make test-gpu bench-gpu)

results    the printed lines, read again
table      ... as markdown
plot       ... as a picture
"""
