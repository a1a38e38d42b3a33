"""Protection of a server's port: limits per caller, queues, pacing of logins, error replies."""
