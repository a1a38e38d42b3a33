"""Flag files: encodings, order, and errors in a file with their place."""

import codecs
import pathlib

import pytest
from absl import flags

from experiments import flag_files
from tests.experiments.programs import run

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_flag_file_is_read_in_the_encoding_that_it_names(tmp_path, encoding):
    (tmp_path / "study.flags").write_text(
        "# größe\n\n--site=C1\n// a comment\n--output=made\n--cases=1\n--quux\n", encoding=encoding
    )
    done = run("synthesize", "--flagfile=study.flags", folder=tmp_path)
    assert done.returncode == 1 and done.stderr.splitlines() == [
        "error: study.flags, line 7: unknown flag --quux (--help lists the flags)"
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("--cases=1\n--filtres=8\n", "study.flags, line 2: unknown flag --filtres"),
        ("--case=1\n", "study.flags, line 1: unknown flag --case; did you mean --cases?"),
        ("--cases=some\n", "study.flags, line 1: --cases is 'some': "),
        (
            "--flagfile=study.flags\n",
            "study.flags, line 1: --flagfile=study.flags: this flag file includes itself",
        ),
        (
            "--flagfile=absent.flags\n",
            "study.flags, line 1: --flagfile=absent.flags: cannot be read (No such file or directory)",
        ),
        ("cases=1\n", "study.flags, line 1: 'cases=1' is not a flag; write --cases=1"),
        ("\n8 cases\n", "study.flags, line 2: '8 cases' is not a flag; each line of a flag file"),
        *(
            (
                f"{dash}cases=1\n",
                f"study.flags, line 1: '{dash}cases=1' begins with a dash that is not a hyphen; "
                "write --cases=1",
            )
            for dash in ("\u2013-", "\u2014", "\u2212\u2212")
        ),
        ("--undefok=case\n--case=1\n", "study.flags, line 1: --undefok would leave flags without"),
        (
            "--cases=1\n".encode("utf-16-le"),
            "--flagfile=study.flags: contains zero bytes, perhaps UTF-16",
        ),
        ("--output=gr\xf6\xdfe\n".encode("latin-1"), "--flagfile=study.flags: is not UTF-8"),
        (codecs.BOM_UTF16_LE + b"-", "--flagfile=study.flags: is not UTF-16"),
    ],
)
def test_what_is_wrong_in_a_flag_file_is_named_with_its_place(tmp_path, content, words):
    (tmp_path / "study.flags").write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )
    done = run("synthesize", "--flagfile=study.flags", folder=tmp_path)
    assert (
        done.returncode == 1
        and done.stderr.startswith(f"error: {words}")
        and done.stderr.count("\n") == 1
    ), done.stderr


@pytest.mark.parametrize(
    ("name", "words"), [("absent.flags", "No such file"), (".", "Is a directory")]
)
def test_a_flag_file_that_is_not_there(tmp_path, name, words):
    done = run("synthesize", f"--flagfile={name}", folder=tmp_path)
    assert (
        done.returncode == 1
        and f"error: --flagfile={name}: cannot be read ({words}" in done.stderr
        and done.stderr.count("\n") == 1
    )


def test_all_flag_files_are_found_also_those_within_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("inner.flags").write_text("--cases=1\n")
    pathlib.Path("outer, line 2.flags").write_text("# first\n--flagfile=inner.flags\n--site=C1\n")
    found = flag_files.files(["--seed=1", "--flagfile=outer, line 2.flags", "--cases=2"])
    assert found == ["inner.flags", "outer, line 2.flags"]
    assert flag_files.files(["--seed=1"]) == []


def test_flags_count_in_their_order_wherever_they_stand(tmp_path):
    (tmp_path / "inner.flags").write_text("--cases=1\n")
    (tmp_path / "outer.flags").write_text("--cases=2\n--flagfile=inner.flags\n")
    for given, cases in (
        (["--cases=-3", "--flagfile=outer.flags"], None),
        (["--flagfile", "outer.flags", "--cases=-4"], -4),
    ):
        done = run("synthesize", *given, "--output=made", "--site=C1", folder=tmp_path)
        assert done.returncode == (0 if cases is None else 1), done.stderr
        assert cases is None or str(cases) in done.stderr
    assert len(list((tmp_path / "made").glob("**/*.nii.gz"))) == 2  # one scan and its label


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--count=many", "--count is 'many': expected a whole number"),
        ("--count=2.5", "--count is '2.5': expected a whole number"),
        ("--count=", "--count is '': expected a whole number"),
        ("--count=0", "--count is '0': "),  # absl's words about the bound follow
        ("--share=1,5", "--share is '1,5': expected a number"),
        ("--share=nan", "--share is 'nan'; expected a number"),
        ("--share=-NaN", "--share is 'nan'; expected a number"),
        ("--fast=yess", "--fast is 'yess': expected true or false"),
        ("--kind=c", "--kind is 'c': value should be one of <a|b>"),
    ],
)
def test_a_value_of_another_type_is_refused_in_plain_words(argument, words):
    values = flags.FlagValues()
    flags.DEFINE_integer("count", 1, "How many.", lower_bound=1, flag_values=values)
    flags.DEFINE_float("share", 0.5, "How much.", flag_values=values)
    flags.DEFINE_bool("fast", False, "Whether.", flag_values=values)
    flags.DEFINE_enum("kind", "a", ["a", "b"], "Which.", flag_values=values)
    with pytest.raises(flag_files.WrongFlags) as caught:
        flag_files.parse(values, ["program", argument])
    said = str(caught.value)
    assert said.startswith(words) and "literal" not in said and "convert" not in said
