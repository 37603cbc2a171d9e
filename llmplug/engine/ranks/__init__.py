"""One model on several ranks: processes that each hold a part of every layer.

messages.py        what rank 0 tells the others, and they tell it
link.py            how: two ends of a connection, whole messages
network.py         links between machines: who may have one
seal.py            what shows that a message on such a link is from its other end
group.py           rank 0: starts the others or lets them in, watches them, ends with them
leading_runner.py  rank 0: tells them of each call of the model before it is made
follow.py          the others: make the same calls
collective.py      what all ranks sum and gather, over torch.distributed
store_link.py      how ranks of other machines find the rest for that

Rank 0 is the engine's process: it schedules, samples and talks to the server as any engine does.
"""
