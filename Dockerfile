# docs/docker.md says how to build and run it.
#   --build-arg LANE=classic   Python 3.11 with TensorFlow 2.15 instead of 3.13 with the newest
#   --build-arg GPU=1          with CUDA's libraries
ARG LANE=current
FROM python:3.11-slim AS classic
FROM python:3.13-slim AS current
FROM ${LANE}
ARG LANE=current
ARG GPU=0

WORKDIR /project
COPY requirements requirements
RUN if [ "$GPU" = 1 ]; then LANE="$LANE-gpu"; fi \
 && pip install --no-cache-dir --root-user-action=ignore --require-hashes -r "requirements/$LANE.lock"
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY ixi_tfds ixi_tfds
COPY beam_preprocess beam_preprocess
COPY trainer trainer
COPY evaluator evaluator
RUN pip install --no-cache-dir --root-user-action=ignore --no-deps --no-build-isolation .

# Whoever the container runs as can write to HOME, for the caches of libraries, and to new volumes.
ENV HOME=/home/ixi PYTHONUNBUFFERED=1
RUN useradd --uid 1000 --create-home ixi \
 && mkdir -p /ixi/scans /ixi/datasets /ixi/runs /ixi/scores /ixi/maps \
 && chown -R ixi /ixi && chmod -R a+rwX /ixi /home/ixi
WORKDIR /ixi
VOLUME ["/ixi/scans", "/ixi/datasets", "/ixi/runs", "/ixi/scores", "/ixi/maps"]
USER ixi
CMD ["python", "-m", "trainer", "--help"]
