"""Files and batches: many requests in a file, answered below whoever waits for an answer.

lines.py       lines of an input file, checked
dispatch.py    one line -> the route that answers it, and what that answered
tables.py      the database that remembers files, batches and answered lines
file_store.py  files: what they hold lies on disk
batch_store.py batches and the answers to their lines
objects.py     OpenAI's file and batch objects
runs.py        batches while they run
server_lock.py which servers live, of those that share a folder
offline.py     the same without a server: from file to file
start.py       opens all of this, and closes it
"""
