"""One file an endpoint; `answer.py` writes what the two generation endpoints share."""
