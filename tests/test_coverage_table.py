from tests import coverage_table


def report(*, branches):
    summary = {"covered_lines": 3, "num_statements": 4, "covered_branches": 1, "num_branches": 2}
    whole = {"covered_lines": 2, "num_statements": 2, "covered_branches": 0, "num_branches": 0}
    return {
        "meta": {"branch_coverage": branches},
        "files": {
            "runkit/b.py": {"summary": whole, "missing_lines": [], "missing_branches": []},
            "c2fnas/a.py": {
                "summary": summary,
                "missing_lines": [3, 4, 5, 9],
                "missing_branches": [[8, 9]],
            },
            "c2fnas/scores/a.py": {
                "summary": {**summary, "covered_lines": 4},
                "missing_lines": [],
                "missing_branches": [],
            },
        },
    }


def test_one_line_per_package():
    lines = [line.split() for line in coverage_table.table(report(branches=True))]
    assert lines == [
        ["coverage", "lines", "branches"],
        ["c2fnas", "87.5", "%", "of", "8", "50.0", "%", "of", "4"],
        ["runkit", "100.0", "%", "of", "2", "-"],
        ["all", "90.0", "%", "of", "10", "50.0", "%", "of", "4"],
    ]
    assert "branches" not in "".join(coverage_table.table(report(branches=False)))


def test_what_is_missing_of_each_file():
    assert coverage_table.files(report(branches=True)) == [
        "c2fnas/a.py: lines 3-5, 9; branches 8->9"
    ]
