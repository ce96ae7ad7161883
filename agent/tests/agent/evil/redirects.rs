//! Servers and resolvers that send the visitor where it must not go. Inside a namespace: the mirror stands at an address
//! that passes for public, and a bait listens at every special one.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::child::{self, Reach, Scene};
use super::ground::{evil_resolver, linger, read_head};
use super::packets::{A, AAAA, INTERNET, Packet, SAME_NAME, kind};
use super::{Behaviour, evil, facts, http, meet, namespace};
use crate::world::HOST;

/// The test that starts itself once more in a namespace.
const SELF: &str = "evil::redirects::redirects_and_answers_never_lead_into_special_ranges";

/// A bait's port, and how often it was taken.
#[derive(Clone)]
struct Bait {
    port: u16,
    taken: Arc<AtomicUsize>,
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_and_answers_never_lead_into_special_ranges() {
    if namespace::is_inside() {
        no_forbidden_address_is_tried().await;
    } else {
        tokio::task::block_in_place(|| namespace::run_inside(SELF));
    }
}

/// In the namespace alone: its baits are addresses that are somebody's elsewhere.
async fn no_forbidden_address_is_tried() {
    let bait = lay_bait().await;
    let mut behaviours = locations(&bait);
    behaviours.extend(odd_locations(&bait));
    behaviours.extend(answers(&bait));
    meet("redirects", behaviours).await;
    assert_eq!(bait.taken.load(Ordering::SeqCst), 0, "a bait was taken");
    // The bait is one: who may go there is seen.
    let to = format!("http://10.0.0.1:{}/", bait.port);
    let scene = Scene { ranges: Reach::Anywhere, ..sending_to(&to).await };
    let run = child::probe(&scene, child::LONG_SECS).await.unwrap();
    assert!(facts::facts(&run.record).contains(&"h1: 200, 5 bytes, complete".to_owned()), "{run:?}");
    assert!(bait.taken.load(Ordering::SeqCst) > 0);
}

/// Locations that name a special address, plainly or in disguise.
fn locations(bait: &Bait) -> Vec<Behaviour> {
    const HOSTS: [(&str, &str, &str); 16] = [
        ("to loopback", "127.0.0.1", "loopback 127.0.0.0/8"),
        ("to a private address", "10.0.0.1", "private 10.0.0.0/8"),
        ("to a router", "192.168.0.1", "private 192.168.0.0/16"),
        ("to the metadata of a cloud", "169.254.169.254", "link-local 169.254.0.0/16"),
        ("to a carrier's own range", "100.64.0.1", "carrier-grade NAT 100.64.0.0/10"),
        ("to nowhere", "0.0.0.0", "this network 0.0.0.0/8"),
        ("to IPv6 loopback", "[::1]", "loopback ::1"),
        ("to IPv6 nowhere", "[::]", "unspecified ::"),
        ("to a unique local address", "[fd00::1]", "unique local fc00::/7"),
        ("to a v4-mapped address", "[::ffff:10.0.0.1]", "private 10.0.0.0/8"),
        ("to a NAT64 address", "[64:ff9b::a00:1]", "private 10.0.0.0/8"),
        ("to a 6to4 address", "[2002:a00:1::1]", "private 10.0.0.0/8"),
        ("to a decimal address", "167772161", "private 10.0.0.0/8"),
        ("to an octal address", "012.0.0.01", "private 10.0.0.0/8"),
        ("to a hexadecimal address", "0xa.0x0.0x0.0x1", "private 10.0.0.0/8"),
        ("to a short address", "127.1", "loopback 127.0.0.0/8"),
    ];
    let mut all = Vec::new();
    for (name, host, range) in HOSTS {
        let fact = format!("h1: 302, 0 bytes, redirect refused, * leads into a special range ({range})");
        let to = format!("http://{host}:{}/", bait.port);
        all.push(evil(name, fact.leak(), move || {
            let to = to.clone();
            async move { sending_to(&to).await }
        }));
    }
    for (name, resolved) in [("to a name at home", "inside.example"), ("to a mapped name", "mapped.example")]
    {
        let to = format!("http://{resolved}:{}/", bait.port);
        all.push(evil(
            name,
            "h1: 302, 0 bytes, redirect refused, * leads into a special range (*",
            move || {
                let to = to.clone();
                async move { sending_to(&to).await }
            },
        ));
    }
    all
}

/// Locations that are no way at all.
fn odd_locations(bait: &Bait) -> Vec<Behaviour> {
    const REFUSED: &str = "h1: 302, 0 bytes, redirect refused, *";
    let userinfo = format!("http://9.9.9.9@10.0.0.1:{}/", bait.port);
    let table: Vec<(&'static str, Vec<u8>)> = vec![
        ("to a file", b"file:///etc/passwd".to_vec()),
        ("to a script", b"javascript:alert(1)".to_vec()),
        ("to FTP", b"ftp://10.0.0.1/".to_vec()),
        ("to data", b"data:text/html,hello".to_vec()),
        ("with a user's name", userinfo.into_bytes()),
        ("to port 0", b"http://9.9.9.9:0/".to_vec()),
        ("to port 70000", b"http://9.9.9.9:70000/".to_vec()),
        ("to a zone", b"http://[fe80::1%25lo]/".to_vec()),
        ("to no host", b"http:///".to_vec()),
        ("to a host of brackets", b"http://[[[[/".to_vec()),
        ("to 60 KB of path", [b"/".as_slice(), &[b'x'; 60_000]].concat()),
        ("to 60 KB of host", [b"http://".as_slice(), &[b'x'; 60_000], b"/"].concat()),
    ];
    let mut all: Vec<Behaviour> = table
        .into_iter()
        .map(|(name, to)| {
            evil(name, REFUSED, move || {
                let to = to.clone();
                async move { sending_to_bytes(&to).await }
            })
        })
        .collect();
    all.extend([
        evil("round and round", "h1: 302, 0 bytes, redirect refused, more than 10 redirects", || {
            sending_to("/again")
        }),
        evil(
            "to bytes that are no text",
            "h1: 302, 0 bytes, redirect refused, more than 10 redirects",
            || sending_to_bytes(&[b'/', 0xff, 0xc0, 0x9b, 0xfe]),
        ),
        evil(
            "to another name each time",
            "h1: 302, 0 bytes, redirect refused, more than 10 redirects",
            || endless(|n, port| format!("http://{n}.hop.example:{port}/")),
        ),
        evil("to 1,000 bytes of path", "h1: 200, 5 bytes, complete", long_path),
        evil("a chain on each address, and garbage at its end", "h1: no status, 0 bytes, no HTTP, *", || {
            endless(|n, port| {
                if n % 11 == 10 { "garbage".to_owned() } else { format!("http://{n}.many.example:{port}/") }
            })
        }),
    ]);
    all
}

/// Resolvers that answer with special addresses.
fn answers(bait: &Bait) -> Vec<Behaviour> {
    let v4 = |a: u8, b: u8, c: u8, d: u8| IpAddr::from([a, b, c, d]);
    let v6 = |text: &str| IpAddr::V6(text.parse::<Ipv6Addr>().unwrap());
    let table = [
        ("only a private address", v4(10, 0, 0, 1), "private 10.0.0.0/8"),
        ("only loopback", v4(127, 0, 0, 1), "loopback 127.0.0.0/8"),
        ("only the unspecified address", v4(0, 0, 0, 0), "this network 0.0.0.0/8"),
        ("only multicast", v4(224, 0, 0, 1), "multicast 224.0.0.0/4"),
        ("only broadcast", v4(255, 255, 255, 255), "reserved 240.0.0.0/4"),
        ("only a v4-mapped address", v6("::ffff:10.0.0.1"), "private 10.0.0.0/8"),
        ("only a v4-compatible address", v6("::10.0.0.1"), "private 10.0.0.0/8"),
        ("only a NAT64 address", v6("64:ff9b::a00:1"), "private 10.0.0.0/8"),
        ("only a local NAT64 address", v6("64:ff9b:1::a00:1"), "local NAT64 64:ff9b:1::/48"),
        ("only a 6to4 address", v6("2002:a00:1::1"), "private 10.0.0.0/8"),
        ("only a Teredo address", v6("2001::a00:1"), "IETF assignments 2001::/23"),
        ("only a link-local address", v6("fe80::1"), "link-local fe80::/10"),
        ("only IPv6 multicast", v6("ff02::1"), "multicast ff00::/8"),
        ("only IPv6 loopback", v6("::1"), "loopback ::1"),
    ];
    let mut all = Vec::new();
    for (name, address, range) in table {
        let url = format!("http://{HOST}:{}/", bait.port);
        all.push(evil(name, format!("tcp: forbidden, {range}").leak(), move || {
            let url = url.clone();
            async move { resolved(url, vec![address]).await }
        }));
    }
    let url = format!("http://{HOST}:{}/", bait.port);
    all.push(evil("a public address, then private ones", "tcp: forbidden, private 10.0.0.0/8", move || {
        let url = url.replace(HOST, "rebound.example");
        // Nobody serves at the public address's port: the next is tried.
        async move { resolved(url, vec![v4(9, 9, 9, 5), v4(10, 0, 0, 1)]).await }
    }));
    all
}

/// Listens at every address of the namespace but the public one; a page waits there.
async fn lay_bait() -> Bait {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).await.unwrap();
    let bait = Bait { port: listener.local_addr().unwrap().port(), taken: Arc::default() };
    let taken = bait.taken.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            taken.fetch_add(1, Ordering::SeqCst);
            let _ = read_head(&mut stream).await;
            let _ = stream.write_all(http::PAGE.as_bytes()).await;
            let _ = linger(stream).await;
        }
    });
    bait
}

