//! Resolvers that lie, loop, flood or break off.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::child::{Reach, Scene};
use super::ground::{drip, evil_resolver, linger};
use super::packets::{A, AAAA, ANSWER, CNAME, INTERNET, Packet, SAME_NAME, TRUNCATED, TXT, kind, name};
use super::{Behaviour, evil};
use crate::world::{HOST, loopback};

/// An address without a server, where a resolver's answer is to be followed.
const NOWHERE: [u8; 4] = [127, 0, 0, 9];

pub fn behaviours() -> Vec<Behaviour> {
    let mut all = vec![
        evil("a name that points to itself", "dns A: failed: *", || udp(pointer_to_itself)),
        evil("two names that point to each other", "dns A: failed: *", || udp(pointers_in_a_circle)),
        evil("a name that points forward", "dns A: failed: *", || udp(pointer_forward)),
        evil("a label of 255 bytes", "dns A: failed: *", || udp(label_of_255)),
        evil("more answers claimed than sent", "dns A: failed: *", || udp(more_claimed)),
        evil("65,535 of everything claimed", "dns A: failed: *", || udp(everything_claimed)),
        evil("garbage after the header", "dns A: failed: *", || udp(garbage_after_header)),
        evil("an address of three bytes", "dns A: failed: *", || udp(short_address)),
        evil("a header and no more", "dns A: rcode 0, 0 addresses*", || udp(header_alone)),
        evil("one byte", "dns A: timeout, 0 others", || udp(|_| vec![vec![0]])),
        evil("an empty datagram", "dns A: timeout, 0 others", || udp(|_| vec![vec![]])),
        evil("the question sent back", "dns A: timeout, 0 others", || udp(|q| vec![q.to_vec()])),
        evil("an alias of itself", "dns A: rcode 0, 0 addresses, 1 aliases*", || udp(alias_of_itself)),
        evil("two aliases in a circle", "dns A: rcode 0, 0 addresses, 2 aliases*", || udp(alias_circle)),
        evil("a hundred aliases", "dns A: rcode 0, 1 addresses, 16 aliases*", || udp(hundred_aliases)),
        evil("an alias and no address", "dns A: rcode 0, 0 addresses, 1 aliases*", || udp(alias_alone)),
        evil("an alias with a NUL and an escape", "dns A: rcode 0, 1 addresses, 1 aliases*", || {
            udp(alias_with_controls)
        }),
        evil("another question answered", "dns A: timeout, 8 others", || udp(another_question)),
        evil("a flood of other ids", "dns A: rcode 0, 1 addresses, 0 aliases, 8 others", || udp(other_ids)),
        evil("the class CHAOS", "dns A: *", || udp(chaos)),
        evil("a huge text and no address", "dns A: rcode 0, 0 addresses*", || udp(huge_text)),
        evil("a response code nobody knows", "dns A: rcode 15*", || udp(unknown_rcode)),
        evil("a response code of EDNS", "dns A: rcode 4095*", || udp(extended_rcode)),
        evil("two OPT records", "dns A: failed: *", || udp(two_opts)),
        evil("two hundred answers at once", "dns A: rcode 0, 1 addresses, 0 aliases, 8 others", || {
            udp(two_hundred_answers)
        }),
        evil("an answer from another port", "dns A: timeout, 0 others", from_another_port),
        evil("an unspecified address", "tcp: *", || udp(|q| addresses(q, &[[0; 4]], &[[0; 16]]))),
    ];
    all.extend(over_tcp());
    all
}

fn over_tcp() -> Vec<Behaviour> {
    vec![
        evil("4,000 addresses", "dns A: rcode 0, 32 addresses*", || {
            truncated(|mut stream, question| async move {
                let mut packet = Packet::to(&question);
                for n in 0..4_000u16 {
                    let [high, low] = n.to_be_bytes();
                    packet = packet.record(SAME_NAME, A, INTERNET, &[127, 9, high, low]);
                }
                send(&mut stream, &packet.bytes()).await
            })
        }),
        evil("truncated for ever", "dns A: rcode 0, 1 addresses*", || {
            truncated(|mut stream, question| async move {
                send(&mut stream, &truncated_answer(&question)[0]).await
            })
        }),
        evil("TCP that says nothing", "dns A: rcode 0, 1 addresses*", || {
            truncated(|stream, _| linger(stream))
        }),
        evil("TCP that closes", "dns A: rcode 0, 1 addresses*", || truncated(|_, _| async { Ok(()) })),
        evil("a TCP answer of no bytes", "dns A: rcode 0, 1 addresses*", || {
            truncated(|mut stream, _| async move {
                stream.write_u16(0).await?;
                linger(stream).await
            })
        }),
        evil("65,535 bytes by TCP, one by one", "dns A: rcode 0, 1 addresses*", || {
            truncated(|mut stream, _| async move {
                stream.write_u16(u16::MAX).await?;
                drip(&mut stream, &[0]).await
            })
        }),
        evil("65,535 bytes of garbage by TCP", "dns A: rcode 0, 1 addresses*", || {
            truncated(|mut stream, _| async move { send(&mut stream, &[0xc0; 65_535]).await })
        }),
    ]
}

