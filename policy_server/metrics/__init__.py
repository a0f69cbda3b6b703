"""Numbers about a run: gathered, written down, read back, drawn.

Reading order: `run_dir` (the folder), `recorder` (records to sinks), `history` (records read
back), `plot` (one picture), `progress` (from reports to the numbers that are recorded).
"""
