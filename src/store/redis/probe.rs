//! A connection to look at a server with, command by command: what `larder doctor` asks. It is nobody's link, keeps
//! nothing going and repairs nothing.

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Cmd, RedisConnectionInfo, RedisError, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;

use super::link::{SHEBANGS, text};
use super::script::SCRIPT;

pub struct Probe {
    connection: MultiplexedConnection,
    driver: JoinHandle<()>,
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// What a command was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    Nil,
    Number(i64),
    Bytes(Vec<u8>),
    List(Vec<Said>),
    /// `WRONGPASS`, and the rest of what it said.
    Refused {
        code: String,
        said: String,
    },
    /// No answer, or none in its protocol.
    Lost,
}

impl Probe {
    pub async fn over<S>(stream: S) -> Result<Probe, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // Whoever asks has the time limit.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let made = MultiplexedConnection::new_with_config(&info, stream, config).await;
        let (connection, driver) = made.map_err(|error| error.to_string())?;
        Ok(Probe {
            connection,
            driver: tokio::spawn(driver),
        })
    }

    pub async fn ask<A: AsRef<[u8]>>(&self, words: &[A]) -> Said {
        let mut command = Cmd::new();
        for word in words {
            command.arg(word.as_ref());
        }
        match self.connection.clone().req_packed_command(&command).await {
            Ok(value) => said(value),
            Err(error) => refused(&error),
        }
    }

    /// Loads the script of the state keys, as each connection does. Gives its digest.
    pub async fn load_script(&self) -> Said {
        let mut last = Said::Lost;
        for shebang in SHEBANGS {
            let script = format!("{shebang}{SCRIPT}");
            last = self.ask(&["SCRIPT", "LOAD", &script]).await;
            if last.text().is_some() {
                break;
            }
        }
        last
    }
}

impl Said {
    pub fn text(&self) -> Option<String> {
        match self {
            Said::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        }
    }

    pub fn is_refused(&self) -> bool {
        matches!(self, Said::Refused { .. })
    }

    /// The server has no such command, or has it under another name.
    pub fn is_unknown(&self) -> bool {
        let Said::Refused { code, said } = self else {
            return false;
        };
        code == "ERR" && said.starts_with("unknown command")
    }

    /// The code of a refusal.
    pub fn code(&self) -> Option<&str> {
        match self {
            Said::Refused { code, .. } => Some(code),
            _ => None,
        }
    }
}

fn said(value: Value) -> Said {
    match value {
        Value::Nil => Said::Nil,
        Value::Int(number) => Said::Number(number),
        Value::BulkString(bytes) => Said::Bytes(bytes),
        Value::Array(values) | Value::Set(values) => {
            Said::List(values.into_iter().map(said).collect())
        }
        Value::ServerError(error) => refused(&error.into()),
        Value::Okay => Said::Bytes(b"OK".to_vec()),
        other => text(&other).map_or(Said::Lost, |text| Said::Bytes(text.into_bytes())),
    }
}

fn refused(error: &RedisError) -> Said {
    match error.code() {
        Some(code) if !error.is_io_error() && !error.is_connection_dropped() => Said::Refused {
            code: code.to_owned(),
            said: error.detail().unwrap_or_default().to_owned(),
        },
        _ => Said::Lost,
    }
}