/// A mirror at the public address that sends everybody to `to`.
async fn sending_to(to: &str) -> Scene {
    sending_to_bytes(to.as_bytes()).await
}

async fn sending_to_bytes(to: &[u8]) -> Scene {
    let to = to.to_vec();
    serving(move |_, _| to.clone()).await
}

/// A mirror that sends each request on to the place of its number.
async fn endless(to: impl Fn(usize, u16) -> String + Send + Sync + 'static) -> Scene {
    let count = AtomicUsize::new(0);
    serving(move |_, port| to(count.fetch_add(1, Ordering::SeqCst), port).into_bytes()).await
}

/// A mirror whose page stands at the end of a long path, and nowhere before.
async fn long_path() -> Scene {
    let path = format!("/{}", "p".repeat(1_000));
    serving(move |asked, _| if asked == path { b"page".to_vec() } else { path.clone().into_bytes() }).await
}

/// A mirror at the public addresses. `to` says where a request for a path is sent; `page` and `garbage` are what they say.
async fn serving(to: impl Fn(&str, u16) -> Vec<u8> + Send + Sync + 'static) -> Scene {
    let listener = TcpListener::bind(SocketAddr::from(([0; 4], 0))).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let to = Arc::new(to);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let to = to.clone();
            tokio::spawn(async move {
                while let Ok(head) = read_head(&mut stream).await {
                    let to = to(head.split(' ').nth(1).unwrap_or_default(), port);
                    let answer = match to.as_slice() {
                        b"page" => http::PAGE.as_bytes().to_vec(),
                        b"garbage" => b"no HTTP at all\r\n\r\n".to_vec(),
                        to => [b"HTTP/1.1 302 Found\r\ncontent-length: 0\r\nlocation: ", to, b"\r\n\r\n"]
                            .concat(),
                    };
                    if stream.write_all(&answer).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    resolved(format!("http://{HOST}:{port}/"), namespace::PUBLIC.map(IpAddr::from).to_vec()).await
}

/// A probe of `url` with a resolver that gives these addresses for the mirror.
async fn resolved(url: String, addresses: Vec<IpAddr>) -> Scene {
    let answer = move |question: &[u8]| {
        let (has, kind) =
            (|text: &[u8]| question.windows(text.len()).any(|part| part == text), kind(question));
        let public = || vec![IpAddr::from(namespace::PUBLIC[0])];
        let found: Vec<IpAddr> = if has(b"\x06inside") {
            vec![[10, 0, 0, 1].into(), [192, 168, 0, 1].into()]
        } else if has(b"\x06mapped") {
            vec!["::ffff:10.0.0.1".parse().unwrap()]
        } else if has(b"\x03hop") || has(b"\x04many") {
            public()
        } else {
            addresses.clone()
        };
        let mut packet = Packet::to(question);
        for address in found {
            packet = match address {
                IpAddr::V4(v4) if kind == A => packet.record(SAME_NAME, A, INTERNET, &v4.octets()),
                IpAddr::V6(v6) if kind == AAAA => packet.record(SAME_NAME, AAAA, INTERNET, &v6.octets()),
                _ => packet,
            };
        }
        vec![packet.bytes()]
    };
    let resolver = evil_resolver(answer, linger).await;
    Scene { url, resolver, authority_pem: None, ranges: Reach::PublicOnly }
}
