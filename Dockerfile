# The chat and its doors, for a machine with or without a GPU. compose.yaml starts it safely;
# docs/serving.md says the rest.
#
#   docker build -t loupe .
#
# A plain install of torch brings CUDA's libraries. For a small CPU image give the index that
# PyTorch's install page names: --build-arg PIP_EXTRA_INDEX_URL=...
FROM python:3.12-slim

ARG PIP_EXTRA_INDEX_URL=""
WORKDIR /srv/loupe

# What is installed changes less often than the code: a layer of its own.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir qformer adapters train demo \
 && PIP_EXTRA_INDEX_URL="$PIP_EXTRA_INDEX_URL" \
    pip install --no-cache-dir -c constraints.txt ".[demo,photos,quantize]" \
 && pip uninstall --yes loupe-assistant

COPY qformer qformer
COPY adapters adapters
COPY train train
COPY demo demo
# The pretrained parts of the photos' model go into the image. Take `loupe setup` out and the chat
# opens on paintings.
ENV LOUPE_HOME=/usr/local/share/loupe
RUN pip install --no-cache-dir --no-deps . && rm -rf /srv/loupe/* \
 && PIP_NO_CACHE_DIR=1 loupe setup photos \
 && useradd --uid 10001 --no-create-home --home-dir /data loupe \
 && install --directory --owner loupe /data

USER loupe
WORKDIR /data
VOLUME /data
# Models from the hub and what gradio keeps of a visit; nothing else is written.
ENV HF_HOME=/data/models GRADIO_TEMP_DIR=/tmp/loupe PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
EXPOSE 7860
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s CMD ["python", "-c", \
  "import sys, urllib.request as r; sys.exit(b'true' not in r.urlopen('http://127.0.0.1:7860/health').read())"]
ENTRYPOINT ["loupe", "chat", "--host", "0.0.0.0"]
