"""What requests and replies look like: OpenAI's fields, and ours beside them.

fields.py             served, unserved, harmless, a sampler's, or unknown: each name's lot
sampling.py           the fields that both generation endpoints share
messages.py           the conversation of a chat request
tools.py              its tools, and which of them may or must be called
prompts.py            the prompt of a completions request
chat.py               the chat request
completions.py        the completions request
chat_reply.py         chat bodies and stream chunks
completions_reply.py  completions bodies and stream chunks
responses.py          the Responses request
responses_tools.py    its tools
responses_reply.py    the response object
"""
