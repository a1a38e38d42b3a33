"""The programs, and the parts that only they use: results, figures, models, reports, studies."""

import os
import sys

from runkit import child_programs, interrupts

# Set before any program imports TensorFlow, which reads them once.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# True only while `python -m experiments.<program>` looks for its program.
if sys.argv[:1] == ["-m"]:
    interrupts.end_at_once()
    child_programs.follow_parent()
