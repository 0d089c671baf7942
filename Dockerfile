# A small image with the package, its recipes and launch/. See docs/scaling.md.
#
#     docker build -t kgpt_jax .
#     docker build -t kgpt_jax:gpu --build-arg JAX_EXTRA="[cuda13]" .
#     docker run --rm -v "$PWD/runs:/workspace/runs" kgpt_jax --mode=all --variant=vanilla
FROM python:3.12-slim

ARG JAX_EXTRA=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

# The requirements first: a change of the code does not install them again.
COPY requirements.txt /tmp/requirements.txt
RUN sed '/^# for the tests only/,$d' /tmp/requirements.txt > /tmp/needed.txt \
 && pip install -r /tmp/needed.txt "jax${JAX_EXTRA}"

COPY . /tmp/kgpt_jax
RUN pip install --no-deps /tmp/kgpt_jax \
 && mkdir -p /workspace/runs \
 && mv /tmp/kgpt_jax/launch /workspace/launch \
 && rm -rf /tmp/kgpt_jax /tmp/requirements.txt /tmp/needed.txt \
 && useradd --uid 1000 --create-home kgpt \
 && chown -R kgpt /workspace

USER kgpt
WORKDIR /workspace
ENTRYPOINT ["kgpt"]
CMD ["--help"]
