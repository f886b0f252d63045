#!/bin/sh
# h2spec (https://github.com/summerwind/h2spec) against Larder, over TLS: tests/h2spec/run.sh [H2SPEC [LARDER]]
#
# To build it with Debian's packages alone:
#   apt-get install golang-go golang-golang-x-net-dev golang-github-spf13-cobra-dev golang-github-fatih-color-dev golang-gopkg-yaml.v2-dev
#   git clone https://github.com/summerwind/h2spec go/src/github.com/summerwind/h2spec
#   cd go/src/github.com/summerwind/h2spec
#   GO111MODULE=off GOPATH="$OLDPWD/go:/usr/share/gocode" go build -o "$OLDPWD/h2spec" ./cmd/h2spec
#
# Two of its tests send to a stream that is being closed, and race the answer: what
# fails is tried once more, by itself. The exit status is that of the second try.
set -eu
h2spec=${1:-h2spec}
larder=${2:-target/release/larder}
command -v "$h2spec" >/dev/null || { echo "no $h2spec: the head of this file says how to build it" >&2; exit 2; }
[ -x "$larder" ] || { echo "no $larder: cargo build --release" >&2; exit 2; }

here=$(mktemp -d)
trap 'kill $origin $proxy 2>/dev/null || true; rm -rf "$here"' EXIT
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout "$here/key.pem" -out "$here/cert.pem" 2>/dev/null

cat >"$here/origin.py" <<'PYTHON'
import http.server, sys

class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Length", "40")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"x" * 40)

    do_POST = do_HEAD = do_GET

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
print(server.server_address[1], file=open(sys.argv[1], "w"), flush=True)
server.serve_forever()
PYTHON
python3 "$here/origin.py" "$here/origin" &
origin=$!
proxy=
wait_for() { n=0; until [ -s "$1" ] && grep -q "$2" "$1"; do n=$((n + 1)); [ $n -lt 200 ] || { cat "$1"; exit 2; }; sleep 0.1; done; }
wait_for "$here/origin" .

cat >"$here/proxy.yaml" <<YAML
listen: 127.0.0.1:0
admin: off
tls: {cert: "$here/cert.pem", key: "$here/key.pem"}
upstream: http://127.0.0.1:$(cat "$here/origin")
logs: {access: false, format: json}
YAML
"$larder" serve -c "$here/proxy.yaml" >"$here/log" 2>&1 &
proxy=$!
wait_for "$here/log" '"listen":'
port=$(sed -n 's/.*"listen":"127.0.0.1:\([0-9]*\)".*/\1/p' "$here/log" | head -n 1)

run() { "$h2spec" -t -k -h 127.0.0.1 -p "$port" -o 5 "$@"; }
if run >"$here/report"; then
    tail -n 2 "$here/report"
    exit 0
fi
sed -n '/^Failures:/,$p' "$here/report"
# A section with a failure: its document (http2, hpack, generic) and number.
failed=$(awk '
    /^Failures:/ { failures = 1 }
    !failures { next }
    /^Generic tests/ { doc = "generic" } /^Hypertext/ { doc = "http2" } /^HPACK/ { doc = "hpack" }
    match($0, /^ +[0-9.]+\. /) { section = $1; sub(/\.$/, "", section) }
    / × [0-9]+:/ { for (i = 1; i <= NF; i++) if ($i ~ /^[0-9]+:$/) { n = $i; sub(/:/, "", n); print doc "/" section "/" n; break } }
' "$here/report")
echo "once more: $failed"
for spec in $failed; do run "$spec" >"$here/again" || { cat "$here/again"; exit 1; }; done
echo "all that failed passed the second time"
