"""The HTTP server: the OpenAI API over engines that run as child processes.

app.py         create_app wires routes, signals and errors; serve runs it
lifecycle.py   signals of the process: go red, drain, end what is left, stop the engines
service.py     the models that are served; the only place that ties text to an engine
generation.py  one request while it runs: token deltas in, text deltas out
admission.py   how many requests may wait
gate.py        what happens before a handler runs: request id, key, body
auth.py        who may call what
body.py        bytes -> JSON -> checked fields
sse.py         server-sent events with exactly one terminal event
errors.py      every exception -> status and OpenAI's error body
metrics.py     Prometheus
record.py      one access-log line a request
schema/        what requests and replies look like
routes/        one file an endpoint
"""
