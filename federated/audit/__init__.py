"""The server's log as a hash chain, and the verification of everything that a finished run left
behind.
"""
