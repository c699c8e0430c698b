# gala in a container. Not built by its authors' tests, which have no Docker: see docs/howto/install.md.
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
