#!/bin/sh
# Build .venv-peers: medcl beside the packages it is checked against and measured with, in one environment.
# `make peers` calls it from the repository root; running it again changes nothing.
#
# torchvision has no CPU build for this torch. The peers that ask for it, themselves or through timm, are installed
# without their dependencies. That keeps nnU-Net with its convolutional networks, TorchIO and pytorch-metric-learning
# whole, and of lightly and open_clip those loss modules that tests/peers/conftest.py can import one by one. Lost are
# what builds on timm (open_clip's models, nnU-Net's Primus) and lightly's transforms, models, and the losses with a memory
# bank (NT-Xent, which benchmarks/objectives.py loads in another way, and DINO).
set -eu
python=${PYTHON:-python3.11}
venv=${1:-.venv-peers}

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
install="$venv/bin/python -m pip install --quiet -c constraints.txt -c constraints-peers.txt"
$install -e ".[demo,export,multimodal,text]" pytest pytest-timeout psutil
$install torchio pytorch-metric-learning \
    acvl-utils batchgenerators batchgeneratorsv2 blosc2 einops graphviz imagecodecs seaborn yacs \
    ftfy huggingface-hub hydra-core lightly-utils regex
$install --no-deps dynamic-network-architectures nnunetv2 lightly open_clip_torch timm
