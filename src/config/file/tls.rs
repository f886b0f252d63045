//! Reading `tls`: the certificates are opened here, so that what is wrong with one is known before a port is.

use std::path::PathBuf;

use super::Reader;
use super::mirror::{AdminTlsMap, OneOrMore, TlsMap};
use super::place::At;
use super::problem::{Problem, wrong};
use super::stores::ca_file;
use crate::clock;
use crate::config::{AdminTls, CertificateFiles, Tls};
use crate::tls::pair::{Which, Written};

impl Reader<'_> {
    pub(super) fn tls(&self, at: &At, tls: Option<OneOrMore<TlsMap>>) -> Option<Tls> {
        let pairs = match tls? {
            OneOrMore::One(map) => vec![self.pair(at, map)],
            OneOrMore::More(maps) if maps.is_empty() => {
                let cause = "no certificate is named";
                let help = "write `{cert: fullchain.pem, key: privkey.pem}`, or leave `tls` out for plain HTTP";
                self.complain(Problem::at(at, cause, help));
                return None;
            }
            OneOrMore::More(maps) => {
                let maps = maps.into_iter().enumerate();
                maps.map(|(i, map)| self.pair(&at.item(i), map)).collect()
            }
        };
        let pairs = pairs.into_iter().collect::<Option<Vec<_>>>()?;
        Some(Tls { pairs })
    }

    pub(super) fn admin_tls(&self, at: &At, map: Option<AdminTlsMap>) -> Option<AdminTls> {
        let AdminTlsMap {
            cert,
            key,
            client_ca,
        } = map?;
        let client_ca = self.optional(&at.key("client_ca"), client_ca, ca_file);
        let own = self.pair(at, TlsMap { cert, key })?;
        let own = Tls { pairs: vec![own] };
        Some(AdminTls { own, client_ca })
    }

    fn pair(&self, at: &At, map: TlsMap) -> Option<CertificateFiles> {
        let (cert_at, key_at) = (at.key("cert"), at.key("key"));
        for (name, text, like) in [
            ("cert", &map.cert, "fullchain.pem"),
            ("key", &map.key, "privkey.pem"),
        ] {
            if text.is_none() {
                let help = format!("add `{name}: {like}`");
                self.complain(Problem::at(at, format!("`{name}` is missing"), help));
            }
        }
        let (cert, key) = (
            self.fill(&cert_at, &map.cert?),
            self.fill(&key_at, &map.key?),
        );
        let (cert, key) = (cert?, key?);
        let files = CertificateFiles {
            cert: PathBuf::from(cert.text.trim()),
            key: PathBuf::from(key.text.trim()),
        };
        if !self.reads_certificates {
            return Some(files);
        }
        let read = Written::read(&files).and_then(|written| written.pair(&files, clock::now()));
        match read {
            Ok(_) => Some(files),
            Err(found) => {
                let value = match found.which {
                    Which::Certificate => &cert,
                    Which::Key => &key,
                };
                self.complain(Problem::with(value, wrong(found.cause, found.remedy)));
                None
            }
        }
    }
}
