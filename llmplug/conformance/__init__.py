"""Does a server keep to OpenAI's API? Checks to be run against any server, ours or another.

target.py     the server that is tried: requests and event streams, with the standard library alone
checks.py     what a check is, and how it says what it saw
models.py, chat.py, streams.py, completions.py, tools.py, errors.py, others.py   the checks
run.py        runs them all
"""
