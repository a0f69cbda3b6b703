"""How fast the server is, against what the same sockets can do without it.

`make bench` runs everything; `python -m tests.bench.report --help` has the knobs. Reading order:
`workloads`, `generator`, `echo` and `serving` (the two sides compared), `trial`, `suite`,
`report`.
"""
