"""The HTTP server: the OpenAI API over engines that run as child processes.

app.py         create_app wires routes, signals and errors; serve runs it
supervisor.py  the process that stays: it keeps the socket, and starts the HTTP process again
listener.py    the listening socket, which may be older than the process
lifecycle.py   signals of the process: go red, drain, end what is left, stop the engines
service.py     the models that are served, and the lives of their engines
model_service.py  one of them; the only place that ties text to an engine
missing_model.py  one that is in the config and cannot be served
on_demand.py   an engine that a request wakes and silence lets fall asleep
prepare_chat.py  from a checked chat request to a generation
thinking.py    what a request asks of a model's thinking
grammar_check.py  whether an answer can be held to a grammar, before it is admitted
grammar_process.py  the process that finds out
generation.py  one request while it runs: token deltas in, deltas of its reply out
choice_text.py one choice of it: ids to text, stop strings, finish reason
channel_text.py  text to content, thinking and tool calls, by the model's dialect
content_tokens.py  which tokens are content, for log-probabilities
deltas.py      what is new in a reply
admission.py   how many requests may wait
slow_bytes.py  what comes byte by byte has as long as what comes at once
gate.py        what happens before a handler runs: request id, key, body
auth.py        who may call what
form.py        the parts of an uploaded form
body.py        bytes -> JSON -> checked fields
sse.py         server-sent events with exactly one terminal event
errors.py      every exception -> status and OpenAI's error body
metrics.py     Prometheus
open_requests.py  gauges of what requests take while they are worked on
record.py      one access-log line a request
batches/       files, and batches of requests in them, with and without a server
responses/     what the Responses API needs beside the rest: items, events, a store
schema/        what requests and replies look like
routes/        one file an endpoint
"""
