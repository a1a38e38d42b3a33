"""A sample of the stories that `python -m tests.simulated` plays."""

import dataclasses

import pytest

from tests.simulated import found, planted, playing
from tests.simulated.story import SERVER, Story, Trouble, of_seed, shrunk


@pytest.fixture(scope="module")
def play():
    with playing.playing() as play:
        yield play


def test_everything_holds_in_a_sample_of_stories(play):
    failures = [failure for failure in playing.failures(play, range(20)) if failure]
    assert not failures, "\n".join(map(str, failures))


@pytest.mark.parametrize("name", found.STORIES)
def test_a_fault_that_was_mended_stays_mended(play, name):
    failures = [failure for story in found.STORIES[name] if (failure := play(story))]
    assert not failures, "\n".join(map(str, failures))


@pytest.mark.parametrize(
    ("fault", "stories", "shown"),
    [
        ("lost_receipt", [of_seed(0)], "lost receipt"),
        ("equal_weights", [of_seed(0)], "wrong weights"),
        ("leaked_descriptors", [of_seed(0)], "leaked descriptors"),
        ("leaked_partial_files", found.STORIES["partial_files"], "leaked files at site"),
        ("believes_the_record", found.STORIES["best_model_and_its_number"], "audit fails"),
        ("unsynced_line", found.STORIES["line_that_was_not_synced"], "audit fails"),
    ],
)
def test_a_planted_fault_is_found(fault, stories, shown):
    with playing.playing(fault) as play:
        assert any(shown in failure.what for story in stories if (failure := play(story)))


def test_a_seed_gives_the_same_story_and_the_same_failure_again():
    assert of_seed(4711) == of_seed(4711) != dataclasses.replace(of_seed(4712), seed=4711)
    with playing.playing("equal_weights") as play:
        first, second = play(of_seed(0)), play(of_seed(0))
    assert first is not None and second is not None and first.what == second.what


def test_no_trouble_comes_while_the_harness_looks_at_the_store(play):
    """At the end of a run nothing but the harness reads: an error there is none of the product's."""
    plain = found.STORIES["kept_updates"][0]
    calm = dataclasses.replace(plain, troubles=(), settings={**plain.settings, "num_rounds": 1})
    for at in range(363, 375):
        failure = play(dataclasses.replace(calm, troubles=(Trouble("error", SERVER, at),)))
        assert failure is None, failure


def test_a_site_is_readmitted_though_the_server_was_killed_while_it_evicted_it(play):
    calm = dataclasses.replace(found.STORIES["kept_updates"][0], seed=304829, sites=("C1", "C2"))
    some = {"num_rounds": 1, "max_num_clients": 2, "wait_after_min_clients_s": 600.0}
    settings = {**calm.settings, **some, "late_updates": "discard"}
    order = Trouble("evict", "C2", 15, 300)
    for at in range(226, 234):
        troubles = (Trouble("slow", "C1", 2, 300), order, Trouble("kill", SERVER, at, 1500))
        failure = play(dataclasses.replace(calm, settings=settings, troubles=troubles))
        assert failure is None, failure


def test_a_story_shrinks_to_what_is_needed():
    wanted = Trouble("kill", SERVER, 17, 30)
    others = tuple(Trouble("slow", site, 3, 30) for site in ("C1", "C2", "C3"))
    story = Story(
        1,
        ("C1", "C2", "C3"),
        {"num_rounds": 3, "min_num_clients": 3, "max_num_clients": 3, "late_updates": "keep"},
        (*others[:2], wanted, others[2]),
    )
    simple = shrunk(story, lambda story: wanted in story.troubles)
    assert simple.troubles == (wanted,) and simple.sites == ("C1",)
    assert simple.settings["num_rounds"] == 1 and simple.settings["late_updates"] == "discard"


def test_at_least_twenty_classes_of_faults_are_planted():
    assert len(planted.FAULTS) >= 20
