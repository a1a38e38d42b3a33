import io

from runkit import progress


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def lines(stream):
    text = stream.getvalue()
    assert text.endswith("\n") and "\r" not in text
    return text.splitlines()


def test_a_stage_has_a_line_per_minute_and_one_at_the_end():
    clock, stream = Clock(), io.StringIO()
    with progress.Lines(
        total=100, what="C1 round 1", unit="step", clock=clock, stream=stream
    ) as bar:
        for _ in range(100):
            clock.now += 2
            bar.update()
    # after 60, 120 and 180 of 200 s, with one step every 2 s
    assert lines(stream) == [
        "progress: C1 round 1: 30 of 100 steps, 0.5 step/s, 2:20 left",
        "progress: C1 round 1: 60 of 100 steps, 0.5 step/s, 1:20 left",
        "progress: C1 round 1: 90 of 100 steps, 0.5 step/s, 0:20 left",
        "progress: C1 round 1: 100 of 100 steps, in 3:20",
    ]


def test_earlier_work_counts_in_the_number_but_not_in_the_rate():
    clock, stream = Clock(), io.StringIO()
    with progress.Lines(
        total=100, initial=50, what="a", unit="case", clock=clock, stream=stream
    ) as bar:
        clock.now += 7200
        # no case has ended: without a rate, the time left is unknown
        bar.set_postfix_str("2 refused", refresh=False)
        clock.now += 60
        bar.update(10)
    assert lines(stream) == [
        "progress: a: 50 of 100 cases, 0 case/s, 2 refused",
        "progress: a: 60 of 100 cases, 0.00138 case/s, 8:04:00 left, 2 refused",
        "progress: a: 60 of 100 cases, in 2:01:00, 2 refused",
    ]


def test_elapsed_times_have_hours_only_from_one_hour_on():
    assert [progress.elapsed(seconds) for seconds in (0, 59.6, 125, 3725)] == [
        "0:00",
        "1:00",
        "2:05",
        "1:02:05",
    ]
    assert progress.elapsed(125, unit=True) == "2:05 min"
    assert progress.elapsed(3725, unit=True) == "1:02:05 h"


def test_values_follow_the_progress():
    stream = io.StringIO()
    with progress.Lines(total=2, what="a", unit="step", clock=Clock(), stream=stream) as bar:
        bar.set_postfix({"loss": "0.5", "dice": "0.25"}, refresh=False)
        bar.update(2)
    assert lines(stream) == ["progress: a: 2 of 2 steps, in 0:00, loss=0.5, dice=0.25"]


def test_the_last_line_is_written_even_if_the_work_fails(capsys):
    assert list(progress.bar([3, 4], what="cases", unit="case")) == [3, 4]
    try:
        for _ in progress.bar(iter([5, 6]), what="endless", unit="case"):
            raise ValueError
    except ValueError:
        pass
    assert capsys.readouterr().err.splitlines() == [
        "progress: cases: 2 of 2 cases, in 0:00",
        "progress: endless: 0 cases, in 0:00",
    ]
