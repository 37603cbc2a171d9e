"""Tool calls in text: for each table of `llmplug.dialect` a reader and the grammar it obeys.

A reader takes over behind a start marker and gives back what stands behind the end of the calls.
`json_calls.py`, `named_calls.py`, `tagged_calls.py`, `python_calls.py` and `brace_calls.py` each
hold both for one table; `reader.py` says what they have in common.
"""
