"""A program like those of the product, which meets foreign text that nothing has escaped.

python -m tests.experiments.foreign_program <how>
"""

import sys
import threading

from absl import flags, logging

from experiments import program
from federated import errors
from tests.experiments.foreign_text import NASTY

flags.DEFINE_string("how", "", "")


def fail():
    raise KeyError(NASTY)


def main(argv):
    how = flags.FLAGS.how
    if how == "log":
        logging.info("event=told by=%s", NASTY)
        try:
            fail()
        except KeyError:
            logging.exception("event=failed")
        return 0
    if how == "misbehaves":
        raise errors.ServerMisbehaves(NASTY)
    if how == "error":
        raise ValueError(NASTY)
    if how == "thread":
        thread = threading.Thread(target=lambda: sys.stdout.write(_raise(RuntimeError(NASTY))))
        thread.start()
        thread.join()
        return 0
    raise RuntimeError(NASTY)


def _raise(error):
    raise error


if __name__ == "__main__":
    program.run(main, expected=(errors.FederationError,))
