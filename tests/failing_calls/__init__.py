"""Failing system calls: the n-th open, write, sync, rename, read or socket call of a program fails,
for n = 1, 2, ..., with each error that the system gives for it.

Whatever fails, a program ends with one line that names the file, or goes on by itself; nothing that
was confirmed is lost, and the same command goes on afterwards.
"""
