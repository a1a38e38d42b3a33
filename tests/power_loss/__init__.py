"""Power cuts: a program's writes to the disk are recorded, and replayed up to a simulated cut.

From the recording, every state that a cut can leave is built, and the program is restarted on each.
A kill leaves the page cache intact, so it cannot reveal a missing sync. Here, only synced data
survive for certain, and any part of the rest.
"""
