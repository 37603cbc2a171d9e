"""The Responses API: items in, items out, and a store that keeps them.

input_items.py   what a request says -> items, checked and with ids
messages.py      items -> the messages of a chat
prepare.py       a request and what came before it -> a generation
output_items.py  the items of an answer while they are written, each with its events
writer.py        deltas of a generation -> the response, and its events in order
framing.py       how events and errors stand on the wire
store.py         what is kept, and the promise of whoever keeps it
sqlite_file.py   one SQLite file, bounded, shared by processes
sqlite_responses.py, sqlite_conversations.py  the stores in it
background.py    responses that run on without a client
start.py         opens all of this, and closes it
"""
