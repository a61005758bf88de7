# vitaos on NVIDIA GPUs.
#   docker build -t vitaos .                      without apex
#   docker build -t vitaos --build-arg APEX=1 .   with NVIDIA apex's fused optimisers (optimizer=apex_adam|apex_lamb)
#   docker run --gpus all --ipc=host -v /data:/data -v $PWD/runs:/home/vitaos/vitaos/runs vitaos \
#       torchrun --nproc-per-node=8 train.py model=deit_s24 attnscale=true data.root=/data/imagenet
# The CUDA that the torch of constraints.txt is built for: apex refuses another (tests/test_architecture.py compares).
ARG CUDA=13.2.0
ARG APEX=0

FROM nvidia/cuda:${CUDA}-cudnn-devel-ubuntu24.04 AS base
ENV DEBIAN_FRONTEND=noninteractive PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1
# FFCV is built from source against OpenCV and turbojpeg.
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        build-essential ca-certificates git libopencv-dev libturbojpeg0-dev pkg-config python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH VIRTUAL_ENV=/opt/venv

FROM base AS packages
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE train.py eval.py ./
COPY vitaos ./vitaos
COPY configs ./configs
COPY scripts ./scripts
# First what changes rarely, so that a change of the code does not download torch again.
RUN pip install --constraint constraints.txt ".[ffcv]" && pip uninstall --yes vitaos

# Optional: apex has no wheels and is compiled here (20 to 40 minutes).
FROM packages AS apex-0
FROM packages AS apex-1
ENV TORCH_CUDA_ARCH_LIST="8.0;9.0;10.0" APEX_CPP_EXT=1 APEX_CUDA_EXT=1
RUN python -c "import os, torch; built, here = torch.version.cuda, os.environ['CUDA_VERSION']; \
    assert here.startswith(built + '.'), f'torch is built for CUDA {built}, this image has {here}: --build-arg CUDA={built}.0'"
RUN pip install ninja packaging setuptools wheel \
    && git clone --depth 1 https://github.com/NVIDIA/apex /tmp/apex \
    && pip install --no-build-isolation /tmp/apex \
    && rm -rf /tmp/apex

FROM apex-${APEX} AS final
RUN useradd --create-home --shell /bin/bash vitaos
WORKDIR /home/vitaos/vitaos
COPY --chown=vitaos:vitaos . .
RUN pip install --no-deps --editable . && mkdir -p runs && chown vitaos:vitaos . runs
USER vitaos
CMD ["python", "train.py", "--help"]
