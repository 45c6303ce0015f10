# For the CPU; for CUDA add --build-arg TORCH=https://download.pytorch.org/whl/cu130 and run with --gpus all. PyTorch's
# wheels bring CUDA's libraries, so the base needs none: another BASE needs Python 3.10 to 3.13 with venv, and pip.
ARG BASE=python:3.12-slim
FROM ${BASE}
ARG TORCH=https://download.pytorch.org/whl/cpu
ENV PATH=/opt/monai_rd/bin:$PATH PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

RUN python3 -m venv /opt/monai_rd && pip install --index-url "${TORCH}" "torch>=2.10" "torchvision>=0.25"
COPY . /tmp/source
RUN pip install "/tmp/source[onnx,serve]"

# With --user "$(id -u):$(id -g)" the files in /work belong to you; a user without a name needs USER and a HOME.
RUN useradd --create-home --uid 10001 monai_rd && install --directory --owner monai_rd /work
ENV HOME=/tmp USER=monai_rd
USER 10001
WORKDIR /work
EXPOSE 8000

# The teacher that the package brings gives useful features on this machine: its file is whole, and PyTorch computes.
HEALTHCHECK --interval=30m --timeout=3m --retries=2 CMD ["monai-rd", "teachers", "check", "phantom_ct"]
ENTRYPOINT ["monai-rd"]
CMD ["--help"]
