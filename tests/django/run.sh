#!/bin/sh
# Starts the test project under gunicorn: `run.sh [PORT | HOST:PORT | unix:/path/to.sock]`, or `run.sh --prepare` to
# stop after making the virtual environment. README.md lists the environment variables.
set -eu
cd "$(dirname "$0")"

prepare() {
    # `ready` comes last and says for which requirements, so that one cut short or outdated is never taken for whole.
    cmp -s requirements.txt .venv/ready && return
    rm -rf .venv
    python3 -m venv .venv || {
        echo "python3 cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2
        exit 1
    }
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
    cp requirements.txt .venv/ready
}

# Several test runs may start at once: the first makes it, the others wait.
( flock 9; prepare ) 9<requirements.txt
[ "${1:-}" = --prepare ] && exit 0

bind=${1:-8000}
case $bind in *[!0-9]*) ;; *) bind=127.0.0.1:$bind ;; esac

export PYTHONDONTWRITEBYTECODE=1
.venv/bin/python manage.py migrate --verbosity 0
.venv/bin/python manage.py seed --users "${DJANGO_SEED_USERS:-25}"
worker=${GUNICORN_WORKER:-gthread}
# gunicorn quietly turns sync workers with threads into gthread.
case $worker in sync) threads=1 ;; *) threads=${GUNICORN_THREADS:-8} ;; esac
# Its control socket has one fixed place per home directory, which two running side by side would fight over.
exec .venv/bin/python -m gunicorn it360acad_backend.wsgi --bind "$bind" --no-control-socket \
    --worker-class "$worker" --threads "$threads" --workers "${GUNICORN_WORKERS:-1}"
