import errno
import os

from runkit import disk


def test_the_text_about_a_full_disk_has_the_file_and_the_free_space(tmp_path):
    path = tmp_path / "not yet" / "best.safetensors"
    text = disk.full_text(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)))
    assert text.startswith(
        f"{path}: cannot be written (No space left on device); "
    ) and text.endswith(" MB are free there")
    assert float(text.split("); ")[1].split()[0]) > 0
    assert "(Disk quota exceeded; it takes 8 MB); " in disk.full_text(
        OSError(errno.EDQUOT, "it takes 8 MB", str(path))
    )
    assert disk.full_text(OSError(errno.ENOSPC, "it takes 8 MB, 1 MB are free", str(path))) is None
    assert (
        disk.full_text(OSError(errno.ENOSPC, "x"))
        == "a file cannot be written: No space left on device"
    )
    assert disk.full_text(OSError(errno.ENOENT, "x", "y")) is None
