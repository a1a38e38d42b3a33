"""Failing system calls.

The n-th open, write, sync, rename, read or socket call of a program fails, for n = 1, 2, ..., with
each error that the system can give for it. Whatever fails, the program ends with one line that
names the file, or recovers by itself; nothing that was confirmed is lost, and the same command
resumes afterwards.
"""
