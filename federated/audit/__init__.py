"""The server's log as a hash chain, and the verification of a run's log and store."""
