//! An upstream that keeps the exact bytes, and reads them as the strictest of parsers would.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A request as it arrived.
#[derive(Debug, Clone, Default)]
pub struct Recorded {
    pub method: String,
    pub target: String,
    pub host: String,
    pub names: Vec<String>,
    pub values: Vec<String>,
    pub content: Vec<u8>,
    /// Arrived to the end that its framing promised.
    pub whole: bool,
}

impl Recorded {
    pub fn has(&self, name: &str) -> bool {
        self.names.iter().any(|n| n == name)
    }
}

#[derive(Default)]
struct Record {
    requests: Vec<Recorded>,
    faults: Vec<String>,
}

pub struct Recorder {
    address: SocketAddr,
    record: Arc<Mutex<Record>>,
}

impl Recorder {
    pub fn start() -> Recorder {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let address = listener.local_addr().expect("an address");
        let record = Arc::new(Mutex::new(Record::default()));
        let shared = Arc::clone(&record);
        // Ends with the process: a test binary's own.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let record = Arc::clone(&shared);
                thread::spawn(move || serve(stream, &record));
            }
        });
        Recorder { address, record }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn count(&self) -> usize {
        self.record.lock().unwrap().requests.len()
    }

    pub fn since(&self, before: usize) -> Vec<Recorded> {
        self.record.lock().unwrap().requests[before..].to_vec()
    }

    /// Whatever arrived that no upstream should ever see.
    pub fn faults(&self) -> Vec<String> {
        self.record.lock().unwrap().faults.clone()
    }
}

fn serve(mut stream: TcpStream, record: &Mutex<Record>) {
    let mut bytes = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break bytes.drain(..end + 4).collect::<Vec<u8>>();
            }
            if !more(&mut stream, &mut bytes) {
                if !bytes.is_empty() {
                    fault(record, "a head that breaks off", &bytes);
                }
                return;
            }
        };
        let (request, framing) = match read_head(&head) {
            Ok(read) => read,
            Err(why) => {
                fault(record, why, &head);
                return;
            }
        };
        let place = {
            let mut record = record.lock().unwrap();
            record.requests.push(request.clone());
            record.requests.len() - 1
        };
        let content = match framing {
            Framing::Length(length) => by_length(&mut stream, &mut bytes, length),
            Framing::Chunked => by_chunks(&mut stream, &mut bytes),
        };
        let Some(content) = content else { return };
        {
            let mut record = record.lock().unwrap();
            let recorded = &mut record.requests[place];
            recorded.content = content;
            recorded.whole = true;
        }
        let body = format!("{} {} {}", request.method, request.target, request.host);
        let length = body.len();
        let shown = if request.method == "HEAD" { "" } else { &body };
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: max-age=3600\r\nContent-Length: {length}\r\n\r\n{shown}"
        );
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

enum Framing {
    Length(usize),
    Chunked,
}

fn read_head(head: &[u8]) -> Result<(Recorded, Framing), &'static str> {
    let text: String = head[..head.len() - 4]
        .iter()
        .map(|&byte| char::from(byte))
        .collect();
    let mut lines = text.split("\r\n");
    let words: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, "HTTP/1.1"] = words[..] else {
        return Err("a start line that is not three words");
    };
    if method.is_empty() || !method.bytes().all(is_token) {
        return Err("a method that is no token");
    }
    if !target.bytes().all(|byte| byte > b' ' && byte != 0x7f) || target.contains(['#', '\\']) {
        return Err("a target with a control byte, a fragment or a backslash");
    }
    let (mut hosts, mut lengths, mut codings, mut names) = (vec![], vec![], vec![], vec![]);
    let mut values = vec![];
    for line in lines {
        let (name, value) = line.split_once(':').ok_or("a line that is no field")?;
        if name.is_empty() || !name.bytes().all(|byte| is_token(byte) && byte != b'_') {
            return Err("a field name that is no token, or with an underscore");
        }
        if value
            .bytes()
            .any(|byte| byte < b' ' && byte != b'\t' || byte == 0x7f)
        {
            return Err("a control byte in a field");
        }
        let (name, value) = (name.to_ascii_lowercase(), value.trim().to_owned());
        match &name[..] {
            "host" => hosts.push(value.clone()),
            "content-length" => lengths.push(value.clone()),
            "transfer-encoding" => codings.push(value.clone()),
            _ => {}
        }
        names.push(name);
        values.push(value);
    }
    let [host] = &hosts[..] else {
        return Err("not one Host");
    };
    let framing = match (&lengths[..], &codings[..]) {
        ([], []) => Framing::Length(0),
        ([length], []) => match length.parse::<usize>() {
            Ok(number) if number.to_string() == *length => Framing::Length(number),
            _ => return Err("a length that is no canonical number"),
        },
        ([], [coding]) if coding == "chunked" => Framing::Chunked,
        _ => return Err("two framings"),
    };
    let request = Recorded {
        method: method.to_owned(),
        target: target.to_owned(),
        host: host.clone(),
        names,
        values,
        ..Recorded::default()
    };
    Ok((request, framing))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn by_length(stream: &mut TcpStream, bytes: &mut Vec<u8>, length: usize) -> Option<Vec<u8>> {
    while bytes.len() < length {
        if !more(stream, bytes) {
            return None;
        }
    }
    Some(bytes.drain(..length).collect())
}

fn by_chunks(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    loop {
        let end = loop {
            match bytes.windows(2).position(|two| two == b"\r\n") {
                Some(end) => break end,
                None if more(stream, bytes) => {}
                None => return None,
            }
        };
        let line = bytes.drain(..end + 2).collect::<Vec<u8>>();
        let size = std::str::from_utf8(&line[..end]).ok()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        content.extend(by_length(stream, bytes, size)?);
        if by_length(stream, bytes, 2)? != b"\r\n" {
            return None;
        }
        if size == 0 {
            return Some(content);
        }
    }
}

fn more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> bool {
    let mut landing = [0; 8192];
    match stream.read(&mut landing) {
        Ok(0) | Err(_) => false,
        Ok(read) => {
            bytes.extend_from_slice(&landing[..read]);
            true
        }
    }
}

fn fault(record: &Mutex<Record>, why: &str, bytes: &[u8]) {
    let shown = String::from_utf8_lossy(bytes).into_owned();
    record
        .lock()
        .unwrap()
        .faults
        .push(format!("{why}: {shown:?}"));
}
