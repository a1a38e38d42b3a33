"""The network and its training: C2FNAS with a VAE branch.

This package does not depend on scan formats or on the federation.
"""

import os

# oneDNN makes a training step of a 3D network on a CPU 6 to 9 times faster and needs a fifth of the
# memory, but on many CPUs it is off by default. TensorFlow reads the setting once, when it loads,
# so it is set before any module here imports TensorFlow.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
