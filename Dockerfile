# The toolkit with its service, on a CPU:
#     docker build -t retrieval .
#     docker run -p 8000:8000 -v "$PWD/photos-index:/index:ro" retrieval serve /index --host 0.0.0.0
FROM python:3.12-slim
RUN useradd --create-home retrieval
WORKDIR /app
RUN pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/cpu
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY retrieval retrieval
COPY cli cli
COPY configs configs
RUN pip install --no-cache-dir ".[onnx,serve]"
USER retrieval
WORKDIR /home/retrieval
ENTRYPOINT ["retrieval"]
CMD ["--help"]
