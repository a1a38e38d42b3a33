"""Entry points that compose the three packages; the only place that reads flags."""

import os
import sys

from runkit import child_programs, interrupts

os.environ.setdefault(
    "TF_ENABLE_ONEDNN_OPTS", "1"
)  # before any of the entry points can import TensorFlow
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if sys.argv[:1] == [
    "-m"
]:  # `python -m experiments.<program>` looks for its program, and has imported nothing yet
    interrupts.end_at_once()
    child_programs.follow_parent()
