//! What a user would otherwise run, each as its own documentation would have it for this work: as fast as it goes, storing
//! what the origin sends, with nothing switched on that Larder has not.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use super::processes::{self, Server};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Haproxy,
    Nginx,
    Varnish,
    /// nginx with Lua, which asks Redis.
    NginxRedis,
}

impl Peer {
    pub const ALL: [Peer; 4] = [Peer::Haproxy, Peer::Nginx, Peer::Varnish, Peer::NginxRedis];

    pub fn name(self) -> &'static str {
        match self {
            Peer::Haproxy => "HAProxy",
            Peer::Nginx => "nginx",
            Peer::Varnish => "Varnish",
            Peer::NginxRedis => "nginx, Lua, Redis",
        }
    }

    pub fn is_installed(self) -> bool {
        let runs = |command: &str, says: &str| {
            let mut asked = Command::new(command);
            asked.arg(says).stdout(Stdio::null()).stderr(Stdio::null());
            asked.status().is_ok()
        };
        match self {
            Peer::Haproxy => runs("haproxy", "-v"),
            Peer::Nginx => runs("nginx", "-v"),
            Peer::Varnish => runs("varnishd", "-V"),
            Peer::NginxRedis => {
                runs("nginx", "-v") && runs("redis-server", "-v") && Path::new(LUA).exists()
            }
        }
    }

    /// What to install.
    pub fn packages(self) -> &'static str {
        match self {
            Peer::Haproxy => "haproxy",
            Peer::Nginx => "nginx",
            Peer::Varnish => "varnish",
            Peer::NginxRedis => "nginx libnginx-mod-http-lua redis-server",
        }
    }

    /// `None` if it is not installed. `folder` is its own, on tmpfs where there is one.
    pub fn start(
        self,
        folder: &Path,
        origin: SocketAddr,
        redis: Option<SocketAddr>,
    ) -> Option<Server> {
        std::fs::create_dir_all(folder).expect("a folder");
        let address = processes::free_address();
        let file = folder.join("configuration");
        let (text, mut command) = match self {
            Peer::Haproxy => {
                let mut command = Command::new("haproxy");
                command.args(["-db", "-f"]).arg(&file);
                (haproxy(address, origin), command)
            }
            Peer::Nginx | Peer::NginxRedis => {
                let text = match self {
                    Peer::NginxRedis if !Path::new(LUA).exists() => return None,
                    Peer::NginxRedis => nginx(folder, address, "", &lua(redis?), true),
                    _ => nginx(folder, address, &cache(folder, origin), CACHED, false),
                };
                let mut command = Command::new("nginx");
                command
                    .arg("-c")
                    .arg(&file)
                    .arg("-e")
                    .arg(folder.join("log"));
                (text, command)
            }
            Peer::Varnish => {
                let mut command = Command::new("varnishd");
                command.args(["-F", "-s", "malloc,1g", "-T", "none", "-a"]);
                command.arg(address.to_string()).arg("-f").arg(&file);
                command.arg("-n").arg(folder.join("work"));
                (varnish(origin), command)
            }
        };
        std::fs::write(&file, text).expect("it can be written");
        processes::server(&mut command, address, self.name())
    }
}

fn haproxy(address: SocketAddr, origin: SocketAddr) -> String {
    // It keeps only what says for how long, and nothing that varies.
    format!(
        "global
    nbthread {threads}
    maxconn 2000
defaults
    mode http
    timeout client 1h
    timeout server 1h
    timeout connect 5s
    http-reuse always
cache kept
    total-max-size 1000
    max-object-size 4000000
    max-age 3600
frontend front
    bind {address}
    default_backend back
backend back
    http-request cache-use kept
    http-response del-header vary
    http-response set-header cache-control max-age=3600
    http-response cache-store kept
    server origin {origin}
",
        threads = threads()
    )
}

const CACHED: &str = "proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection \"\";
      proxy_set_header Host $host; proxy_cache kept; proxy_cache_valid 200 1h; proxy_cache_key $request_uri;
      proxy_ignore_headers Vary; proxy_buffers 16 64k; proxy_busy_buffers_size 128k;";

const LUA: &str = "/usr/lib/nginx/modules/ngx_http_lua_module.so";

fn nginx(folder: &Path, address: SocketAddr, http: &str, location: &str, lua: bool) -> String {
    let folder = folder.display();
    let modules = match lua {
        true => {
            "load_module modules/ndk_http_module.so; load_module modules/ngx_http_lua_module.so;"
        }
        false => "",
    };
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {folder}/{what};"))
        .concat();
    format!(
        "{modules}
daemon off;
pid {folder}/pid;
user root;
worker_processes {threads};
worker_rlimit_nofile 20000;
events {{ worker_connections 8000; }}
http {{
  access_log off;
  {temporary}
  keepalive_requests 100000000;
  sendfile on;
  tcp_nodelay on;
  tcp_nopush off;
  {http}
  server {{
    listen {address};
    location / {{
      {location}
    }}
  }}
}}
",
        threads = threads()
    )
}

fn cache(folder: &Path, origin: SocketAddr) -> String {
    format!(
        "proxy_cache_path {}/cache levels=1:2 keys_zone=kept:64m max_size=2g inactive=1h use_temp_path=off;
  upstream origin {{ server {origin}; keepalive 64; keepalive_requests 100000000; }}",
        folder.display()
    )
}

/// A GET of the path, over kept connections; what is not there is not forwarded: only hits are measured.
fn lua(redis: SocketAddr) -> String {
    format!(
        "content_by_lua_block {{
        local sock = ngx.socket.tcp()
        assert(sock:connect(\"{host}\", {port}))
        local key = ngx.var.request_uri
        assert(sock:send({{\"*2\\r\\n$3\\r\\nGET\\r\\n$\", #key, \"\\r\\n\", key, \"\\r\\n\"}}))
        local length = tonumber(string.sub(assert(sock:receive(\"*l\")), 2))
        if length < 0 then sock:setkeepalive(60000, 64) return ngx.exit(404) end
        local body = assert(sock:receive(length))
        sock:receive(2)
        sock:setkeepalive(60000, 64)
        ngx.header[\"Content-Type\"] = \"application/json\"
        ngx.header[\"Content-Length\"] = length
        ngx.print(body)
      }}",
        host = redis.ip(),
        port = redis.port()
    )
}

fn varnish(origin: SocketAddr) -> String {
    format!(
        "vcl 4.1;
backend default {{ .host = \"{}\"; .port = \"{}\"; }}
sub vcl_recv {{ if (req.method == \"GET\") {{ return (hash); }} }}
sub vcl_backend_response {{ set beresp.ttl = 1h; unset beresp.http.vary; }}
",
        origin.ip(),
        origin.port()
    )
}

/// As many as there are cores.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Puts what `users` paths answer where nginx's Lua looks for it.
pub fn fill(redis: SocketAddr, users: u64, body: &[u8]) {
    let mut stream = TcpStream::connect(redis).expect("redis answers");
    for user in 1..=users {
        let key = format!("/api/users/{user}/");
        let head = format!(
            "*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n",
            key.len(),
            body.len()
        );
        let sent = stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(body))
            .and_then(|()| stream.write_all(b"\r\n"));
        sent.expect("redis takes it");
        let mut ok = [0; 5];
        stream.read_exact(&mut ok).expect("redis answers");
        assert_eq!(&ok, b"+OK\r\n");
    }
}
