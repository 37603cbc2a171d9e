"""One model on several ranks: processes that each hold a part of every layer.

messages.py        what rank 0 tells the others, and they tell it
link.py            how: a pair of sockets that nobody else can open
group.py           rank 0: starts the others, watches them, ends with them
leading_runner.py  rank 0: tells them of each call of the model before it is made
follow.py          the others: make the same calls
collective.py      what all ranks sum and gather, over torch.distributed

Rank 0 is the engine's process: it schedules, samples and talks to the server as any engine does.
"""
