"""What both engines refuse before they write anything, tried on the writer of each."""

import functools

import pytest

from federated.engines.engine_run import EngineRun
from federated.tensors import tensor_files
from tests.federated import toy


@pytest.fixture(params=["nvflare", "flower"])
def write(request, without_engine, tmp_path):
    """Writes a run of three rounds at two sites, unless told otherwise, into tmp_path/out/rounds."""
    (tmp_path / "site.py").write_text("app = None\n")
    settings = {
        "folder": str(tmp_path / "out" / "rounds"),
        "site_script": tmp_path / "site.py",
        "initial": toy.write_initial(tmp_path / "initial.safetensors"),
        "num_rounds": 3,
        "num_sites": 2,
    }
    if request.param == "nvflare":
        writer = without_engine("federated.engines.nvflare.job", "2.9.0").write_job
    else:
        write_app = without_engine("federated.engines.flower.app", "1.23.0").write_app
        writer = functools.partial(write_app, output=tmp_path / "global")
    return lambda **changed: writer(EngineRun(**{**settings, **changed}))


@pytest.mark.parametrize("name", ["num_rounds", "num_sites"])
@pytest.mark.parametrize("value", [0, -3, "x", "3", 3.0, True, None])
def test_a_number_that_counts_nothing_is_refused(write, name, value, tmp_path):
    with pytest.raises(ValueError, match=rf"{name} is {value!r}; expected a whole number"):
        write(**{name: value})
    assert not (tmp_path / "out").exists()


def test_other_rounds_than_the_plans_are_refused(write, tmp_path):
    with pytest.raises(ValueError, match=r"num_rounds is 4, but 3 in the plan of .*initial"):
        write(num_rounds=4)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["none.py", "folder.py", "site.txt"])
def test_a_script_that_is_not_a_python_file_is_refused(write, name, tmp_path):
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "site.txt").write_text("app = None\n")
    with pytest.raises(
        ValueError, match=rf"site_script is .*{name}, which is not .* give the path"
    ):
        write(site_script=tmp_path / name)
    assert not (tmp_path / "out").exists()
    assert write().name == "rounds"  # the first attempt is not in the way of the second


@pytest.mark.parametrize("data", [b"app = (\n", b"app = '\xff'\n", b"app = 1\0\n"])
def test_a_script_that_python_cannot_read_is_refused(write, data, tmp_path):
    (tmp_path / "site.py").write_bytes(data)
    with pytest.raises(ValueError, match=r"site.py, which Python cannot read .* correct it first"):
        write()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["none.safetensors", "folder"])
def test_a_missing_initial_model_is_refused(write, name, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(
        ValueError, match=rf"initial is .*{name}, which is not a file.* give the path"
    ):
        write(initial=tmp_path / name)
    assert not (tmp_path / "out").exists()


def test_a_model_whose_plan_an_engine_cannot_honour_is_refused(write, tmp_path):
    kept = {**toy.PLAN, "sharing": {"keep": ["head/*"]}}
    initial = toy.write_initial(tmp_path / "kept.safetensors", plan=kept)
    with pytest.raises(ValueError, match=r"kept\.safetensors: the plan has rules of sharing"):
        write(initial=initial)
    tensor_files.save(tmp_path / "bare.safetensors", toy.INITIAL)
    with pytest.raises(ValueError, match=r"bare\.safetensors: carries no plan"):
        write(initial=tmp_path / "bare.safetensors")
    assert not (tmp_path / "out").exists()


def test_what_exists_is_not_written_over(write, tmp_path):
    place = write()
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"folder is .*rounds, which exists; remove it, or"):
        write(num_sites=5)
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_a_copy_that_fails_leaves_nothing(write, monkeypatch, tmp_path):
    def full(source, target):
        raise OSError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr("shutil.copy", full)
        with pytest.raises(OSError, match="the disk is full"):
            write()
    assert list((tmp_path / "out").iterdir()) == []
    assert [path.name for path in write().parent.iterdir()] == ["rounds"]
