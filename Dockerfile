# Headless image of perception-node, for x86-64 and ARM64.
#
#   docker build -t perception-node .
#   docker run --device /dev/video0 --network host perception-node run --source /dev/video0
#
# Large (about 7 GB) on x86-64, since the torch of the lock file brings CUDA. Without torch, for the
# default model and exported ones (docs/operation.md, "Without torch"):
#
#   docker build --build-arg EXTRAS= -t perception-node .

FROM python:3.11-slim-bookworm AS build
ARG EXTRAS="--extra torch"
WORKDIR /opt/perception-node
RUN pip install --no-cache-dir uv==0.13.9
ENV UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
# The packages change seldom, the code often: each is a layer of its own.
COPY pyproject.toml uv.lock ./
COPY client/pyproject.toml client/
RUN uv sync --frozen --no-dev $EXTRAS --no-install-workspace --compile-bytecode
COPY README.md LICENSE ./
COPY client client
COPY config config
COPY node node
RUN uv sync --frozen --no-dev $EXTRAS --no-editable --compile-bytecode

FROM python:3.11-slim-bookworm
# What OpenCV's wheel links to, also where nothing is shown.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/perception-node/.venv /opt/perception-node/.venv
COPY config /opt/perception-node/config
ENV PATH=/opt/perception-node/.venv/bin:$PATH \
    XDG_CACHE_HOME=/var/cache/perception-node \
    PYTHONUNBUFFERED=1
# Not root, and in the group that may open cameras.
RUN useradd --system --groups video --home-dir /var/lib/perception-node --create-home perception \
    && install -d -o perception /var/cache/perception-node
USER perception
WORKDIR /var/lib/perception-node
VOLUME /var/cache/perception-node
# Labels arrive, also if they say that nothing can be seen; --network host needs no EXPOSE.
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s \
    CMD ["perception-node", "watch", "--json", "--count", "1", "--timeout", "5"]
ENTRYPOINT ["perception-node"]
CMD ["run", "--source", "demo"]
