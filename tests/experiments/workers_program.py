"""One of several machines that train a small network together; TF_CONFIG says which.

Arguments: shared folder, step at which to die or -1. Prints, as JSON, the loss of each step it
took, and writes its final weights to <folder>/final_<worker>.safetensors.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import sys

from experiments.models import strategies

STEPS = 3


def main(folder: str, die_at: int) -> None:
    strategy = strategies.from_environment()

    from c2fnas import checkpoints, named_weights, training
    from tests.c2fnas import tiny

    with strategy.scope():
        network = tiny.build(tiny.SHALLOW)
    trainer = training.Trainer(network, tiny.config(), strategy)
    checkpoints.load(folder, trainer)
    first, losses = trainer.step, []
    while trainer.step < STEPS:
        if trainer.step == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        losses.append(trainer.train(tiny.datasets, trainer.step + 1)["total"])
        if strategies.is_chief():
            checkpoints.save(folder, trainer, {})
    named_weights.save(
        pathlib.Path(folder) / f"final_{strategies.read_task()[1]}.safetensors", trainer.weights()
    )
    print(json.dumps({"first": first, "losses": losses, "replicas": strategy.num_replicas_in_sync}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
