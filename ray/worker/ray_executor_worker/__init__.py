"""The Ray worker of ray-executor.

It runs as a Ray Serve application on the cluster, pulls deliberations from the
journal (NATS JetStream), asks the agents' models, and writes what happened
back. Where to start reading:

- ``app``: what Serve deploys
- ``worker``: one replica, from start to hand-back
- ``held``: what it holds, from delivery to acknowledgement
- ``puller``: how work arrives
- ``slots``: how many agents a replica has in flight, and who waits
- ``deliberation``: one deliberation: its ``claim``, its ``agents``, its ``ending``
- ``journal``: the compare-and-set that decides every race; ``objects``: large payloads
- ``prompts``: what each agent is asked, and what is too large
- ``answers``: what agents answered, and how much of it stays in memory
- ``model``: one agent's call
- ``endpoint``: one model server: its breaker, its budget of retries
"""
