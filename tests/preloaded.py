"""Imports that take programs seconds to load or compile.

Only the process that `forked` forks imports this module. It loads third-party packages and the
compiled kernels, nothing else of the product, because a program imports its own modules as usual.
Nothing here computes with TensorFlow, which could not be forked after that.
"""

import experiments  # noqa: F401, I001 - first: it sets what TensorFlow reads when it loads
import gc

import cryptography.hazmat.primitives.ciphers.aead
import cryptography.hazmat.primitives.serialization
import cryptography.x509  # noqa: F401
import grpc  # noqa: F401
import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401
import nibabel  # noqa: F401
import numpy as np
import pydicom  # noqa: F401
import safetensors.numpy  # noqa: F401
import scipy.ndimage
import scipy.spatial
import scipy.stats  # noqa: F401

from c2fnas import keras_stack, window_kernels  # noqa: F401 - the first imports TensorFlow, Keras and tensorflow-addons

_voxels = np.zeros((2, 2, 6), np.float32)
_weights = tuple(np.ones(n, np.float32) for n in _voxels.shape)
_logits = np.zeros_like(_voxels)
_logits.setflags(write=False)  # as TensorFlow's are: another type to the compiler
window_kernels.add_weighted(_voxels, _logits, _weights, (0, 0, 0), (0, 0, 0), 0, 2)
window_kernels.likeliest(np.zeros((2, 2, 2, 3), np.float32), np.zeros((2, 2, 2), np.uint8))

gc.freeze()  # the programs' garbage collector need not look at all this
