# gala in a container. docs/howto/install.md says on what base it was built and tried; no test builds it.
#
#   docker build -t gala .                                                              without a GPU
#   docker build -t gala --build-arg TORCH_INDEX=https://pypi.org/simple .              for NVIDIA GPUs
#   docker run --rm -it --init -v "$PWD/runs:/gala/runs" gala train preset=minatar/breakout
#
# With a GPU, docker run wants --gpus all. PyTorch's wheels bring CUDA's libraries, so one base image serves both; the
# driver is the host's.
FROM python:3.11-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=atari,mujoco,minatar,supervised,plot,diagnose,video

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
# docker run --user may be anyone, who has no home: figures still need a place for the cache of fonts.
ENV MPLCONFIGDIR=/tmp/matplotlib

# MuJoCo's films are drawn without a screen, in software where there is no GPU.
RUN apt-get update && apt-get install -y --no-install-recommends libegl1 libopengl0 libgl1-mesa-dri \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /gala/source
COPY constraints.txt ./
RUN pip install --extra-index-url "$TORCH_INDEX" -c constraints.txt torch==2.13.0
COPY pyproject.toml README.md LICENSE ./
COPY gala gala
COPY envs envs
COPY configs configs
RUN pip install --extra-index-url "$TORCH_INDEX" -c constraints.txt ".[$EXTRAS]" && gala doctor

# Not as root; runs are written to /gala/runs, which is best a folder of the host.
RUN useradd --create-home --uid 1000 gala && mkdir -p /gala/runs && chown gala /gala /gala/runs
USER gala
WORKDIR /gala
ENTRYPOINT ["gala"]
CMD ["--help"]
