//! Who is left alone by every censor of the lab: one process, told by the socket at the other end of a connection. On
//! loopback a carrier's subscriber and a control abroad come from one address; only the kernel can tell them apart.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// The process, once it is named; shared by all fronts.
#[derive(Debug, Clone, Default)]
pub struct Exempt(Arc<OnceLock<u32>>);

impl Exempt {
    /// Names the process; only the first time counts.
    pub fn name(&self, pid: u32) {
        let _named_before = self.0.set(pid);
    }

    /// Whether the connection from `peer` to `own` is that process's. Reads `/proc` as it is now: the connection must
    /// still be there.
    pub fn holds(&self, peer: SocketAddr, own: SocketAddr) -> bool {
        let held = || {
            let inode = inode_of(&std::fs::read_to_string("/proc/net/tcp").ok()?, peer, own)?;
            let socket = PathBuf::from(format!("socket:[{inode}]"));
            let mut files = std::fs::read_dir(format!("/proc/{}/fd", self.0.get()?)).ok()?.flatten();
            Some(files.any(|file| std::fs::read_link(file.path()).is_ok_and(|target| target == socket)))
        };
        self.0.get().is_some() && held().unwrap_or(false)
    }
}

/// The inode of the socket at `local` that talks to `remote`, by a table as `/proc/net/tcp` shows it.
fn inode_of(table: &str, local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    let (local, remote) = (as_shown(local)?, as_shown(remote)?);
    table.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let is_it = words.next()? == local && words.next()? == remote;
        // State, queues, timer, retransmits, user, timeout; then the inode.
        words.nth(6).filter(|_| is_it)?.parse().ok()
    })
}

/// An address as the kernel shows it: the bytes of the address in the machine's own order, the port in the wire's.
fn as_shown(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else { return None };
    let ip = |ip: &Ipv4Addr| u32::from_ne_bytes(ip.octets());
    Some(format!("{:08X}:{:04X}", ip(address.ip()), address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_connection_is_known_by_the_process_that_holds_its_other_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, peer) = listener.accept().unwrap();
        let own = accepted.local_addr().unwrap();
        let exempt = Exempt::default();
        assert!(!exempt.holds(peer, own));
        exempt.name(std::process::id());
        assert!(exempt.holds(peer, own));
        assert!(!exempt.holds("127.0.0.1:1".parse().unwrap(), own));
        let other = Exempt::default();
        other.name(u32::MAX);
        assert!(!other.holds(peer, own));
    }

    #[test]
    fn the_kernel_s_table_is_read_by_both_ends() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             \x20  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 17 1\n\
             \x20  1: 0100007F:C350 64003327:01BB 01 00000000:00000000 00:00000000 00000000     0        0 4711 1\n";
        let local = "127.0.0.1:50000".parse().unwrap();
        let check =
            |remote: &str, expected| assert_eq!(inode_of(table, local, remote.parse().unwrap()), expected);
        if cfg!(target_endian = "little") {
            check("39.51.0.100:443", Some(4_711));
        }
        check("39.51.0.100:444", None);
    }
}
