"""Does a server withstand what others were felled by? Attacks, to be run against any server.

attacks.py    what an attack is
attacker.py   sends what ought to be refused, and holds each answer against what is promised
canary.py     a stream that runs beside every attack, and must say what it says alone
leftovers.py  what must be there after an attack: readiness; and what must not: state, memory
numbers.py, token_ids.py, prompts.py, texts.py, bodies.py, wire.py, forms.py, templates.py,
media.py, uploads.py, combinations.py, doors.py, crowds.py   the attacks
run.py        runs them all
"""