/// A resolver that answers each datagram as told; by TCP it says nothing.
async fn udp(answer: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Scene {
    named(evil_resolver(answer, linger).await)
}

fn named(resolver: SocketAddr) -> Scene {
    Scene { url: format!("http://{HOST}:9/"), resolver, authority_pem: None, ranges: Reach::Anywhere }
}

/// A resolver that sends to TCP, and there does as told.
async fn truncated<F>(serve: impl Fn(TcpStream, Vec<u8>) -> F + Send + Sync + 'static) -> Scene
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let serve = Arc::new(serve);
    let by_tcp = move |mut stream: TcpStream| {
        let serve = serve.clone();
        async move {
            let mut question = vec![0; usize::from(stream.read_u16().await?)];
            stream.read_exact(&mut question).await?;
            serve(stream, question).await
        }
    };
    named(evil_resolver(truncated_answer, by_tcp).await)
}

fn truncated_answer(question: &[u8]) -> Vec<Vec<u8>> {
    let packet = Packet::to(question).with_flags(ANSWER | TRUNCATED);
    vec![packet.record(SAME_NAME, kind(question), INTERNET, address(question)).bytes()]
}

/// An address of the kind asked for.
fn address(question: &[u8]) -> &'static [u8] {
    if kind(question) == AAAA { &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 9] } else { &NOWHERE }
}

async fn send(stream: &mut TcpStream, message: &[u8]) -> std::io::Result<()> {
    stream.write_u16(message.len() as u16).await?;
    stream.write_all(message).await
}

fn addresses(question: &[u8], v4: &[[u8; 4]], v6: &[[u8; 16]]) -> Vec<Vec<u8>> {
    let mut packet = Packet::to(question);
    let found: Vec<&[u8]> = match kind(question) {
        A => v4.iter().map(<[u8; 4]>::as_slice).collect(),
        AAAA => v6.iter().map(<[u8; 16]>::as_slice).collect(),
        _ => Vec::new(),
    };
    for address in found {
        packet = packet.record(SAME_NAME, kind(question), INTERNET, address);
    }
    vec![packet.bytes()]
}

/// Where the first answer begins.
fn first_answer(question: &[u8]) -> u16 {
    Packet::to(question).bytes().len() as u16
}

fn pointer(place: u16) -> [u8; 2] {
    (0xc000 | place).to_be_bytes()
}

fn pointer_to_itself(question: &[u8]) -> Vec<Vec<u8>> {
    let loops = pointer(first_answer(question));
    vec![Packet::to(question).record(&loops, A, INTERNET, &NOWHERE).bytes()]
}

fn pointers_in_a_circle(question: &[u8]) -> Vec<Vec<u8>> {
    let start = first_answer(question);
    let circle = [pointer(start + 2), pointer(start)].concat();
    vec![Packet::to(question).record(&circle, A, INTERNET, &NOWHERE).bytes()]
}

fn pointer_forward(question: &[u8]) -> Vec<Vec<u8>> {
    let ahead = pointer(first_answer(question) + 16);
    vec![Packet::to(question).record(&ahead, A, INTERNET, &NOWHERE).raw(&name("x.example")).bytes()]
}

fn label_of_255(question: &[u8]) -> Vec<Vec<u8>> {
    let long = [&[0xff][..], &[b'x'; 255], &[0]].concat();
    vec![Packet::to(question).record(&long, A, INTERNET, &NOWHERE).bytes()]
}

fn more_claimed(question: &[u8]) -> Vec<Vec<u8>> {
    let mut packet = Packet::to(question).record(SAME_NAME, A, INTERNET, &NOWHERE);
    packet.counts[1] = 500;
    vec![packet.bytes()]
}

fn everything_claimed(question: &[u8]) -> Vec<Vec<u8>> {
    let mut packet = Packet::to(question);
    packet.counts = [u16::MAX; 4];
    vec![packet.bytes()]
}

fn garbage_after_header(question: &[u8]) -> Vec<Vec<u8>> {
    let mut packet = Packet::to(question).raw(&[0xfe; 600]);
    packet.counts = [1, 40, 0, 0];
    vec![packet.bytes()]
}

fn short_address(question: &[u8]) -> Vec<Vec<u8>> {
    vec![Packet::to(question).record(SAME_NAME, A, INTERNET, &NOWHERE[..3]).bytes()]
}

