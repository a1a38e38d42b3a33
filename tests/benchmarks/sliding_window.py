"""Times sliding-window inference without its network, beside MONAI and nnU-Net.

    .venv/py3.11/bin/python -m tests.benchmarks.sliding_window --peers_python=.venv/peers/bin/python

A trivial network runs over 360 x 360 x 200 voxels in windows of 96, overlap 0.5, Gaussian weights.
`ours` gives the mask of the blended logits; the peers give blended logits without the argmax that
would follow. `beyond_seconds` is the whole time minus that of as many calls of the network alone;
`beyond_cpu_seconds` is the same for all processors together. `above_mib` is the peak of resident
memory above that at the start of the call. nnU-Net's loop is its own code, called with its defaults
for the CPU and without mirroring.

Medians of `beyond_seconds` as multiples of `ours`: MONAI 1.17 and nnU-Net 1.94 on an idle Xeon with
AVX-512; 1.4 to 1.65 and 2.5 to 2.8 on two shared cores. Whole time on that Xeon with the trivial
network, which TensorFlow computes in 0.26 s and PyTorch in 0.18 s: MONAI 1.01, nnU-Net 1.48. Memory
above the start: 4.0 and 4.8 times `ours`. A lower limit for blending window by window is 0.4 of
MONAI's time: copying the patches (0.04 s), the network's output where no cache holds it (0.05 s),
and the sums at the speed of memory (0.08 s).
"""

from __future__ import annotations

import resource
import threading
import time

import numpy as np

from tests.benchmarks import side_by_side
from tests.benchmarks.side_by_side import Candidate

SHAPE, WINDOW, OVERLAP, CLASSES = (360, 360, 200), (96, 96, 96), 0.5, 3
_HERE = "tests.benchmarks.sliding_window"


def image() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, SHAPE).astype(np.float32)


class Peak:
    """Measures the resident memory above that at the start, in MiB.

    It looks every 2 ms, because the system's own peak includes earlier memory.
    """

    def __init__(self):
        self._page = resource.getpagesize()
        self._ended = threading.Event()
        self.above_mib = 0.0

    def __enter__(self) -> Peak:
        self._start = self._resident()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.002):
            self.above_mib = max(self.above_mib, (self._resident() - self._start) / 2**20)

    def _resident(self) -> int:
        with open("/proc/self/statm") as stream:
            return int(stream.read().split()[1]) * self._page


def _measured(whole, network_alone, windows: int) -> dict[str, float]:
    whole()  # warm-up
    with Peak() as peak:
        seconds, cpu = _timed(whole)
    network_alone()
    network, network_cpu = _timed(lambda: _repeat(network_alone, windows))
    return {
        "seconds": seconds,
        "network_seconds": network,
        "beyond_seconds": seconds - network,
        "beyond_cpu_seconds": cpu - network_cpu,
        "above_mib": peak.above_mib,
    }


def _repeat(work, times: int) -> None:
    for _ in range(times):
        work()


def _timed(work) -> tuple[float, float]:
    """Returns elapsed seconds and processor seconds of all cores together."""
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - cpu


def _windows() -> int:
    from c2fnas import sliding_window

    return int(
        np.prod(
            [
                len(sliding_window.starts(n, size, OVERLAP))
                for n, size in zip(SHAPE, WINDOW, strict=True)
            ]
        )
    )


def ours() -> dict[str, float]:
    import tensorflow as tf

    from c2fnas import inference
    from c2fnas.sliding_window import WindowConfig

    kernel = tf.constant(np.array([1.0, -1.0, 0.5], np.float32).reshape(1, 1, 1, 1, CLASSES))

    @tf.function
    def network(patch):
        return tf.nn.conv3d(patch, kernel, [1] * 5, "VALID")

    volume, config = image(), WindowConfig(WINDOW, OVERLAP, "gaussian")
    patch = tf.zeros((1, *WINDOW, 1))
    return _measured(
        lambda: inference.segment(
            volume, lambda patches: np.asarray(network(inference.as_tensor(patches))), config
        ),
        lambda: network(patch),
        _windows(),
    )


def _torch_network():
    import torch

    torch.set_num_threads(2)
    network = torch.nn.Conv3d(1, CLASSES, 1, bias=False)
    torch.nn.init.constant_(network.weight, 0.5)
    return network.eval()


def monai(overlap: float = OVERLAP) -> dict[str, float]:
    import torch
    from monai.inferers import sliding_window_inference

    network, volume, patch = (
        _torch_network(),
        torch.from_numpy(image())[None, None],
        torch.zeros(1, 1, *WINDOW),
    )
    with torch.inference_mode():
        return _measured(
            lambda: sliding_window_inference(
                volume, WINDOW, 1, network, overlap=overlap, mode="gaussian"
            ),
            lambda: network(patch),
            196,
        )


def nnunet() -> dict[str, float]:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    network, volume, patch = (
        _torch_network(),
        torch.from_numpy(image())[None],
        torch.zeros(1, 1, *WINDOW),
    )
    predictor = nnUNetPredictor(
        tile_step_size=1 - OVERLAP,
        use_gaussian=True,
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.network = network
    predictor.configuration_manager = type("Plan", (), {"patch_size": list(WINDOW)})
    predictor.label_manager = type("Labels", (), {"num_segmentation_heads": CLASSES})
    with torch.inference_mode():
        return _measured(
            lambda: predictor.predict_sliding_window_return_logits(volume),
            lambda: network(patch),
            196,
        )


def main() -> None:
    flags = side_by_side.arguments(__doc__)
    candidates = [Candidate("ours", f"{_HERE}:ours", environment={"TF_ENABLE_ONEDNN_OPTS": "1"})]
    if flags.peers_python:
        candidates += [
            Candidate(name, f"{_HERE}:{name}", flags.peers_python) for name in ("monai", "nnunet")
        ]
    figures = side_by_side.measure(candidates, repetitions=flags.repetitions)
    for figure in (
        "beyond_seconds",
        "beyond_cpu_seconds",
        "above_mib",
        "seconds",
        "network_seconds",
    ):
        print(side_by_side.table(figures, figure=figure, reference="ours") + "\n")


if __name__ == "__main__":
    main()
