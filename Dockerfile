# One image for the flow, the Dask scheduler and its workers.
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt LICENSE README.md ./
COPY pipeline pipeline
COPY storage storage
COPY flows flows
RUN python -m venv /opt/epsweep && /opt/epsweep/bin/pip install --no-cache-dir -c constraints.txt .

FROM python:3.11-slim
RUN useradd --create-home --uid 1000 epsweep && install -d -o epsweep /data
COPY --from=build /opt/epsweep /opt/epsweep
ENV PATH=/opt/epsweep/bin:$PATH DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false
USER 1000
WORKDIR /data
ENTRYPOINT ["epsweep"]
CMD ["run", "quickstart"]
