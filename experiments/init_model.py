"""Writes the initial model, with which a federation and every baseline start.

    python -m experiments.init_model --flagfile=experiments/flagfiles/demo.flags \\
        --output=initial.safetensors

Each weight depends only on the seed and its own name, so all stacks and machines write the same
numbers. The file also holds the plan that the server compares with each site's. An earlier initial
model under the same name is replaced; any other file is not.
"""

from __future__ import annotations

import json
import os

from absl import flags

from experiments import flags as experiment_flags
from experiments import program
from experiments.configuration import load_genotype, plan

FLAGS = flags.FLAGS
experiment_flags.define_experiment()
experiment_flags.define_runtime()
flags.DEFINE_string("output", None, "File to write (.safetensors).")


def main(argv: list[str]) -> None:
    del argv
    from c2fnas import array_groups, named_weights
    from runkit import overwriting, release

    output = experiment_flags.required("output", "the file to write the initial weights to")
    config = experiment_flags.experiment_config(supernet=True)
    overwriting.require_apart(experiment_flags.genotype_file(), {"--output": [output]})
    if os.path.lexists(output) and not _is_initial(output):
        raise ValueError(
            f"--output: {output} is not an initial model and would be replaced; move it, or choose "
            "another name"
        )
    genotype = load_genotype(config)
    experiment_flags.start_tensorflow()
    from experiments.models import builders

    network = builders.build_network(config)
    weights = named_weights.initial(network, config.seed)
    try:
        config.share_rules.of(weights)  # checks them now that the names of the arrays are known
    except ValueError as error:
        raise ValueError(
            f"--keep_at_site or --only_receive: {error}. Groups are "
            f"{', '.join(array_groups.GROUPS)}"
        ) from error
    metadata = {
        "model": "initial",
        "plan": json.dumps(plan(config, genotype.to_json())),
        "stack": release.stack(),
    }
    named_weights.save(output, weights, metadata)
    count = sum(array.size for array in weights.values())
    print(
        f"{output}: {len(weights)} arrays, {count:,} weights ({genotype.conv_weights():,} in the "
        "segmentation network's convolutions)"
    )


def _is_initial(path: str) -> bool:
    from c2fnas import named_weights

    try:
        with named_weights.opened(path) as stream:
            return (stream.metadata() or {}).get("model") == "initial"
    except Exception:  # whatever it is, this program did not write it
        return False


if __name__ == "__main__":
    program.run(main, required=["output"])
