import errno
import fcntl
import os

import pytest

from federated import errors
from federated.storage import store_folder
from federated.storage.store_folder import StoreFolder


@pytest.fixture
def folder(tmp_path):
    with store_folder.lock(tmp_path):
        opened = StoreFolder(tmp_path)
        opened.make_folders()
        yield opened


def test_two_servers_cannot_share_a_store(tmp_path):
    with (
        store_folder.lock(tmp_path),
        pytest.raises(
            errors.StoreInUse,
            match=rf"another server \(process {os.getpid()} .*\) works on this store",
        ),
    ):
        store_folder.lock(tmp_path)
    store_folder.lock(tmp_path).close()  # the lock ended with the block


def test_a_store_that_cannot_be_locked_is_not_reported_as_in_use(tmp_path, monkeypatch):
    def refused(*given):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    with pytest.raises(
        errors.StoreInUse,
        match=r"cannot be locked \(No locks available\); a store needs a disk of this machine itself",
    ):
        store_folder.lock(tmp_path)


def test_a_site_has_one_transfer_under_way_and_no_other_site_loses_its_own(folder):
    first = folder.incoming_path("C1", "a" * 64)
    other = folder.incoming_path("C1.1", "b" * 64)  # a site whose name begins alike
    for path in (first, other):
        path.write_bytes(b"a part")
    assert folder.incoming_path("C1", "a" * 64) == first and first.exists()
    folder.incoming_path("C1", "c" * 64)
    assert not first.exists() and other.exists()


def test_transfers_of_models_whose_digests_begin_alike_have_files_of_their_own(folder):
    """A site can make such models, and fill the file of the one while the other is checked."""
    alike = ["a" * 63 + last for last in "bc"]
    assert len({folder.incoming_path("C1", sha256) for sha256 in alike}) == 2


def test_discarded_files_and_folders_are_gone_at_once_and_removed_later(folder):
    kept = folder.kept_folder(1)
    kept.mkdir(parents=True)
    (kept / "update").write_bytes(b"an update")
    folder.global_path(1).write_bytes(b"a model")
    for path in (kept, folder.global_path(1), folder.global_path(2)):  # the last one never was
        folder._discard(path)
    assert not kept.exists() and not folder.global_path(1).exists()
    assert len(list((folder.folder / "discarded").iterdir())) == 2
    folder.empty_discarded()
    assert not list((folder.folder / "discarded").iterdir())
