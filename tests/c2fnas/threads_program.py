"""Sets up threads, and prints those within and between operations and the samples at once.

python -m tests.c2fnas.threads_program THREADS SAMPLES
"""

import sys

import tensorflow as tf

from c2fnas import threads

if __name__ == "__main__":
    assert threads.samples_at_once() == 1  # before anything is set
    threads.set_up(3, int(sys.argv[1]), samples=int(sys.argv[2]))
    within = tf.config.threading.get_intra_op_parallelism_threads()
    between = tf.config.threading.get_inter_op_parallelism_threads()
    print(within, between, threads.samples_at_once())
