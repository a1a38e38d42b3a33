"""The program by which a site takes part: what it refuses before it reaches a server."""

import re

import pytest

from federated.security import provisioning
from tests.experiments.models.test_prepared_cases import SAME, make_store
from tests.experiments.programs import refused

FLAGS = ("--spacing_mm=3,3,3", "--seed=5")


def test_an_address_without_a_port_and_a_model_that_is_not_there_are_named(tmp_path):
    flags = (*FLAGS, "--kit=k", f"--site_folder={tmp_path}")
    error = refused("join", *flags, "--server=nowhere", folder=tmp_path)
    assert "--server is 'nowhere'; expected host:port" in error
    error = refused("join", *flags, "--lend=best:absent.safetensors", folder=tmp_path)
    assert "--lend has 'best:absent.safetensors'; expected name:file" in error


def test_masks_are_not_required_of_a_site_that_lends_its_model_as_it_is(tmp_path):
    flags = (*FLAGS, "--kit=k", f"--site_folder={tmp_path}", "--require_secure_aggregation")
    error = refused("join", *flags, folder=tmp_path)
    assert "cannot be combined with --lend_local: a lent model leaves this site" in error
    assert "give --nolend_local, and no --lend" in error
    error = refused("join", *flags, "--nolend_local", "--lend=a:b.safetensors", folder=tmp_path)
    assert "cannot be combined with --lend=a:b.safetensors" in error
    error = refused("join", *flags, "--num_rounds=0", folder=tmp_path)
    assert "sends no updates, so omit it" in error


def test_the_smallest_sum_of_a_site_holds_or_is_refused(tmp_path):
    flags = (*FLAGS, "--kit=k", f"--site_folder={tmp_path}")
    error = refused("join", *flags, "--min_sum_sites=1", folder=tmp_path)
    assert "--min_sum_sites is 1; expected 2 to 128, a number of sites" in error
    error = refused("join", *flags, "--min_sum_sites=4", folder=tmp_path)
    assert "--min_sum_sites=4 without --require_secure_aggregation would hold only if" in error


def test_the_kit_of_another_site_is_refused(tmp_path):
    kits = provisioning.provision(tmp_path / "kits", "localhost", ("C1",), port=8443)
    make_store(tmp_path / "cases", SAME, site="C2")
    error = refused("join", *FLAGS, f"--kit={kits / 'C1'}", f"--site_folder={tmp_path}")
    assert "belongs to site C1" in error and "to site C2; use this site's kit" in error


PERCENTILE = ("--privacy_filter=percentile", "--privacy_percentile=75")


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        (PERCENTILE, 77, r"--lend_local would let .* passed no filter.*; add --nolend_local"),
        ((*PERCENTILE, "--nolend_local", "--num_rounds=0"), 1, "--privacy_filter has no use in an"),
        (("--privacy_noise=2",), 77, r"--privacy_noise is 2\.0, but has no effect with"),
    ],
    ids=["lends", "no training", "no filter"],
)
def test_a_policy_that_cannot_hold_with_the_other_flags_is_refused_first(
    tmp_path, given, code, words
):
    flags = (*FLAGS, *given, "--kit=k", f"--site_folder={tmp_path}")
    error = refused("join", *flags, folder=tmp_path, code=code)
    assert re.search(words, error), error


HIDDEN = "--undefok=max_updates\n--max_updates=1000\n"


@pytest.mark.parametrize("program", ["doctor", "prepare"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("--max_updates=1000\n".encode("utf-16"), "line 1: unknown flag --max_updates"),
        (b"--seed=5\r\t--nolend_local", "line 2: unknown flag --nolend_local"),
        (HIDDEN.encode("utf-16"), "line 1: --undefok would leave flags without effect"),
        (HIDDEN.replace("\n", "\r").encode(), "line 1: --undefok would leave flags"),
    ],
    ids=["UTF-16", "returns", "hidden in UTF-16", "hidden by returns"],
)
def test_a_study_that_sets_what_only_the_site_decides_is_refused_before(
    tmp_path, program, content, words
):
    """Whatever the file's encoding and line ends, which hide the flags from other tools."""
    (tmp_path / "study.flags").write_bytes(content)
    error = refused(program, "--flagfile=study.flags", folder=tmp_path)
    assert error.startswith(f"study.flags, {words}")


@pytest.mark.parametrize(
    ("own", "theirs"),
    [
        ("--privacy_noise=8", "--privacy_noise=0.001"),
        ("--privacy_budget=8", "--privacy_budget=1e12"),
        ("--report_digits=2", "--report_digits=0"),
        ("--max_updates=20", "--max_updates=1000"),
        ("--nolend_local", "--lend_local"),
        ("--require_secure_aggregation", "--norequire_secure_aggregation"),
    ],
)
def test_the_flag_file_of_the_study_does_not_replace_what_the_site_has_set(tmp_path, own, theirs):
    for name, flag in (("site.flags", own), ("study.flags", theirs)):
        (tmp_path / name).write_text(flag + "\n")
    files = (f"--flagfile={tmp_path / 'site.flags'}", f"--flagfile={tmp_path / 'study.flags'}")
    flags = (*FLAGS, *files, "--kit=k", f"--site_folder={tmp_path}")
    error = refused("join", *flags, folder=tmp_path, code=77)
    name = own.partition("=")[0].removeprefix("--").removeprefix("no")
    assert f"--{name} is given 2 times, of which only the last would count" in error
