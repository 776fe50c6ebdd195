//! Memory that is kept out of swap. The one user of the `region` crate.

use std::sync::Once;

use region::LockGuard;
use zeroize::Zeroize;

/// Secret bytes on locked pages that nothing else shares, wiped on drop.
///
/// Locking goes by whole pages and is not counted: two secrets on one page would unlock each other.
/// When the system refuses (`RLIMIT_MEMLOCK`), that is logged once and the bytes stay unlocked.
pub(crate) struct Locked {
    /// Unlocks on drop, after [`Drop`] wiped and before `buffer` is freed.
    _guard: Option<LockGuard>,
    buffer: Box<[u8]>,
    start: usize,
    length: usize,
}

impl Locked {
    /// Copies `secret`; the caller wipes its own.
    pub(crate) fn new(secret: &[u8]) -> Self {
        let page = region::page::size();
        let length = secret.len();
        let pages = length.max(1).div_ceil(page) * page;
        // One page more than needed leaves room to begin at the start of a page.
        let mut buffer = vec![0; pages + page].into_boxed_slice();
        let start = buffer.as_ptr().align_offset(page).min(page);
        let guard = lock(&buffer[start..start + pages]);
        buffer[start..start + length].copy_from_slice(secret);
        Self { _guard: guard, buffer, start, length }
    }

    pub(crate) fn expose_secret(&self) -> &[u8] {
        &self.buffer[self.start..self.start + self.length]
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.buffer[self.start..self.start + self.length].zeroize();
    }
}

fn lock(pages: &[u8]) -> Option<LockGuard> {
    static WARNED: Once = Once::new();
    match region::lock(pages.as_ptr(), pages.len()) {
        Ok(guard) => Some(guard),
        Err(error) => {
            WARNED.call_once(|| {
                tracing::warn!(
                    %error,
                    "private keys are read in memory that may be swapped out; raise the \
                     memory-lock limit (LimitMEMLOCK= of systemd, ulimit -l)"
                );
            });
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static_assertions::assert_not_impl_any!(Locked: std::fmt::Debug, Clone, PartialEq);

    fn locked_kib() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmLck:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn bytes_are_on_locked_pages_of_their_own() {
        let page = region::page::size();
        for length in [0, 1, 48, page - 1, page, page + 1, 3 * page] {
            let before = locked_kib();
            let secret = vec![7; length];
            let locked = Locked::new(&secret);
            assert_eq!(locked.expose_secret(), secret);
            assert_eq!(locked.expose_secret().as_ptr().addr() % page, 0);
            assert!(locked_kib() > before, "nothing is locked; raise the memory-lock limit");
            drop(locked);
            assert_eq!(locked_kib(), before);
        }
    }

    #[test]
    fn one_does_not_unlock_another() {
        let first = Locked::new(&[1; 32]);
        let one = locked_kib();
        drop(Locked::new(&[2; 32]));
        assert_eq!(locked_kib(), one);
        assert_eq!(first.expose_secret(), [1; 32]);
    }
}
