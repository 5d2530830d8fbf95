# The README's two commands in a container. The driver comes from the host (NVIDIA Container Toolkit),
# and torch brings CUDA's libraries, so the small image of CUDA is enough. No compiler is needed.
#   docker build -t contact-maps .
#   docker run --rm --gpus all -v "$PWD/outputs:/home/maps/workflow/outputs" contact-maps
#   docker build -t contact-maps-test --target test . && docker run --rm --gpus all contact-maps-test
FROM nvidia/cuda:13.0.1-base-ubuntu24.04 AS system
# Versions are those of the base image's distribution, so that security updates come in.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends git python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 maps
USER 10001
WORKDIR /home/maps/workflow
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
COPY --chown=10001:10001 . .
ENV PATH="/home/maps/workflow/.venv/bin:$PATH" PIP_NO_CACHE_DIR=1

# Installs and runs the tests.
FROM system AS test
RUN python3 -m venv .venv && . .venv/bin/activate && pip install -c constraints.txt -e '.[test]' && pip install -c constraints.txt --no-deps open-clip-torch
CMD ["pytest"]

# Installs the workflow and runs the demo; type another command behind the image's name to run that.
FROM system AS workflow
RUN python3 -m venv .venv && . .venv/bin/activate && pip install -c constraints.txt -e . && mkdir outputs
CMD ["snakemake", "--cores", "2", "--resources", "gpu=1"]
