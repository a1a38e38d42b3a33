"""Stories that once showed a fault of the product. Each must keep passing.

They are kept as values: the story of a seed changes with the way in which stories are drawn.
"""

from __future__ import annotations

from tests.simulated.story import SERVER, Story, Trouble


def _story(sites: int, *troubles: Trouble, seed: int = 0, **settings: object) -> Story:
    plain = {
        "num_rounds": 2,
        "min_num_clients": sites,
        "max_num_clients": sites,
        "cross_site_evaluation": False,
        "wait_after_min_clients_s": 0.0,
        "late_updates": "keep",
        "keep_updates": 1,
        "keep_globals": 0,
    }
    return Story(seed, ("C1", "C2", "C3")[:sites], {**plain, **settings}, troubles)


STORIES = {
    # A site that sent its scores again and again to a server whose disk was full was refused after
    # 20 times, and ended.
    "tries_on_a_full_disk": [
        _story(2, Trouble("full", SERVER, at, 4000)) for at in (602, 628, 652, 668, 675, 691)
    ],
    # A kill while a file was written left it half-written at the site for ever.
    "partial_files": [_story(2, Trouble("kill", "C1", at, 30)) for at in (36, 48, 52, 56, 96, 108)],
    # A site that was killed after its last upload kept its update after the end of the run.
    "update_after_the_end": [
        _story(3, Trouble("kill", "C1", at, 1500), min_num_clients=1) for at in (50, 54, 58, 62, 66)
    ],
    # A server that was killed, or met an error, while it closed a round kept the updates of rounds
    # before it for longer than it says.
    "kept_updates": [
        *(_story(1, Trouble("kill", SERVER, at, 30)) for at in range(368, 402)),
        *(_story(1, Trouble("full", SERVER, at, 30)) for at in range(382, 426, 4)),
    ],
    # A run that was ended without its open round kept that round's updates for ever.
    "updates_of_no_round": [
        _story(2, Trouble("late", "C2", 30), Trouble("finish", "C1", at, 1), min_num_clients=1,
               num_rounds=3, wait_after_min_clients_s=60.0)
        for at in (60, 64)
    ],
    # A line of the log that was written, but could not be synced, was taken for written and then
    # overwritten.
    "line_that_was_not_synced": [
        _story(2, Trouble("error", SERVER, at)) for at in range(652, 665)
    ],
    # A server that was killed between linking the best model and noting its number could keep a best
    # model that was not the one it named.
    "best_model_and_its_number": [
        _story(2, Trouble("kill", SERVER, at, 1), seed=580, min_num_clients=1, num_rounds=3)
        for at in range(615, 639, 2)
    ],
    # A transaction that could be neither committed nor rolled back stayed open: the server confirmed
    # what it read in it, and could begin no other.
    "abandoned_transaction": [
        _story(2, Trouble("error", SERVER, at), Trouble("error", SERVER, at + 1), num_rounds=1)
        for at in (105, 125, 191, 208, 266, 297, 335, 440, 461, 518, 543, 561)
    ],
}  # fmt: skip
