"""The network and its training: C2FNAS with a VAE branch. Knows no files of patients and no
federation.
"""

import os

# oneDNN makes a CPU training step of a 3D network 6-9 times faster and takes a fifth of the memory,
# and on many CPUs it is off by default. It is read once, when TensorFlow loads, so it is set before
# anything here can import it.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
