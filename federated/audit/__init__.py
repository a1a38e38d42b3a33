"""The server's log as a hash chain, and the verification of what a run left behind."""
