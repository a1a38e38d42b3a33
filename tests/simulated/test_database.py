"""The stand-in gives what SQLite gives, whatever is asked and changed before."""

import random
import sqlite3

import pytest

from tests.simulated import database

SCRIPT = """
CREATE TABLE IF NOT EXISTS sites (name TEXT PRIMARY KEY, cases INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS scores (model INTEGER NOT NULL, site TEXT NOT NULL);
"""
QUESTIONS = (
    "SELECT name, cases FROM sites ORDER BY name",
    "SELECT model, site FROM scores ORDER BY rowid",
    "SELECT name FROM sites WHERE EXISTS (SELECT 1 FROM scores WHERE site = name) ORDER BY name",
)


def _step(draw):
    """Returns a statement and its values, for one of both tables or a transaction."""
    site = draw.choice("abc")
    return draw.choice(
        [
            ("INSERT OR REPLACE INTO sites VALUES (?, ?)", (site, draw.randint(1, 9))),
            ("DELETE FROM sites WHERE name = ?", (site,)),
            ("INSERT INTO scores VALUES (?, ?)", (draw.randint(1, 3), site)),
            ("DELETE FROM scores WHERE rowid = (SELECT MAX(rowid) FROM scores)", ()),
            *[(word, ()) for word in ("BEGIN", "COMMIT", "ROLLBACK")],
        ]
    )


@pytest.mark.parametrize("seed", range(5))
def test_answers_are_those_of_sqlite_after_any_changes(seed):
    draw, real = random.Random(seed), sqlite3.connect(":memory:", isolation_level=None)
    real.executescript(SCRIPT)
    databases = database.Databases(lambda machine, kind: None)
    mine = databases.connect("run.sqlite")
    mine.executescript(SCRIPT)
    for _ in range(300):
        statement, values = _step(draw)
        if statement == "BEGIN" if real.in_transaction else statement in ("COMMIT", "ROLLBACK"):
            continue  # neither begins twice nor ends what has not begun
        real.execute(statement, values)
        mine.execute(statement, values)
        for question in draw.sample(QUESTIONS, 2):
            wanted = real.execute(question).fetchall()
            assert mine.execute(question).fetchall() == wanted
            assert mine.execute(question).fetchone() == (wanted[0] if wanted else None)
        if draw.random() < 0.05:  # killed, and started again
            if real.in_transaction:
                real.execute("ROLLBACK")
            mine = databases.connect("run.sqlite")
            mine.executescript(SCRIPT)
    databases.close()
    real.close()
    again = database.Databases(lambda machine, kind: None).connect("run.sqlite")
    again.executescript(SCRIPT)
    assert [again.execute(question).fetchall() for question in QUESTIONS] == [[], [], []]


def test_a_database_with_further_tables_is_not_used_again():
    databases = database.Databases(lambda machine, kind: None)
    mine = databases.connect("run.sqlite")
    mine.executescript(SCRIPT)
    mine.execute("CREATE TABLE further (number INTEGER)")
    databases.close()
    again = database.Databases(lambda machine, kind: None).connect("run.sqlite")
    again.executescript(SCRIPT)
    with pytest.raises(sqlite3.OperationalError, match="further"):
        again.execute("SELECT number FROM further")


def test_a_database_that_is_used_again_has_the_tables_of_its_own_script_alone():
    databases = database.Databases(lambda machine, kind: None)
    databases.connect("run.sqlite").executescript(SCRIPT)
    databases.close()
    again = databases.connect("run.sqlite")
    again.executescript("CREATE TABLE IF NOT EXISTS scores (one INTEGER, two INTEGER, three TEXT);")
    again.execute("INSERT INTO scores VALUES (?, ?, ?)", (1, 2, "c"))
    assert again.execute("SELECT * FROM scores").fetchall() == [(1, 2, "c")]
    names = again.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    assert [name for (name,) in names] == ["scores"]
