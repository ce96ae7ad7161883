//! One address of the lab's internet as a carrier's subscribers reach it: relays bytes to the host behind it, and
//! interferes as the censor says. It reads no further than the first flight of the client.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::exempt::Exempt;
use crate::fleet::now;
use crate::hello::{self, FirstBytes, HELLO_LEN_MAX};
use crate::interference::{FirstStrike, Interference};

/// Connections held at once: far above what 25 agents open.
const CONNECTIONS_MAX: usize = 512;
/// How long a swallowed connection is held; clients give up long before.
const SWALLOW_MAX: Duration = Duration::from_secs(60);
/// Connections the kernel may queue.
const BACKLOG: u32 = 128;
/// Before the address is tried again, where another socket still holds it.
const REBIND_WAIT: Duration = Duration::from_millis(20);

/// A block page as Russian carriers show it.
const BLOCKPAGE_BODY: &str = "<html><head><title>Доступ ограничен</title></head><body>\
    Доступ к сайту ограничен в соответствии с Федеральными законами</body></html>";

/// Where a front stands and what the censor thinks of it.
#[derive(Debug, Clone)]
pub struct FrontPlan {
    /// The host behind it.
    pub upstream: SocketAddr,
    /// Names the censor listed.
    pub listed: Vec<String>,
    /// Whether the address itself is on the censor's list.
    pub address_listed: bool,
    /// Whether the host stands in the carrier's own country: reachable in whitelist mode.
    pub domestic: bool,
    /// Where the first connection struck is noted; addresses that refuse all connections note none.
    pub first_strike: FirstStrike,
    /// Whose connections pass whatever the censor does.
    pub exempt: Exempt,
}

/// A running front; stops when dropped.
#[derive(Debug)]
pub struct Front {
    address: SocketAddr,
    _task: JoinSet<()>,
}

/// What becomes of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Relay,
    Swallow,
    Reset,
    Close,
    Blockpage,
}

