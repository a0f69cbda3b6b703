"""What a client in any language checks itself against.

`frames.json`: golden frames, bytes beside their meaning. `peer`: a small scripted server.
`python -m sim_clients.conformance` writes the frames anew; `--check` compares them only.
"""
