"""Runs `predict` several times in one process and prints the error of each run as JSON.

The argument is a JSON list of lists of flags.
"""

import json
import sys

from absl import flags

from experiments import predict


def main(runs: list[list[str]]) -> None:
    for arguments in runs:
        flags.FLAGS.unparse_flags()
        for name in ("image", "list", "volumes", "probabilities"):
            flags.FLAGS[name].unparse()
        flags.FLAGS(["predict", "--model=nowhere", *arguments])
        try:
            predict.main([])
        except ValueError as error:
            print(json.dumps(str(error)))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
