"""Of `policy_server.bench`: its parts, and (marked `bench`) that nothing is lost under load."""
