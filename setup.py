"""Packaging: two supported stacks, chosen by the Python version through environment markers."""

import pathlib

from setuptools import find_packages, setup

_DICOM = ["pydicom>=3.0", "pylibjpeg[all]>=2.0"]
_DICOM_SEG = ["highdicom>=0.25"]
_SITE = [
    # tensorflow-addons 0.23 loads only beside TensorFlow 2.13-2.15, which ends at Python 3.11.
    "tensorflow>=2.15,<2.16; python_version < '3.12'",
    "tensorflow-addons>=0.23,<0.24; python_version < '3.12'",
    "tensorflow>=2.20; python_version >= '3.12'",
    "isal>=1.5",
    "matplotlib>=3.8",
    "nibabel>=5.2",
    "numba>=0.61",
    "pillow>=9",
    "psutil>=5.9",
    "safetensors>=0.4",
    "scipy>=1.11",
    "tensorboard>=2.15",
    "tqdm>=4.66",
]

setup(
    name="c2fnas-federated-pancreas",
    version="0.2.0",
    description=(
        "Federated pancreas and tumour segmentation: C2FNAS with a VAE branch, "
        "trained by hospitals that exchange only weights"
    ),
    long_description=pathlib.Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(
        include=["runkit*", "preprocessing*", "c2fnas*", "federated*", "experiments*"]
    ),
    package_data={
        "experiments": [
            "flagfiles/*.flags",
            "studies/*.json",
            "splits/*.json",
            "notebooks/*.ipynb",
            "studies/page/*",
        ],
        "federated": ["wire/*.proto", "wire/*.pyi"],
    },
    # The base holds what a server, an operator and the doctor need. A machine that trains or reads
    # scans needs [site].
    install_requires=[
        "numpy>=1.26,<2; python_version < '3.12'",
        "protobuf>=4.25,<5; python_version < '3.12'",
        "numpy>=2; python_version >= '3.12'",
        "protobuf>=5.28; python_version >= '3.12'",
        "absl-py>=2.0",
        "cryptography>=42",
        "grpcio>=1.60",
    ],
    extras_require={
        "site": _SITE,
        "gpu": [
            *_SITE,
            "tensorflow[and-cuda]>=2.15,<2.16; python_version < '3.12'",
            "tensorflow[and-cuda]>=2.20; python_version >= '3.12'",
        ],
        "dicom": [*_SITE, *_DICOM],
        "dicom_seg": [*_SITE, *_DICOM, *_DICOM_SEG],
        "metrics": ["prometheus-client>=0.19"],  # of a server
        "privacy": ["dp-accounting>=0.6"],  # of a site with a privacy policy
        "torch": ["torch>=2.2"],  # of examples/ only
        # Engines of federated/engines, each in an environment of its own: their requirements clash.
        "nvflare": ["nvflare>=2.9,<2.10"],
        "flower": [
            # The last release that takes the protobuf of TensorFlow 2.15.
            "flwr>=1.23,<1.24; python_version < '3.12'",
            "flwr>=1.42,<1.43; python_version >= '3.12'",
        ],
        "notebooks": [
            *_SITE,
            "ipykernel>=6.29",
            "jupyterlab>=4.1",
            "nbclient>=0.10",
            "nbformat>=5.9",
        ],
        "test": [
            *_SITE,
            *_DICOM,
            *_DICOM_SEG,
            "dp-accounting>=0.6",
            "grpc-stubs>=1.53",
            "ipykernel>=6.29",
            "mypy>=1.11",
            "nbclient>=0.10",
            "nbformat>=5.9",
            "prometheus-client>=0.19",
            # writes JPEG-LS for tests that read it with pylibjpeg, which cannot write it
            "pyjpegls>=1.4",
            "pytest>=8.0",
            "pytest-cov>=7.0",  # measures programs that tests start too
            "pytest-xdist>=3.7",  # --no-loadscope-reorder
            "ruff>=0.6",
            "types-protobuf<5; python_version < '3.12'",
            "types-protobuf>=5; python_version >= '3.12'",
            "types-psutil>=5.9",
            "types-tqdm>=4.66",
        ],
    },
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
)
