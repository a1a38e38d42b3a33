import json
import os

import numpy as np
import pytest

from federated import errors
from federated.site import journal as journals
from federated.site.journal import Journal, PendingUpdate
from federated.tensors import tensor_files
from tests.federated import manifests

ARRAYS = {"w": np.array([1.0, 2.0], np.float32)}


def test_everything_is_there_again_after_a_restart(tmp_path):
    journal = Journal(tmp_path)
    journal.enter("run 1")
    journal.keep_scores(0, {"dice": 0.5})
    journal.keep_update(1, ARRAYS, 30, {"loss": 0.25})
    journal.keep_published("C1_baseline", "ab")
    journal.keep_rows("FL_global", [{"case": 1}])
    again = Journal(tmp_path)
    again.enter("run 1")
    assert again.scores(0) == {"dice": 0.5} and again.scores(1) is None
    assert again.update == PendingUpdate(1, 30, {"loss": 0.25}, manifests.digest(ARRAYS))
    np.testing.assert_array_equal(tensor_files.load(again.update_path)[0]["w"], ARRAYS["w"])
    assert again.published == {"C1_baseline": "ab"} and not again.declared and not again.finished
    assert again.rows("FL_global") == [{"case": 1}] and again.rows("C1_baseline") is None


def test_a_run_does_not_continue_without_the_files_that_count_what_was_given_away(tmp_path):
    journal = Journal(tmp_path)
    for name in ("answers.json", "masking.json"):
        (tmp_path / name).write_text("{}")
        journal.keep_record(name)
    Journal(tmp_path).check_records()
    journal.go_back(1, 1)
    (tmp_path / "masking.json").unlink()
    with pytest.raises(
        errors.PolicyRefused, match=r"masking\.json: is missing.*put back the file itself"
    ):
        Journal(tmp_path).check_records()


def test_the_journal_stays_small_in_a_run_of_many_rounds(tmp_path):
    journal, sizes = Journal(tmp_path), []
    for number in range(1000, 1100):
        journal.keep_scores(number, {"dice": 0.5})
        sizes.append((tmp_path / "journal.json").stat().st_size)
    assert sizes[-1] == sizes[15] > sizes[14]
    again = Journal(tmp_path)
    assert again.scores(1099) == again.scores(1084) == {"dice": 0.5} and again.scores(1083) is None


def test_a_delivered_update_leaves_nothing(tmp_path):
    journal = Journal(tmp_path)
    journal.keep_update(1, ARRAYS, 30, {})
    journal.drop_update()
    assert Journal(tmp_path).update is None and not journal.update_path.exists()


def test_an_update_that_a_kill_left_half_replaced_does_not_count(tmp_path, monkeypatch):
    journal = Journal(tmp_path)
    journal.keep_update(1, ARRAYS, 30, {})

    save = tensor_files.save_as

    def killed(path, arrays, metadata, **how):
        save(path, arrays, metadata, **how)
        raise KeyboardInterrupt

    monkeypatch.setattr(tensor_files, "save_as", killed)
    with pytest.raises(KeyboardInterrupt):
        journal.keep_update(2, {"w": ARRAYS["w"] + 1}, 30, {})
    assert Journal(tmp_path).update is None  # the file is of round 2, the note of round 1


def test_an_update_is_on_disk_once_it_is_durable(tmp_path, monkeypatch):
    synced, sync = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda file: (sync(file), synced.append(os.fstat(file).st_ino))
    )
    journal = Journal(tmp_path)
    journal.keep_update(1, ARRAYS, 30, {})
    journal.wait_until_durable()
    assert {journal.update_path.stat().st_ino, tmp_path.stat().st_ino} <= set(synced)


def test_what_a_killed_process_did_not_sync_is_synced_before_it_counts(tmp_path, monkeypatch):
    """Beside the journal lies the count of answers, which a model is used only after."""
    synced = []
    monkeypatch.setattr(journals.atomic, "sync_directory", synced.append)
    journal = Journal(tmp_path)
    assert synced == []
    journal.keep_scores(1, {"dice": 0.5})
    Journal(tmp_path)
    assert synced == [tmp_path]


