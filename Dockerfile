# The application: gunicorn with four workers on port 5000, as a user without rights, on a file system that may be read-only
# (`docker run --read-only --tmpfs /tmp`; logs go to the volume /var/log/credit-system and to the console).
#
# Secrets are files in /secrets, readable by user or group 10001 and not by everyone; none is in the image or in its environment.

FROM python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d AS build
# Wheels only: no compiler is needed. The environment gets no pip of its own.
WORKDIR /build
COPY requirements.txt constraints.txt ./
RUN python -m venv --without-pip /opt/venv \
 && pip --python /opt/venv/bin/python install --no-cache-dir --only-binary :all: -r requirements.txt -c constraints.txt
WORKDIR /srv/credit-system
COPY . .
# Compiled here, since where it runs nothing can be written.
RUN python -m compileall -q /opt/venv/lib . \
 && install -d -o 10001 -g 10001 /build/log

FROM python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d
LABEL org.opencontainers.image.title="credit-system" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN pip uninstall --yes --quiet --root-user-action=ignore setuptools wheel pip \
 && groupadd --gid 10001 credit \
 && useradd --uid 10001 --gid credit --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin credit
COPY --from=build /opt/venv /opt/venv
COPY --from=build /srv/credit-system /srv/credit-system
COPY --from=build --chown=10001:10001 /build/log /var/log/credit-system
WORKDIR /srv/credit-system
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOST=0.0.0.0 \
    PORT=5000 \
    WORKERS=4 \
    DATA_DIR=/tmp/credit-system \
    LOG_DIR=/var/log/credit-system
USER 10001:10001
VOLUME /var/log/credit-system
EXPOSE 5000
# Whether the process answers at all; whether it can serve requests is for the front to ask (/health/ready).
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health/live', timeout=4)"]
CMD ["gunicorn", "-c", "gunicorn.conf.py", "app:create_app()"]
