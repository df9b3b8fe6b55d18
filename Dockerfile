# Stage 1 builds the wheel, with htmx checked against its hash; stage 2 holds the runtime only.
FROM python:3.11-slim AS build
WORKDIR /source
COPY requirements/build.txt requirements/
RUN pip install --no-cache-dir --require-hashes --no-deps -r requirements/build.txt
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY engine/ engine/
COPY webapp/ webapp/
COPY templates/ templates/
COPY static/ static/
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .

FROM python:3.11-slim
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DATABASE_URL=sqlite:////data/resume_engine.db
COPY requirements/runtime.txt /tmp/runtime.txt
RUN pip install --no-cache-dir --require-hashes -r /tmp/runtime.txt && rm /tmp/runtime.txt
COPY --from=build /wheels/ /wheels/
RUN pip install --no-cache-dir --no-deps /wheels/*.whl && rm -r /wheels \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin resume \
    && install -d -o resume -g resume -m 0750 /data
USER resume
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 CMD ["python", "-c", \
    "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('PORT', '8000') + '/health', timeout=4)"]
# `exec`: the server itself has to receive the stop signal. PORT is set by the platform in many places; WORKERS says
# how many processes answer.
CMD ["sh", "-c", "exec resume-engine serve --host 0.0.0.0 --port \"${PORT:-8000}\""]
