from runkit import markdown_tables


def test_a_table_has_a_line_per_row_and_numbers_on_the_right():
    assert markdown_tables.lines(["site", "cases#"], [["C1", "7"], ["C2", ""]]) == [
        "| site | cases |",
        "|---|---:|",
        "| C1 | 7 |",
        "| C2 |  |",
    ]


def test_a_table_without_rows_has_its_headings():
    assert markdown_tables.lines(["site"], []) == ["| site |", "|---|"]
