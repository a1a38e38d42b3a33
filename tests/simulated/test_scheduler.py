"""Events happen in the order of their time, in whichever thread they happen."""

import pytest

from tests.simulated.scheduler import Blocking, Killed, Scheduler


class Told:
    """A schedule and programs that wait; `lines` is what happened, with the time."""

    def __init__(self):
        self.schedule, self.lines, self.endings = Scheduler(), [], {}

    def tell(self, what):
        self.lines.append((self.schedule.now, what))

    def program(self, name, pauses):
        def work():
            for seconds in pauses:
                self.tell(f"{name} waits")
                program.block(lambda answer, s=seconds: self.schedule.after(s, answer))
            self.tell(f"{name} ends")

        def ended(error):
            self.endings[name] = error

        program = Blocking(self.schedule, work, ended)
        self.schedule.after(0.0, program.begin)
        return program


def test_programs_and_events_take_turns_in_the_order_of_time():
    told = Told()
    told.program("a", [2.0, 2.0])
    told.program("b", [3.0])
    for at in (1.0, 2.5, 3.5):
        told.schedule.at(at, lambda: told.tell("event"))
    told.schedule.run(10.0)
    assert told.lines == [
        (0.0, "a waits"),
        (0.0, "b waits"),
        (1.0, "event"),
        (2.0, "a waits"),
        (2.5, "event"),
        (3.0, "b ends"),
        (3.5, "event"),
        (4.0, "a ends"),
    ]
    assert told.endings == {"a": None, "b": None} and told.schedule.now == 10.0


def test_an_event_may_let_time_pass_while_programs_go_on():
    told = Told()
    told.program("a", [1.0, 1.0, 1.0])

    def slow():
        told.tell("slow begins")
        told.schedule.run(told.schedule.now + 2.0)
        told.tell("slow ends")

    told.schedule.at(0.5, slow, lambda: True)
    told.schedule.run(10.0)
    assert [what for _, what in told.lines] == [
        "a waits",
        "slow begins",
        "a waits",
        "a waits",
        "slow ends",
        "a ends",
    ]


def test_time_stops_where_it_should_although_a_program_waits():
    told, over = Told(), []
    told.program("a", [5.0])
    told.schedule.at(1.0, lambda: over.append(1))
    told.schedule.at(2.0, lambda: told.tell("too late"))
    told.schedule.run(10.0, lambda: bool(over))
    assert told.schedule.now == 1.0 and told.lines == [(0.0, "a waits")]
    told.schedule.run(1.5)
    assert told.schedule.now == 1.5 and len(told.lines) == 1


def test_an_error_of_an_event_is_raised_where_the_schedule_is_run():
    told = Told()
    program = told.program("a", [5.0])

    def fail():
        raise ValueError("the harness is wrong")

    told.schedule.at(1.0, fail)
    with pytest.raises(ValueError, match="the harness is wrong"):
        told.schedule.run(10.0)
    told.schedule.run(10.0)
    assert told.endings == {"a": None} and not program.dead


def test_a_program_that_is_killed_ends_where_it_waits():
    told = Told()
    program = told.program("a", [5.0])
    told.schedule.at(1.0, program.kill)
    told.schedule.run(10.0)
    assert told.lines == [(0.0, "a waits")] and isinstance(told.endings["a"], Killed)
    second = told.program("b", [5.0])
    told.schedule.run(11.0)
    second.kill()  # from outside, as at the end of a story
    told.schedule.settle()
    assert isinstance(told.endings["b"], Killed)
