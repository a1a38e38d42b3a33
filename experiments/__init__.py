"""Entry points that compose the three packages; the only place that reads flags."""

import os

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # before any of the entry points can import TensorFlow
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
