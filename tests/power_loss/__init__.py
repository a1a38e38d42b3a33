"""Power cuts: what a program leaves on the disk is recorded, every state that a cut can leave is
made of it, and the program is started again on each.

A kill leaves the page cache, so it cannot show a missing sync. Here nothing survives but what was
synced, and any part of the rest.
"""