def test_an_update_that_a_power_cut_corrupted_is_forgotten(tmp_path):
    journal = Journal(tmp_path)
    journal.keep_update(1, ARRAYS, 30, {})
    journal.wait_until_durable()
    size = journal.update_path.stat().st_size
    os.truncate(journal.update_path, size - 4)
    os.truncate(journal.update_path, size)  # the end is zeros now, as where the disk never got it
    assert Journal(tmp_path).update is None


def test_a_confirmed_update_is_removed_and_the_received_model_stays(tmp_path):
    journal = Journal(tmp_path)
    journal.incoming_path.write_bytes(b"the model it was trained from")
    journal.keep_update(1, ARRAYS, 30, {})
    journal.release_update()
    assert journal.update is None and journal.incoming_path.exists()
    again = Journal(tmp_path)
    assert again.update is None and not again.update_path.exists()


def test_a_folder_belongs_to_one_run(tmp_path):
    Journal(tmp_path).enter("run 1")
    with pytest.raises(
        errors.DifferentRun, match="belongs to run run 1; the server leads run run 2"
    ):
        Journal(tmp_path).enter("run 2")


def test_a_folder_belongs_to_one_federation_even_if_an_earlier_release_began_it(tmp_path):
    earlier = {
        "run": "run 1",
        "trained": 1,
        "scores": {},
        "update": None,
        "published": {},
        "rows": {},
        "declared": False,
    }
    (tmp_path / "journal.json").write_text(
        json.dumps({**earlier, "reported": False, "finished": False})
    )
    Journal(tmp_path).enter(
        "run 1", "ab" * 32
    )  # it takes the authority of the run that it continues
    again = Journal(tmp_path)
    assert (again.run, again.trained) == ("run 1", 1)
    again.check_authority("ab" * 32)
    again.check_authority("")
    with pytest.raises(
        errors.DifferentRun, match=r"authority is abab .* authority of this kit is cdcd"
    ):
        again.check_authority("cd" * 32)
    with pytest.raises(errors.DifferentRun, match="authority of this kit is cdcd"):
        again.enter("run 1", "cd" * 32)


def test_a_journal_that_is_not_json_is_named(tmp_path):
    (tmp_path / "journal.json").write_text("{")
    with pytest.raises(ValueError, match=r"journal\.json: not valid JSON"):
        Journal(tmp_path)


def test_rows_count_only_while_their_file_is_unchanged(tmp_path):
    journal = Journal(tmp_path)
    journal.keep_rows("FL_global", [{"case": 1}])
    (tmp_path / "rows" / "FL_global.json").write_text('[{"case": 2}]')
    (tmp_path / "rows" / "other.json").write_text('[{"case": 1}]')
    for again in (journal, Journal(tmp_path)):
        assert (
            again.rows("FL_global") is None
            and again.rows("other") is None
            and again.evaluated == ("FL_global",)
        )


def test_a_model_name_that_is_a_path_is_refused(tmp_path):
    (tmp_path / "label.json").write_text("[]")
    journal = Journal(tmp_path / "journal")
    for name in ("../../label", str(tmp_path / "label"), "", "a\x00"):
        with pytest.raises(errors.ServerMisbehaves):
            journal.rows(name)
        with pytest.raises(errors.ServerMisbehaves):
            journal.keep_rows(name, [])
    assert (tmp_path / "label.json").read_text() == "[]"


def test_the_last_round_is_remembered_after_its_update_is_gone(tmp_path):
    journal = Journal(tmp_path)
    assert journal.trained == 0
    journal.keep_update(2, ARRAYS, 30, {})
    journal.wait_until_durable()
    journal.drop_update()
    assert Journal(tmp_path).trained == 2


