//! A reader of HTTP/1 requests for comparison, which knows nothing of hyper's: it has one way to read each byte, and ends
//! where there would be two. RFC 9112.
//!
//! It follows hyper in what hyper settles before anybody sees it, and where what goes on is one request in one framing
//! (docs/ARCHITECTURE.md, "Odd messages"): empty lines before a request, a bare LF behind a line of a head, the same
//! length twice, a length beside chunks, the fragment of a target, and the lines of trailers, which go no further.

/// A request, or why it is none to pass on.
pub type Read = Result<Request, &'static str>;

#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    /// Path and query, as they go on.
    pub target: Vec<u8>,
    pub host: String,
    pub content: Vec<u8>,
}

/// A request as it stands there, whomever it is for.
pub struct Message<'b> {
    pub method: &'b [u8],
    pub target: &'b [u8],
    pub is_1_1: bool,
    /// By their names in small letters.
    pub fields: Vec<(String, &'b [u8])>,
    pub content: Vec<u8>,
}

/// The one message that the bytes are, with nothing behind it, but room for another.
pub fn alone(bytes: &[u8]) -> Result<Message<'_>, &'static str> {
    let mut reader = Reader { bytes };
    match reader.message() {
        Ok(_) if !reader.bytes.is_empty() => Err("more than a message"),
        Ok((_, After::Close)) => Err("the last message of its connection"),
        Ok((message, After::Next)) => Ok(message),
        Err(End::Incomplete) => Err("less than a message"),
        Err(End::Doubt(why)) => Err(why),
    }
}

/// All requests that the bytes hold, whole, up to the first of which nobody knows where it ends, or behind which the
/// connection closes.
pub fn read(bytes: &[u8]) -> Vec<Read> {
    let (mut reader, mut all) = (Reader { bytes }, Vec::new());
    loop {
        match reader.request() {
            Ok((read, After::Next)) => all.push(read),
            Ok((read, After::Close)) => {
                all.push(read);
                return all;
            }
            Err(End::Incomplete) => return all,
            Err(End::Doubt(why)) => {
                all.push(Err(why));
                return all;
            }
        }
    }
}

enum After {
    Next,
    Close,
}

enum End {
    Incomplete,
    Doubt(&'static str),
}

struct Reader<'b> {
    bytes: &'b [u8],
}

impl<'b> Reader<'b> {
    fn request(&mut self) -> Result<(Read, After), End> {
        let (message, after) = self.message()?;
        let hosts = message.fields.iter().filter(|(name, _)| name == "host");
        let hosts: Vec<&[u8]> = hosts.map(|(_, value)| *value).collect();
        let read = whom(message.method, message.target, &hosts).map(|(host, target)| Request {
            method: String::from_utf8_lossy(message.method).into_owned(),
            target,
            host,
            content: message.content,
        });
        Ok((read, after))
    }

    fn message(&mut self) -> Result<(Message<'b>, After), End> {
        let line = loop {
            match self.head_line()? {
                [] => {}
                line => break line,
            }
        };
        let words: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
        let [method, target, version] = words[..] else {
            return Err(End::Doubt("a start line that is not three words"));
        };
        if method.is_empty() || !method.iter().all(is_token) {
            return Err(End::Doubt("a method that is no token"));
        }
        let is_1_1 = match version {
            b"HTTP/1.1" => true,
            b"HTTP/1.0" => false,
            _ => return Err(End::Doubt("another version")),
        };
        let mut fields = Vec::new();
        loop {
            match self.head_line()? {
                [] => break,
                line => fields.push(field(line)?),
            }
        }
        let all = |name: &'static str| {
            let named = fields.iter().filter(move |(n, _)| n == name);
            named.map(|(_, value)| *value)
        };
        let codings: Vec<&[u8]> = all("transfer-encoding").collect();
        let lengths: Vec<&[u8]> = all("content-length").collect();
        let has_close = all("connection")
            .flat_map(|value| value.split(|&byte| byte == b','))
            .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"));
        let keeps_alive = all("connection")
            .flat_map(|value| value.split(|&byte| byte == b','))
            .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"keep-alive"));
        let (content, both) = match (&codings[..], &lengths[..]) {
            ([], []) => (Vec::new(), false),
            ([], [first, more @ ..]) => {
                let length = length_of(first, more)?;
                (self.take(length)?.to_vec(), false)
            }
            ([coding], lengths) if is_1_1 && coding.eq_ignore_ascii_case(b"chunked") => {
                (self.chunks()?, !lengths.is_empty())
            }
            _ => return Err(End::Doubt("a coding that is not chunked alone")),
        };
        let closes = both || has_close || !is_1_1 && !keeps_alive;
        let message = Message {
            method,
            target,
            is_1_1,
            fields,
            content,
        };
        Ok((message, if closes { After::Close } else { After::Next }))
    }

    /// Without its CRLF, or its bare LF.
    fn head_line(&mut self) -> Result<&'b [u8], End> {
        let end = self.position(b'\n').ok_or(End::Incomplete)?;
        let line = &self.bytes[..end];
        self.bytes = &self.bytes[end + 1..];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match line.iter().all(|&byte| is_text(byte)) {
            true => Ok(line),
            false => Err(End::Doubt("a control byte in a head")),
        }
    }

    fn chunks(&mut self) -> Result<Vec<u8>, End> {
        let mut content = Vec::new();
        loop {
            let line = self.crlf_line()?;
            if line.contains(&b'\n') {
                return Err(End::Doubt("a bare LF in a chunk's head"));
            }
            let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit());
            let digits = &line[..digits.count()];
            let rest = line[digits.len()..].trim_ascii_start();
            let text = std::str::from_utf8(digits).unwrap_or_default();
            let size = match usize::from_str_radix(text, 16) {
                Ok(size) if rest.is_empty() || rest[0] == b';' => size,
                _ => return Err(End::Doubt("a chunk's size that is no number")),
            };
            if size == 0 {
                // What trailers say goes no further.
                while !self.crlf_line()?.is_empty() {}
                return Ok(content);
            }
            content.extend_from_slice(self.take(size)?);
            if self.take(2)? != b"\r\n" {
                return Err(End::Doubt("a chunk that does not end with its size"));
            }
        }
    }

    /// Up to the first CR, behind which there must be an LF.
    fn crlf_line(&mut self) -> Result<&'b [u8], End> {
        let end = self.position(b'\r').ok_or(End::Incomplete)?;
        let line = &self.bytes[..end];
        match self.bytes.get(end + 1) {
            None => Err(End::Incomplete),
            Some(b'\n') => {
                self.bytes = &self.bytes[end + 2..];
                Ok(line)
            }
            Some(_) => Err(End::Doubt("a bare CR in chunks")),
        }
    }

    fn take(&mut self, length: usize) -> Result<&'b [u8], End> {
        let taken = self.bytes.get(..length).ok_or(End::Incomplete)?;
        self.bytes = &self.bytes[length..];
        Ok(taken)
    }

    fn position(&self, wanted: u8) -> Option<usize> {
        self.bytes.iter().position(|&byte| byte == wanted)
    }
}

