"""Digests of a result's inputs."""

import hashlib

from experiments.results import fingerprints
from runkit import atomic
from tests.experiments import run_folder


def test_a_digest_of_rows_depends_on_their_content_alone():
    rows = run_folder.rows()
    assert fingerprints.of_rows(rows) == fingerprints.of_rows(
        [dict(reversed(row.items())) for row in rows[::-1]]
    )
    assert fingerprints.of_rows(rows) != fingerprints.of_rows(rows[1:])


def test_a_file_has_the_digest_of_its_bytes(tmp_path):
    content = b"weights" * 400_000  # more than one piece
    (tmp_path / "f").write_bytes(content)
    assert fingerprints.of_file(tmp_path / "f") == hashlib.sha256(content).hexdigest()


def test_prepared_data_are_their_files_settings_and_splits_alone(tmp_path):
    index = {"settings": {"target_mm": [3]}, "splits": {"test": ["a"]}, "sources": {"a": "1"}}
    digests = []
    for extra in ({}, {"release": "9"}, {"splits": {"training": ["a"]}}):
        atomic.write_json(tmp_path / "index.json", {**index, **extra})
        digests.append(fingerprints.of_prepared_data(tmp_path))
    assert digests[0] == digests[1] != digests[2]


def test_of_a_run_the_last_global_model_and_what_is_there_count(tmp_path):
    for name in ("global/round_001", "global/round_002", "models/C1_FL_local"):
        atomic.write_bytes(tmp_path / "server" / f"{name}.safetensors", name.encode())
    found = fingerprints.of_run(tmp_path)
    assert found["models"].keys() == {"round_002", "C1_FL_local"} and found["data"] == {}
    assert found["models"]["round_002"] == hashlib.sha256(b"global/round_002").hexdigest()
