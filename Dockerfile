# An image that serves a bundle, computed by ONNX Runtime; it holds no torch.
#   docker build -t efficientnet-transfer .
#   docker run --rm --read-only --tmpfs /tmp -p 127.0.0.1:8000:8000 -v "$PWD/mymodel:/bundle:ro" efficientnet-transfer
FROM python:3.11-slim-bookworm AS build
WORKDIR /source
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY transfer transfer
COPY datamodules datamodules
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim-bookworm
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
COPY constraints.txt /tmp/
# The wheel's own requirements are for training: these are what serving needs, as tests/serving/test_dockerfile.py holds.
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-deps /wheels/*.whl \
    && pip install --no-cache-dir --constraint /tmp/constraints.txt \
    fastapi numpy onnxruntime opencv-python-headless pillow pydantic python-multipart safetensors scipy simplejpeg uvicorn
# Nobody's number, without a home or a shell; the bundle may be mounted, or copied here by an image built on this one.
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["efficientnet-transfer", "serve", "/bundle", "--host", "0.0.0.0", "--port", "8000"]
