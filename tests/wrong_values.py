"""Puts values of every kind at every place of a JSON value, as a wrong or hostile file might."""

import copy

VALUES = (
    None, True, -1, 0, 5, 1.5, float("inf"), float("nan"), 10**30, 10**400, "", "text", "../up", "a\nb",
    "x" * 5000, [], ["a"], [1, 2], [[1]], {}, {"a": 1}, {"a": "b"},
)  # fmt: skip


def places(value, path=()):
    """Yields the path of every value inside a JSON value."""
    if isinstance(value, dict):
        entries = value.items()
    elif isinstance(value, list):
        entries = enumerate(value)
    else:
        return
    for key, content in entries:
        yield (*path, key)
        yield from places(content, (*path, key))


def replaced(base, path):
    """Yields copies of a JSON value, each with another value at `path`."""
    for value in VALUES:
        content = copy.deepcopy(base)
        place = content
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        yield content


def named(path):
    """Returns a path as the name of a test."""
    return ".".join(map(str, path))
