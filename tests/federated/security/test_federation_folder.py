from federated.security import provisioning


def test_what_other_programs_write_in_the_same_folder_stays(tmp_path):
    """A study's folder often holds kits, a store and sites side by side."""
    others = [
        tmp_path / name
        for name in (
            "store/.partial-5.json",
            "sites/.partial-case/image.npy",
            ".partial-initial.safetensors",
        )
    ]
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"being written")
    provisioning.provision(tmp_path, "localhost", ["C1"])
    provisioning.add(tmp_path, sites=["C2"])
    provisioning.renew(tmp_path, ["server"])
    assert [path.read_bytes() for path in others] == [b"being written"] * 3


def test_a_list_of_unfinished_kits_never_removes_anything_else(tmp_path):
    folder, outside = tmp_path / "kits", tmp_path / "scans"
    for path in (outside, folder / "C1"):
        path.mkdir(parents=True)
        (path / "file").write_text("here")
    (folder / ".unfinished").write_text(f"authority\nC1\n../scans\n{outside}\n..\n.\n")
    provisioning.provision(folder, "localhost", ["C1"])
    assert (outside / "file").read_text() == "here" and not (folder / "C1" / "file").exists()
