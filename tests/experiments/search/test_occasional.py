from experiments.search.occasional import Occasional


def test_it_works_at_once_and_then_not_before_the_time_is_over():
    now, done = [100.0], []
    page = Occasional(done.append, every_s=60.0, clock=lambda: now[0])
    for seconds, what in ((0, "a"), (59, "b"), (60, "c"), (119, "d"), (121, "e")):
        now[0] = 100.0 + seconds
        page(what)
    assert done == ["a", "c", "e"]


def test_the_time_counts_from_the_end_of_the_work():
    now, done = [0.0], []

    def slow(what):
        now[0] += 30.0
        done.append(what)

    page = Occasional(slow, every_s=60.0, clock=lambda: now[0])
    page("a")
    now[0] = 80.0
    page("b")
    now[0] = 90.0
    page("c")
    assert done == ["a", "c"]