fn field(line: &[u8]) -> Result<(String, &[u8]), End> {
    let colon = line.iter().position(|&byte| byte == b':');
    let colon = colon.ok_or(End::Doubt("a line that is no field"))?;
    let name = &line[..colon];
    if name.is_empty() || !name.iter().all(is_token) {
        return Err(End::Doubt("a name that is no token"));
    }
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    Ok((name, line[colon + 1..].trim_ascii()))
}

/// Host and target.
fn whom(method: &[u8], target: &[u8], hosts: &[&[u8]]) -> Result<(String, Vec<u8>), &'static str> {
    let [host] = hosts else {
        return Err("not one Host");
    };
    let host = host_of(host)?;
    let target = target_of(method, target, &host)?;
    Ok((host, target))
}

fn host_of(value: &[u8]) -> Result<String, &'static str> {
    let doubt = "a Host that is none";
    let Ok(text) = std::str::from_utf8(value) else {
        return Err(doubt);
    };
    let (name, port) = match text.rfind(':') {
        Some(colon) if !text.ends_with(']') => (&text[..colon], Some(&text[colon + 1..])),
        _ => (text, None),
    };
    let is_port =
        |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    let is_name = match name.strip_prefix('[') {
        Some(address) => address
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok()),
        None => {
            let is_of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
            !name.is_empty() && name.bytes().all(is_of_a_name)
        }
    };
    match is_name && port.is_none_or(is_port) {
        true => Ok(text.to_owned()),
        false => Err(doubt),
    }
}

/// A path, or what is one behind a scheme and the very Host.
fn target_of(method: &[u8], target: &[u8], host: &str) -> Result<Vec<u8>, &'static str> {
    let doubt = "a target that is no path";
    let target = target.split(|&byte| byte == b'#').next().unwrap_or(target);
    if target == b"*" && method == b"OPTIONS" {
        return Ok(target.to_vec());
    }
    let path = match target {
        [b'/', ..] => target.to_vec(),
        _ => {
            let Some(colon) = target.windows(3).position(|three| three == b"://") else {
                return Err(doubt);
            };
            let scheme = target[..colon].to_ascii_lowercase();
            let rest = &target[colon + 3..];
            let end = rest.iter().position(|byte| b"/?".contains(byte));
            let (authority, path) = rest.split_at(end.unwrap_or(rest.len()));
            let is_ours = authority.eq_ignore_ascii_case(host.as_bytes());
            if !(scheme == b"http" || scheme == b"https") || !is_ours {
                return Err(doubt);
            }
            match path {
                [b'/', ..] => path.to_vec(),
                // RFC 9112 §3.2.1: an empty path is sent as `/`.
                path => [b"/", path].concat(),
            }
        }
    };
    let of_path = path.split(|&byte| byte == b'?').next().unwrap_or(&path);
    let lower = of_path.to_ascii_lowercase();
    let hides = [&b"%00"[..], b"%0a", b"%0d", b"%5c", b"\\"];
    let hidden = |what: &[u8]| lower.windows(what.len()).any(|part| part == what);
    match hides.into_iter().any(hidden) {
        true => Err("a control byte or a backslash in a path"),
        false => Ok(path),
    }
}

/// Of lines that are all the same number.
fn length_of(first: &[u8], more: &[&[u8]]) -> Result<usize, End> {
    let doubt = || End::Doubt("a length that is no canonical number");
    let number = |digits: &[u8]| {
        let all = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        let text = std::str::from_utf8(digits).ok().filter(|_| all)?;
        text.parse::<u64>().ok().filter(|&number| number < 1 << 63)
    };
    let length = number(first).ok_or_else(doubt)?;
    let canonical = length.to_string().as_bytes() == first;
    let same = more.iter().all(|line| number(line) == Some(length));
    match canonical && same {
        true => usize::try_from(length).map_err(|_| doubt()),
        false => Err(doubt()),
    }
}

fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

fn is_text(byte: u8) -> bool {
    byte >= b' ' && byte != 0x7f || byte == b'\t'
}