impl Front {
    /// Binds `address` and serves from now on.
    pub fn start(
        address: SocketAddr,
        plan: FrontPlan,
        censor: watch::Receiver<Interference>,
    ) -> io::Result<Self> {
        let listener = listen(address)?;
        let address = listener.local_addr()?;
        let mut task = JoinSet::new();
        task.spawn(serve(listener, address, Arc::new(plan), censor));
        Ok(Self { address, _task: task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A reopened address must not wait for its old connections to expire.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn serve(
    first: TcpListener,
    address: SocketAddr,
    plan: Arc<FrontPlan>,
    mut censor: watch::Receiver<Interference>,
) {
    let mut connections = JoinSet::new();
    let mut listener = Some(first);
    loop {
        let refuses = plan.address_listed && *censor.borrow_and_update() == Interference::RefuseTcp;
        if refuses {
            listener = None;
        } else if listener.is_none() {
            match listen(address) {
                Ok(open) => listener = Some(open),
                Err(_) => tokio::time::sleep(REBIND_WAIT).await,
            }
            continue;
        }
        while connections.try_join_next().is_some() {}
        let Some(open) = &listener else {
            if censor.changed().await.is_err() {
                return;
            }
            continue;
        };
        tokio::select! {
            changed = censor.changed() => if changed.is_err() { return },
            accepted = open.accept(), if connections.len() < CONNECTIONS_MAX => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(handle(stream, Arc::clone(&plan), censor.clone()));
                }
            }
            Some(_) = connections.join_next(), if connections.len() >= CONNECTIONS_MAX => {}
        }
    }
}

async fn handle(mut client: TcpStream, plan: Arc<FrontPlan>, censor: watch::Receiver<Interference>) {
    let _ = client.set_nodelay(true);
    let mut first = Vec::new();
    let Some(seen) = read_first(&mut client, &mut first).await else { return };
    let trick = *censor.borrow();
    let mut fate = fate(trick, &seen, &plan);
    if fate != Fate::Relay {
        let ends = client.peer_addr().ok().zip(client.local_addr().ok());
        if ends.is_some_and(|(peer, own)| plan.exempt.holds(peer, own)) {
            fate = Fate::Relay;
        } else {
            plan.first_strike.note(now());
        }
    }
    // Ends of connections are the lab's daily business: nobody is told.
    let _ended = match fate {
        Fate::Relay => relay(client, &first, plan.upstream).await,
        Fate::Swallow => swallow(client).await,
        Fate::Reset => SockRef::from(&client).set_linger(Some(Duration::ZERO)),
        Fate::Close => client.shutdown().await,
        Fate::Blockpage => show_blockpage(client).await,
    };
}

/// Reads until the first flight can be told; `None` if the client left before.
async fn read_first(client: &mut TcpStream, first: &mut Vec<u8>) -> Option<FirstBytes> {
    loop {
        let mut chunk = [0; 4096];
        let len = client.read(&mut chunk).await.ok().filter(|len| *len > 0)?;
        first.extend_from_slice(&chunk[..len]);
        match hello::read(first) {
            FirstBytes::Partial if first.len() < HELLO_LEN_MAX => {}
            seen => return Some(seen),
        }
    }
}

fn fate(trick: Interference, seen: &FirstBytes, plan: &FrontPlan) -> Fate {
    let is_listed = |name: &Option<String>| {
        name.as_ref().is_some_and(|name| plan.listed.iter().any(|listed| listed.eq_ignore_ascii_case(name)))
    };
    match (trick, seen) {
        (Interference::WhitelistOnly, _) if !plan.domestic => Fate::Swallow,
        (Interference::DropClientHello, FirstBytes::Tls { sni }) if is_listed(sni) => Fate::Swallow,
        (Interference::ResetOnClientHello, FirstBytes::Tls { sni }) if is_listed(sni) => Fate::Reset,
        (Interference::EofOnClientHello, FirstBytes::Tls { sni }) if is_listed(sni) => Fate::Close,
        (Interference::Blockpage, FirstBytes::Http { host }) if is_listed(host) => Fate::Blockpage,
        _ => Fate::Relay,
    }
}

async fn relay(mut client: TcpStream, first: &[u8], upstream: SocketAddr) -> io::Result<()> {
    // A dead origin closes the connection: dropping the client's stream does that.
    let mut origin = TcpStream::connect(upstream).await?;
    origin.set_nodelay(true)?;
    origin.write_all(first).await?;
    tokio::io::copy_bidirectional(&mut client, &mut origin).await.map(|_| ())
}

/// Reads and says nothing, as a box that drops packets looks from outside.
async fn swallow(mut client: TcpStream) -> io::Result<()> {
    let mut sink = [0; 4096];
    let reading = async {
        while client.read(&mut sink).await? > 0 {}
        io::Result::Ok(())
    };
    tokio::time::timeout(SWALLOW_MAX, reading).await.unwrap_or(Ok(()))
}

async fn show_blockpage(mut client: TcpStream) -> io::Result<()> {
    let page = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{BLOCKPAGE_BODY}",
        BLOCKPAGE_BODY.len()
    );
    client.write_all(page.as_bytes()).await?;
    client.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hello::tests::hello;

    const NAME: &str = "m1.lab.test";

    /// An origin that answers everything with "origin", a front before it, and the censor's switch.
    async fn lab(domestic: bool) -> (Front, watch::Sender<Interference>, JoinSet<()>) {
        let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = origin.local_addr().unwrap();
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                let (mut stream, _) = origin.accept().await.unwrap();
                let mut first = [0; 1];
                stream.read_exact(&mut first).await.unwrap();
                stream.write_all(b"origin").await.unwrap();
                let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            }
        });
        let plan = FrontPlan {
            upstream,
            listed: vec![NAME.to_owned()],
            address_listed: true,
            domestic,
            first_strike: FirstStrike::default(),
            exempt: Exempt::default(),
        };
        let (switch, censor) = watch::channel(Interference::Pass);
        (Front::start("127.0.0.1:0".parse().unwrap(), plan, censor).unwrap(), switch, task)
    }

    /// How long a silence is listened to, and how long anything else may take on a busy machine.
    const SILENCE: Duration = Duration::from_millis(300);
    const PATIENCE: Duration = Duration::from_secs(60);

    /// A client that sends `bytes` must meet that.
    async fn check(front: &Front, bytes: &[u8], expected: &str) {
        let wait = if expected == "silence" { SILENCE } else { PATIENCE };
        assert_eq!(meet(front, bytes, wait).await, expected);
    }

    /// What a client that sends `bytes` meets: the first bytes of the answer, or the error's kind, or silence.
    async fn meet(front: &Front, bytes: &[u8], wait: Duration) -> String {
        let mut stream = match TcpStream::connect(front.address()).await {
            Ok(stream) => stream,
            Err(error) => return format!("{:?}", error.kind()),
        };
        stream.write_all(bytes).await.unwrap();
        let mut answer = [0; 6];
        match tokio::time::timeout(wait, stream.read(&mut answer)).await {
            Err(_) => "silence".to_owned(),
            Ok(Ok(0)) => "eof".to_owned(),
            Ok(Ok(len)) => String::from_utf8_lossy(&answer[..len]).into_owned(),
            Ok(Err(error)) => format!("{:?}", error.kind()),
        }
    }

    #[tokio::test]
    async fn a_listed_name_meets_the_trick_and_a_neutral_one_passes() {
        let (front, switch, _origin) = lab(false).await;
        for (trick, expected) in [
            (Interference::Pass, "origin"),
            (Interference::DropClientHello, "silence"),
            (Interference::ResetOnClientHello, "ConnectionReset"),
            (Interference::EofOnClientHello, "eof"),
            (Interference::PoisonDns { address: std::net::Ipv4Addr::LOCALHOST }, "origin"),
            (Interference::Blockpage, "origin"),
        ] {
            switch.send(trick).unwrap();
            println!("{trick:?}, then a neutral name");
            check(&front, &hello(NAME), expected).await;
            check(&front, &hello("www.example.com"), "origin").await;
        }
    }

    #[tokio::test]
    async fn a_refused_address_opens_again() {
        let (front, switch, _origin) = lab(false).await;
        let settle = async |expected: &str| {
            // The listener's task hears of the switch a moment after us.
            while meet(&front, &hello("www.example.com"), PATIENCE).await != expected {
                tokio::task::yield_now().await;
            }
        };
        for _ in 0..3 {
            switch.send(Interference::RefuseTcp).unwrap();
            settle("ConnectionRefused").await;
            switch.send(Interference::Pass).unwrap();
            settle("origin").await;
        }
    }

    #[tokio::test]
    async fn whitelist_mode_swallows_the_foreign_alone() {
        for (domestic, expected) in [(false, "silence"), (true, "origin")] {
            let (front, switch, _origin) = lab(domestic).await;
            switch.send(Interference::WhitelistOnly).unwrap();
            check(&front, &hello("www.example.com"), expected).await;
        }
    }

    #[tokio::test]
    async fn a_block_page_answers_plain_requests_for_the_listed_host() {
        let (front, switch, _origin) = lab(false).await;
        switch.send(Interference::Blockpage).unwrap();
        check(&front, b"GET / HTTP/1.1\r\nHost: m1.lab.test\r\n\r\n", "HTTP/1").await;
        check(&front, b"GET / HTTP/1.1\r\nHost: other.lab.test\r\n\r\n", "origin").await;
    }
}
