//! Which boxes are neighbours: a keyed digest of the /24 (IPv6: /48) a stream comes from, so that a person with ten boxes in
//! one street is one voice. The address itself is never stored, and without the key a digest tells nobody where it is:
//! the key stays in the collector's own directory and never reaches the journal.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use zerkalo_core::address::{require_public, unwrap_embedded};
use zerkalo_core::words::Vicinity;
use zerkalo_durable::credentials;

use crate::clock;

/// The key, in the collector's directory. Lost, it is made anew: neighbours are then told apart from their next streams on.
pub const VICINITY_KEY: &str = "vicinity.key";
const KEY_LEN: usize = 32;

/// The secret half of a vicinity. Never printed.
#[derive(Clone)]
pub struct VicinityKey([u8; KEY_LEN]);

impl std::fmt::Debug for VicinityKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VicinityKey(..)")
    }
}

impl VicinityKey {
    /// Reads the key of a collector's directory, or makes it, once.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let path = credentials::file_of(&dir.join(VICINITY_KEY));
        match fs::read(&path) {
            Ok(bytes) => bytes.try_into().map(Self).map_err(|bytes: Vec<u8>| {
                let text = format!(
                    "it holds {} bytes in place of {KEY_LEN}; remove it, a new one is made",
                    bytes.len()
                );
                io::Error::new(io::ErrorKind::InvalidData, text)
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::make(dir, &path),
            Err(error) => Err(error),
        }
    }

    /// Under another name first: a crash leaves no half of a key.
    fn make(dir: &Path, path: &Path) -> io::Result<Self> {
        let key = Self(clock::random());
        let unfinished = path.with_extension("key.new");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(&key.0)?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        File::open(dir)?.sync_all()?;
        Ok(key)
    }

    /// The neighbourhood of an address; none of private, loopback, CGNAT and other special ranges, where strangers share
    /// numbers.
    pub fn vicinity(&self, address: IpAddr) -> Option<Vicinity> {
        let address = unwrap_embedded(address);
        require_public(address).ok()?;
        let network = match address {
            IpAddr::V4(v4) => [&[4], &v4.octets()[..3]].concat(),
            IpAddr::V6(v6) => [&[6], &v6.octets()[..6]].concat(),
        };
        let digest = hmac_sha256::HMAC::mac(&network, self.0);
        digest.first_chunk().copied().map(Vicinity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_share_a_vicinity_and_others_do_not() {
        let key = VicinityKey([7; KEY_LEN]);
        let of = |address: &str| key.vicinity(address.parse().unwrap());
        assert!(of("95.167.13.50").is_some());
        assert_eq!(of("95.167.13.50"), of("95.167.13.201"));
        assert_eq!(of("95.167.13.50"), of("::ffff:95.167.13.9"));
        assert_ne!(of("95.167.13.50"), of("95.167.14.50"));
        assert_eq!(of("2a00:1370:8100:1::1"), of("2a00:1370:8100:ffff::2"));
        assert_ne!(of("2a00:1370:8100::1"), of("2a00:1370:8101::1"));
        assert_ne!(of("95.167.13.50"), VicinityKey([8; KEY_LEN]).vicinity("95.167.13.50".parse().unwrap()));
    }

    #[test]
    fn special_ranges_have_none() {
        let key = VicinityKey([7; KEY_LEN]);
        for address in
            ["127.0.0.1", "10.1.2.3", "192.168.1.1", "100.64.3.4", "169.254.1.1", "::1", "fd00::1", "fe80::1"]
        {
            assert_eq!(key.vicinity(address.parse().unwrap()), None, "{address}");
        }
    }

    #[test]
    fn the_key_is_made_once_and_kept_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let first = VicinityKey::open(dir.path()).unwrap();
        assert_eq!(VicinityKey::open(dir.path()).unwrap().0, first.0);
        let path = dir.path().join(VICINITY_KEY);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!format!("{first:?}").contains(&hex::encode(first.0)[..8]));
        fs::write(&path, b"short").unwrap();
        assert!(VicinityKey::open(dir.path()).unwrap_err().to_string().contains("5 bytes"));
    }
}
