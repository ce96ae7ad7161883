//! What the kernel knows of a TCP connection (TCP_INFO): how much of ours the peer acknowledged, how often we had to send
//! it again. So a ClientHello that was never acknowledged and one that was, before the silence, are two facts.
//!
//! The only file of the agent with unsafe code: no maintained crate reads TCP_INFO without generating bindings at build time.

use std::mem::{MaybeUninit, offset_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use zerkalo_core::record::Transport;

/// A second handle on a connection's socket: outlives the streams above it, so that its last state can be read after
/// they gave up. The connection is closed once the gauge is gone too.
#[derive(Debug)]
pub struct Gauge {
    socket: OwnedFd,
}

impl Gauge {
    /// `None` where the process has no file descriptor left: then this is not known, and the step goes on.
    pub fn on(socket: &impl AsFd) -> Option<Self> {
        Some(Self { socket: socket.as_fd().try_clone_to_owned().ok()? })
    }

    /// The state at this instant.
    pub fn read(&self) -> Option<Transport> {
        let info = tcp_info(self.socket.as_fd())?;
        Some(Transport {
            // Linux counts the acknowledged SYN as a byte.
            bytes_acked: info.tcpi_bytes_acked.saturating_sub(1),
            bytes_received: info.tcpi_bytes_received,
            unacked_segments: info.tcpi_unacked,
            retransmits: info.tcpi_total_retrans,
        })
    }
}

/// `None` where the kernel refuses, or is too old (before 4.1) to count bytes.
#[allow(unsafe_code)]
fn tcp_info(socket: BorrowedFd<'_>) -> Option<libc::tcp_info> {
    const NEEDED_LEN: usize = offset_of!(libc::tcp_info, tcpi_segs_out);
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is open while it is borrowed. The kernel writes at most `len` bytes to the pointer, which is
    // the size of what it points to. The structure holds integers only, so zeroes, and whatever is written over them,
    // make a value.
    let info = unsafe {
        let pointer = info.as_mut_ptr().cast();
        if libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, pointer, &raw mut len) != 0
        {
            return None;
        }
        info.assume_init()
    };
    (len as usize >= NEEDED_LEN).then_some(info)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};

    #[test]
    fn what_the_peer_took_is_counted_byte_by_byte() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let gauge = Gauge::on(&ours).unwrap();
        let before = gauge.read().unwrap();
        assert_eq!((before.bytes_acked, before.bytes_received, before.unacked_segments), (0, 0, 0));
        let (mut peer, _) = listener.accept().unwrap();
        ours.write_all(b"question").unwrap();
        let mut taken = [0; 8];
        peer.read_exact(&mut taken).unwrap();
        // The acknowledgement travels with the answer.
        peer.write_all(b"yes").unwrap();
        ours.read_exact(&mut taken[..3]).unwrap();
        drop(ours);
        let after = gauge.read().unwrap();
        assert_eq!((after.bytes_acked, after.bytes_received), (8, 3));
    }

    #[test]
    fn what_is_no_tcp_connection_has_no_state() {
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(Gauge::on(&datagrams).unwrap().read(), None);
    }
}
