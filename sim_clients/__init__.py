"""The light side of the policy server: what a simulator needs, and nothing else.

Importing this package loads numpy, pyzmq and msgpack only.
"""
