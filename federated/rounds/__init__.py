"""The rules of a run as pure functions: rounds, tasks, the plan, what sites declare. No files, no
sockets, no clock.
"""
