"""Anthropic's Messages: their requests as chats, their replies, their errors.

request.py   the fields of a request, and the chat request that asks for the same
blocks.py    messages made of blocks -> the messages of a chat
reply.py     deltas of a generation -> content blocks, their events, the message
framing.py   errors and signs of life on the wire
"""
