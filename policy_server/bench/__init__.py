"""How fast the server is on this machine, against what the machine can do without it.

`policy-server bench` is the command. Reading order: `plan` and `suite` (what is run), `figure`
(what comes out), `workloads`, `generator`, `echo`, `serving`, `child` and `trial` (one
measurement), then a file for each kind of work: `exchange`, `slow_simulators`, `learning`,
`updates`, `publication`, `curve`. What people see of it: `table`, `picture`, `document`.

Nothing else in the package knows this room.
"""
