# One image for the flow, the Dask scheduler and its workers, and the Prefect server.
FROM python:3.11.14-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml constraints.txt LICENSE README.md ./
COPY pipeline pipeline
COPY storage storage
COPY flows flows
RUN python -m venv /opt/epsweep && /opt/epsweep/bin/pip install --no-cache-dir -c constraints.txt .

FROM python:3.11.14-slim-bookworm
# everything but /data may be read-only: what programs keep at home is of no use to the next container
RUN useradd --uid 1000 --no-create-home --home-dir /tmp epsweep && install -d -o epsweep -g epsweep -m 0700 /data
COPY --from=build /opt/epsweep /opt/epsweep
ENV PATH=/opt/epsweep/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false
USER 1000:1000
WORKDIR /data
ENTRYPOINT ["epsweep"]
CMD ["--help"]
