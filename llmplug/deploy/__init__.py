"""A config as an application of Ray Serve: `llmplug deploy`. Ray schedules, this room forwards.

Each replica is one whole server, `llmplug serve` as a child process that listens on loopback, so
that whatever a server does it does here too. In front of them an ingress passes requests on, byte
for byte, both ways. Which replica gets a request, how many there are, where they run, whether they
are well and how they are replaced is Ray's to do, by what this room tells it.

cluster.py     a Ray cluster that is there, or one on this machine; deploy to it, remove from it
application.py a config -> the two deployments and what Ray is to know about them
builder.py     the same for a RayService, which has Ray itself read the config
needs.py       what one server takes of each of its nodes, and of requests
ingress.py     HTTP as Ray's proxies hand it on -> a replica -> HTTP
replica.py     one server, its health and its load, as Ray asks for them
server.py      that server's process
group.py       where the ranks of a server of several nodes meet, and whether all nodes are there
rank_host.py   the ranks of another node than the server's: an actor of Ray
guarded.py     what a process of ours is started with, watched and ended by
source.py      the config that servers are started with, without what is Ray's
ports.py       ports for those that listen only later
guard.py       ends a process whose starter is gone; a program of its own
refusals.py    what an ingress says itself, in the protocol of a path
messages.py    what goes between ingress and replica
prefixes.py    what a prompt begins with, and who has seen that
router.py      which replica is asked, by prefix and load: Ray Serve's request router
scaling.py     how many replicas there should be: Ray Serve's autoscaling policy
plugin_lists.py  plugins of each node, and how they differ

Only this room imports ray.
"""
