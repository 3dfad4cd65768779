# RouterDash as an image. `podman build -t routerdash .` or `docker build -t routerdash .`; see docs/how-to/container.md.
# BASE must have Python 3.11 or later with venv. Name it by digest for builds that repeat.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY requirements.txt requirements-tools.txt ./
RUN ["python3", "-m", "venv", "/opt/tools"]
RUN ["/opt/tools/bin/pip", "install", "--quiet", "--require-hashes", "--only-binary=:all:", "--requirement", "requirements-tools.txt"]
# Without pip: nothing is installed into what runs.
RUN ["python3", "-m", "venv", "--without-pip", "/opt/routerdash"]
RUN ["/opt/tools/bin/pip", "--python", "/opt/routerdash/bin/python", "install", "--quiet", "--require-hashes", "--only-binary=:all:", "--requirement", "requirements.txt"]
COPY . .
RUN ["/opt/tools/bin/python", "-m", "build", "--no-isolation", "--wheel", "--outdir", "/dist", "."]
RUN ["/opt/tools/bin/pip", "--python", "/opt/routerdash/bin/python", "install", "--quiet", "--no-index", "--no-deps", "--find-links", "/dist", "routerdash"]
# The compiled gateway takes two thirds of the CPU time. Without a C compiler, gateways run in Python.
RUN ["sh", "-c", "command -v cc || (apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev) || true"]
RUN ["sh", "-c", "! command -v cc || /opt/tools/bin/python packaging/compile_gateway.py --for /opt/routerdash/bin/python"]
# Compiled here, because the root of what runs may be read-only.
RUN ["/opt/routerdash/bin/python", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "/opt/routerdash/lib"]
RUN ["install", "-d", "-m", "0700", "-o", "10001", "-g", "10001", "/empty"]

FROM ${BASE}
LABEL org.opencontainers.image.title="RouterDash" \
      org.opencontainers.image.description="One OpenAI-compatible URL in front of many inference servers, and a dashboard" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/routerdash /opt/routerdash
# A new volume takes its owner from here. No VOLUME: an anonymous one would hide that none was named.
COPY --from=build --chown=10001:10001 /empty /data
ENV PATH=/opt/routerdash/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    ROUTERDASH_IN_CONTAINER=true \
    ROUTERDASH_HOST=0.0.0.0 \
    ROUTERDASH_DATA_DIR=/data \
    HOME=/tmp
USER 10001:10001
WORKDIR /tmp
EXPOSE 32768
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=6s --start-period=60s --retries=3 \
    CMD ["/opt/routerdash/bin/python", "-m", "routerdash.healthcheck"]
ENTRYPOINT ["/opt/routerdash/bin/routerdash"]
CMD ["serve"]
