"""The rules of a run as pure functions: rounds, tasks, the plan, declared labels."""