fn header_alone(question: &[u8]) -> Vec<Vec<u8>> {
    let mut packet = Packet::to(question);
    packet.counts = [0; 4];
    vec![packet.bytes()[..12].to_vec()]
}

fn alias_of_itself(question: &[u8]) -> Vec<Vec<u8>> {
    vec![Packet::to(question).record(SAME_NAME, CNAME, INTERNET, SAME_NAME).bytes()]
}

fn alias_circle(question: &[u8]) -> Vec<Vec<u8>> {
    let other = name("other.example");
    let packet = Packet::to(question).record(SAME_NAME, CNAME, INTERNET, &other);
    vec![packet.record(&other, CNAME, INTERNET, SAME_NAME).bytes()]
}

fn hundred_aliases(question: &[u8]) -> Vec<Vec<u8>> {
    let hop = |n: u32| if n == 0 { SAME_NAME.to_vec() } else { name(&format!("{n}.example")) };
    let packet =
        (0..100).fold(Packet::to(question), |packet, n| packet.record(&hop(n), CNAME, INTERNET, &hop(n + 1)));
    vec![packet.record(&hop(100), A, INTERNET, &NOWHERE).bytes()]
}

fn alias_alone(question: &[u8]) -> Vec<Vec<u8>> {
    vec![Packet::to(question).record(SAME_NAME, CNAME, INTERNET, &name("front.example")).bytes()]
}

fn alias_with_controls(question: &[u8]) -> Vec<Vec<u8>> {
    let alias = name("a\0b\u{1b}[2J\u{7f}\".example");
    let packet = Packet::to(question).record(SAME_NAME, CNAME, INTERNET, &alias);
    vec![packet.record(&alias, A, INTERNET, &NOWHERE).bytes()]
}

fn another_question(question: &[u8]) -> Vec<Vec<u8>> {
    let other = [&question[..12], &name("other.example"), &[0, 1, 0, 1]].concat();
    vec![Packet::to(&other).record(SAME_NAME, A, INTERNET, &NOWHERE).bytes(); 20]
}

fn other_ids(question: &[u8]) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = (1..60u16)
        .map(|n| {
            let mut packet = Packet::to(question).record(SAME_NAME, A, INTERNET, &NOWHERE);
            packet.id = packet.id.wrapping_add(n);
            packet.bytes()
        })
        .collect();
    all.extend(addresses(question, &[NOWHERE], &[]));
    all
}

fn chaos(question: &[u8]) -> Vec<Vec<u8>> {
    vec![Packet::to(question).record(SAME_NAME, A, 3, &NOWHERE).bytes()]
}

fn huge_text(question: &[u8]) -> Vec<Vec<u8>> {
    let text = [&[255][..], &[b'x'; 255]].concat().repeat(14);
    vec![Packet::to(question).record(SAME_NAME, TXT, INTERNET, &text).bytes()]
}

fn unknown_rcode(question: &[u8]) -> Vec<Vec<u8>> {
    vec![Packet::to(question).with_flags(ANSWER | 15).bytes()]
}

/// The OPT record: payload size, upper bits of the response code, version, flags.
fn opt() -> Vec<u8> {
    [&[0][..], &41u16.to_be_bytes(), &4_096u16.to_be_bytes(), &[0xff, 0, 0, 0], &[0, 0]].concat()
}

fn extended_rcode(question: &[u8]) -> Vec<Vec<u8>> {
    let mut packet = Packet::to(question).with_flags(ANSWER | 15).raw(&opt());
    packet.counts[3] = 1;
    vec![packet.bytes()]
}

fn two_opts(question: &[u8]) -> Vec<Vec<u8>> {
    let mut packet = Packet::to(question).raw(&opt().repeat(2));
    packet.counts[3] = 2;
    vec![packet.bytes()]
}

fn two_hundred_answers(question: &[u8]) -> Vec<Vec<u8>> {
    let one = |n: u8| addresses(question, &[[127, 0, 1, n]], &[]).remove(0);
    (0..200).map(one).collect()
}

async fn from_another_port() -> Scene {
    let udp = UdpSocket::bind((loopback(1), 0)).await.unwrap();
    let address = udp.local_addr().unwrap();
    tokio::spawn(async move {
        let other = UdpSocket::bind((loopback(1), 0)).await.unwrap();
        let mut buffer = [0; 4_096];
        while let Ok((len, peer)) = udp.recv_from(&mut buffer).await {
            for answer in addresses(&buffer[..len], &[NOWHERE], &[]) {
                // The visitor's kernel may say that nobody listens there.
                let _ = other.send_to(&answer, peer).await;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    named(address)
}