def test_a_journal_of_an_earlier_release_opens(tmp_path):
    journal = Journal(tmp_path)
    journal.enter("run 1")
    journal.keep_update(2, ARRAYS, 30, {"loss": 0.5})
    journal.wait_until_durable()
    state = json.loads((tmp_path / "journal.json").read_text())
    del state["trained"], state["rows"]
    (tmp_path / "journal.json").write_text(json.dumps(state))
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "FL_global.json").write_text("[]")
    again = Journal(tmp_path)
    assert again.trained == 2 and again.update.round == 2
    assert again.rows("FL_global") is None  # evaluated again: its digest was not noted


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        '{"run": 5}',
        '{"update": {"round": 1}}',
        '{"update": []}',
        '{"scores": []}',
        '{"rows": null}',
        '{"rows": {"FL_global": 1}}',
        '{"records": [1]}',
        '{"records": [""]}',
        '{"scores": {"first": {}}}',
        '{"globals": {"ab": "1"}}',
        '{"private": {"round_001": 5}}',
        '{"trained": -1}',
        '{"trained": true}',
    ],
)
def test_a_file_that_is_not_a_journal_is_named(tmp_path, content):
    (tmp_path / "journal.json").write_text(content)
    with pytest.raises(ValueError, match=r"journal\.json: not what this program writes"):
        Journal(tmp_path)
    (tmp_path / "journal.json").write_text(content[:-1])
    with pytest.raises(ValueError, match=r"journal\.json: not valid JSON .*; restore it, or give"):
        Journal(tmp_path)


def test_a_new_folder_for_another_run_is_said_not_to_know_what_was_spent(tmp_path):
    journal = Journal(tmp_path / "journal")
    journal.enter("run1")
    said = []
    for _ in range(2):
        with pytest.raises(errors.DifferentRun) as caught:
            journal.enter("run2")
        said.append("the next ledger does not count what" in str(caught.value))
        journal.keep_filtered()
    assert said == [False, True]


def test_the_manifest_of_an_update_is_valid_until_the_file_changes(tmp_path):
    journal = Journal(tmp_path)
    journal.keep_update(1, ARRAYS, 30, {})
    journal.wait_until_durable()
    for opened in (journal, Journal(tmp_path)):
        assert opened.manifest().sha256 == manifests.digest(ARRAYS)
    tensor_files.save(journal.update_path, {"w": ARRAYS["w"] + 1})
    assert journal.manifest() is None


def test_the_end_of_a_run_and_a_new_start_leave_no_half_written_files(tmp_path):
    journal = Journal(tmp_path)
    journal.keep_rows("FL_global", [{"case": 1}])
    half = [tmp_path / ".partial-x.safetensors", tmp_path / "rows" / ".partial-y.json"]
    for path in half:
        path.write_bytes(b"half")
    journal.remove_leftovers()
    assert not any(path.exists() for path in half)
    journal.keep_update(1, ARRAYS, 30, {})
    journal.wait_until_durable()
    journal.lent_path.write_bytes(b"a model that was being published")
    journal.finish()
    left = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    assert left == ["journal.json"] and Journal(tmp_path).finished


def test_a_journal_with_a_privacy_policy_is_refused_by_earlier_releases(tmp_path):
    journal = Journal(tmp_path)
    journal.enter("run 1")
    journal.keep_update(1, ARRAYS, 30, {})
    assert json.loads((tmp_path / "journal.json").read_text())["format"] == 1
    journal.keep_filtered()
    again = Journal(tmp_path)
    assert again.filtered and again.update is None and again.trained == 1
    assert not again.update_path.exists()
    again.enter("run 1")
    again.keep_declared()
    written = json.loads((tmp_path / "journal.json").read_text())
    assert written["format"] == 2
    # Release 0.1.0 does not read the format. It continues if "run" is null or the server's run.
    assert written["run"].startswith("run 1 (under a privacy policy") and again.run == "run 1"
    Journal(tmp_path).enter("run 1")
    with pytest.raises(
        errors.DifferentRun, match="belongs to run run 1; the server leads run run 2"
    ):
        Journal(tmp_path).enter("run 2")
