"""Several engines of one model in one server, and which of them is asked.

replica_set   the engines as one: asks, moves requests away from the dead, tells how each is
replica       one of them: the tokens of its open requests, and what it was asked
routing       which of them is asked: the rule and its constants
prefix_table  what an engine has probably kept of the prompts that it was asked
"""
