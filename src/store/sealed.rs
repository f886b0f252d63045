//! Large bodies, kept where the kernel can send them from without a copy: in a memory file that nobody can change any more,
//! mapped so that they are bytes like any others to whoever does not send them on a plain socket.
//!
//! Of a body of a megabyte nearly all of a hit is the copy into the kernel; `sendfile` takes the pages themselves. That a slice lies
//! in such a file is found by its address, so nobody on the way from the store to the socket need know of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use memmap2::Mmap;
use parking_lot::RwLock;
use rustix::fs::{MemfdFlags, SealFlags};

/// Shorter bodies are cheaper copied.
pub const LEAST: usize = 128 * 1024;

/// So many at most, as each takes a descriptor.
pub const MOST: usize = 2048;

/// So many as there are descriptors for.
static ROOM: AtomicUsize = AtomicUsize::new(64);

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// By the address at which each begins.
static ALL: RwLock<BTreeMap<usize, Place>> = RwLock::new(BTreeMap::new());

struct Place {
    end: usize,
    file: Arc<File>,
}

/// One body. Dropped, its memory is free.
struct Sealed {
    map: Mmap,
    _counted: Counted,
}

struct Counted;

impl Drop for Counted {
    fn drop(&mut self) {
        COUNT.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AsRef<[u8]> for Sealed {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for Sealed {
    fn drop(&mut self) {
        ALL.write().remove(&(self.map.as_ptr() as usize));
    }
}

/// There are descriptors for so many.
pub fn allow(files: usize) {
    ROOM.store(files.min(MOST), Ordering::Relaxed);
}

/// The same bytes in a file of their own. `None`: they stay where they are, for they are too short, or there are too many such
/// files, or no more descriptors.
pub fn keep(body: &Bytes) -> Option<Bytes> {
    if body.len() < LEAST || find(body).is_some() {
        return None;
    }
    if COUNT.fetch_add(1, Ordering::Relaxed) >= ROOM.load(Ordering::Relaxed) {
        drop(Counted);
        return None;
    }
    let sealed = seal(body, Counted).ok()?;
    Some(Bytes::from_owner(sealed))
}

#[expect(
    unsafe_code,
    reason = "half of the CPU time of a hit of a megabyte: benches/README.md"
)]
fn seal(body: &[u8], counted: Counted) -> io::Result<Sealed> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(rustix::fs::memfd_create("larder-body", flags)?);
    file.write_all(body)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    // SAFETY: a map must not change under its readers. This file has no name, and is sealed against every change of its
    // contents and its length, also by whoever else might come by its descriptor.
    let map = unsafe { Mmap::map(&file)? };
    let start = map.as_ptr() as usize;
    let place = Place {
        end: start + map.len(),
        file: Arc::new(file),
    };
    ALL.write().insert(start, place);
    Ok(Sealed {
        map,
        _counted: counted,
    })
}

/// The file in which these bytes lie, and where in it they begin.
pub fn find(bytes: &[u8]) -> Option<(Arc<File>, u64)> {
    if bytes.len() < LEAST {
        return None;
    }
    let start = bytes.as_ptr() as usize;
    let all = ALL.read();
    let (begin, place) = all.range(..=start).next_back()?;
    (start + bytes.len() <= place.end).then(|| (place.file.clone(), (start - begin) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_large_body_is_found_by_any_part_of_it_that_is_large_and_is_gone_with_its_last_reader() {
        let body: Vec<u8> = (0..3 * LEAST).map(|n| n as u8).collect();
        let body = Bytes::from(body);
        assert!(find(&body).is_none());
        let kept = keep(&body).unwrap();
        assert_eq!(kept, body);
        assert!(keep(&kept).is_none(), "it is kept so already");
        let part = kept.slice(1000..1000 + LEAST);
        let (file, offset) = find(&part).unwrap();
        let mut read = vec![0; part.len()];
        file.read_exact_at(&mut read, offset).unwrap();
        assert_eq!(read, part);
        assert!(file.write_at(b"x", 0).is_err() && file.set_len(1).is_err());
        assert!(find(&kept[..LEAST - 1]).is_none());
        let at = kept.as_ptr() as usize;
        drop(kept);
        assert!(ALL.read().contains_key(&at), "a part of it is still read");
        drop(part);
        assert!(!ALL.read().contains_key(&at));
        assert!(keep(&Bytes::from_static(b"short")).is_none());
    }
}
