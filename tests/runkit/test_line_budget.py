from runkit.line_budget import LineBudget


def test_a_burst_passes_then_single_lines_with_the_number_omitted():
    now = [0.0]
    lines = LineBudget(burst=3, every_s=10.0, clock=lambda: now[0])
    assert [lines.take("a") for _ in range(5)] == [0, 0, 0, None, None]
    assert lines.take("b") == 0  # another kind has its own
    now[0] = 9.9
    assert lines.take("a") is None
    now[0] = 10.1
    assert lines.take("a") == 3
    now[0] = 1000.0
    assert [lines.take("a") for _ in range(4)] == [0, 0, 0, None]


def test_memory_is_bounded_for_any_number_of_kinds():
    lines = LineBudget(burst=1, clock=lambda: 0.0)
    for number in range(20_000):
        lines.take(number)
    assert len(lines._kinds) <= 10_001
