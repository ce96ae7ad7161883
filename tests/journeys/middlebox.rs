//! Who sits between an agent and its collector: counts, freezes, cuts, and sees what passes.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// Under the collector's own name: what is between is no relay.
const PLACE: &str = "127.0.0.81:0";
/// How long anything may take before it is called stuck.
const STUCK: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// A place for UDP that nobody uses; loopback's 81 is the collector's name.
pub fn free_udp(last: u8) -> SocketAddr {
    std::net::UdpSocket::bind((Ipv4Addr::new(127, 0, 0, last), 0)).unwrap().local_addr().unwrap()
}

/// Bytes that passed over one connection, up and down.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Carried {
    pub up: u64,
    pub down: u64,
}

/// Before the collector's port for TCP.
pub struct TcpBox {
    pub address: SocketAddr,
    listener: Option<TcpListener>,
    carried: Arc<Mutex<Vec<Carried>>>,
}

/// What it does to connections.
#[derive(Debug, Clone, Copy)]
pub enum Trick {
    /// Each carries so many bytes either way; what comes after them is swallowed, and nobody hears of it.
    FreezeAfter(u64),
    /// The one with this number, from 0, is closed without a byte.
    Refuse(usize),
}

impl TcpBox {
    /// Takes its address; nothing passes before [`TcpBox::open`].
    pub async fn new() -> Self {
        let listener = TcpListener::bind(PLACE).await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { address, listener: Some(listener), carried: Arc::default() }
    }

    pub fn open(&mut self, collector: SocketAddr, trick: Trick) {
        let (listener, carried) = (self.listener.take().unwrap(), self.carried.clone());
        tokio::spawn(async move {
            while let Ok((agent, _)) = listener.accept().await {
                let number = {
                    let mut carried = carried.lock().unwrap();
                    carried.push(Carried::default());
                    carried.len() - 1
                };
                let limit = match trick {
                    Trick::Refuse(refused) if refused == number => continue,
                    Trick::Refuse(_) => u64::MAX,
                    Trick::FreezeAfter(limit) => limit,
                };
                let Ok(collector) = TcpStream::connect(collector).await else { continue };
                let (from_agent, to_agent) = agent.into_split();
                let (from_collector, to_collector) = collector.into_split();
                let (up, down) = (carried.clone(), carried.clone());
                let count_up = move |bytes| up.lock().unwrap()[number].up += bytes;
                let count_down = move |bytes| down.lock().unwrap()[number].down += bytes;
                tokio::spawn(pass(from_agent, to_collector, limit, count_up));
                tokio::spawn(pass(from_collector, to_agent, limit, count_down));
            }
        });
    }

    /// Every connection so far.
    pub fn connections(&self) -> Vec<Carried> {
        self.carried.lock().unwrap().clone()
    }
}

/// Passes bytes up to the limit, then swallows; a connection's end is passed on where nothing was swallowed.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, limit: u64, count: impl Fn(u64)) {
    let (mut left, mut buffer) = (limit, vec![0; 4096]);
    while let Ok(len @ 1..) = from.read(&mut buffer).await {
        let passes = len.min(usize::try_from(left).unwrap_or(usize::MAX));
        left -= passes as u64;
        count(passes as u64);
        if to.write_all(&buffer[..passes]).await.is_err() {
            return;
        }
    }
    if left > 0 {
        let _ = to.shutdown().await;
    }
}

/// What passed a [`Tap`], in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passed {
    Up,
    Down,
    Mark(u8),
}

/// Before the collector's port for QUIC: sees every datagram of one agent. A mark goes through the same queue as the agent's
/// datagrams, so that what was sent before it stands before it.
pub struct Tap {
    pub address: SocketAddr,
    passed: Arc<Mutex<Vec<Passed>>>,
    marker: UdpSocket,
}

impl Tap {
    pub async fn before(collector: SocketAddr) -> Self {
        let front = UdpSocket::bind(PLACE).await.unwrap();
        let back = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        back.connect(collector).await.unwrap();
        let marker = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (address, marks_from) = (front.local_addr().unwrap(), marker.local_addr().unwrap());
        marker.connect(address).await.unwrap();
        let passed = Arc::<Mutex<Vec<Passed>>>::default();
        let seen = passed.clone();
        tokio::spawn(async move {
            let (mut up, mut down, mut agent) = ([0; 65_536], vec![0; 65_536], None);
            loop {
                tokio::select! {
                    biased;
                    Ok((len, from)) = front.recv_from(&mut up) => {
                        if from == marks_from {
                            seen.lock().unwrap().push(Passed::Mark(up[0]));
                            continue;
                        }
                        seen.lock().unwrap().push(Passed::Up);
                        agent = Some(from);
                        let _ = back.send(&up[..len]).await;
                    }
                    // Refused while the collector does not listen yet.
                    received = back.recv(&mut down) => if let (Ok(len), Some(agent)) = (received, agent) {
                        seen.lock().unwrap().push(Passed::Down);
                        let _ = front.send_to(&down[..len], agent).await;
                    },
                }
            }
        });
        Self { address, passed, marker }
    }

    /// Everything so far.
    pub fn passed(&self) -> Vec<Passed> {
        self.passed.lock().unwrap().clone()
    }

    /// Sets a mark, and waits until it stands among what passed.
    pub async fn mark(&self, name: u8) {
        self.marker.send(&[name]).await.unwrap();
        self.until("the mark", |passed| passed.contains(&Passed::Mark(name))).await;
    }

    /// Waits until what passed is as wanted.
    pub async fn until(&self, what: &str, is_so: impl Fn(&[Passed]) -> bool) {
        let began = Instant::now();
        while !is_so(&self.passed()) {
            assert!(began.elapsed() < STUCK, "{what}: {:?}", self.passed());
            tokio::time::sleep(POLL).await;
        }
    }
}
