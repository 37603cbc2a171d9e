"""The engine: continuous batching of token sequences over one model, in a process of its own.

settings.py     the numbers an engine is built with
limits.py       what a request may ask for; checked once, behind every frontend
ranges.py       what a number, a text or a token id may be
sequence.py     one sequence: its tokens, its pages, when it ends
block_pool.py   pages of the KV cache: who uses them, which prefix they hold
scheduler.py    which sequences get how many tokens in the next step
batch.py        a schedule as tensors
runner.py       the caches and the model's forward pass
sample.py       the sampler chain: logits -> token ids
sampler_choice.py which samplers run for a request, in which order
fuse_samplers.py one sampler in the place of several
token_bans.py   what a request forbids: tokens, sequences of tokens
beam.py         beam search: which beams go on, which answers are done
beam_group.py   the sequences of one beam search, which wait for each other
beam_candidates.py what a beam offers
beam_limits.py  what a request for beams may ask for
grammar_masks.py which tokens may come next, where an answer is held to a grammar
logprobs.py     log-probabilities for those who ask
engine.py       the loop: schedule -> run -> sample -> record
loading.py      a checkpoint's tensors -> a model's weights
worker.py       the engine's process
process.py      one run of that process, seen from its parent
client.py       requests in, deltas out; starts the process again when it dies
"""
