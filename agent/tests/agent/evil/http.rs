//! Servers whose answers are endless, broken or meant to harm the reader. What they send to terminals is in
//! `terminal.rs`, HTTP/2 in `http2.rs`, where they send on in `redirects.rs`.

use std::io::Write;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};
use tokio::io::AsyncWriteExt;

use super::child::Scene;
use super::ground::{drip, flood, http, http_page, linger, scene, tcp};
use super::{Behaviour, evil};
use crate::world::HOST;

/// An answer nobody can complain about.
pub const PAGE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
/// Bytes of a bomb once it is unpacked.
const BOMB_LEN: usize = 64 * 1024 * 1024;

pub fn behaviours() -> Vec<Behaviour> {
    let mut all = heads();
    all.extend(lengths());
    all.extend(bodies());
    all.extend(texts());
    all
}

fn heads() -> Vec<Behaviour> {
    vec![
        evil("headers without end", "h1: no status, 0 bytes, no HTTP, *", || {
            then_flood("HTTP/1.1 200 OK\r\n", b"via: x\r\n")
        }),
        evil("one header without end", "h1: no status, 0 bytes, no HTTP, *", || {
            then_flood("HTTP/1.1 200 OK\r\nvia: ", b"x")
        }),
        evil("100,000 headers", "h1: no status, 0 bytes, no HTTP, *", || {
            let many: String = (0..100_000).map(|n| format!("x-{n}: {n}\r\n")).collect();
            page(format!("HTTP/1.1 200 OK\r\n{many}content-length: 0\r\n\r\n"))
        }),
        evil("a header's name without end", "h1: no status, 0 bytes, no HTTP, *", || {
            then_flood("HTTP/1.1 200 OK\r\n", b"x")
        }),
        evil("a status line without end", "h1: no status, 0 bytes, no HTTP, *", || {
            then_flood("HTTP/1.1 200 ", b"O")
        }),
        evil("a header without a colon", "h1: no status, 0 bytes, no HTTP, *", || {
            page("HTTP/1.1 200 OK\r\nno colon\r\n\r\n")
        }),
        evil("a header with a NUL", "h1: no status, 0 bytes, no HTTP, *", || {
            page("HTTP/1.1 200 OK\r\nvia: a\0b\r\n\r\n")
        }),
        evil("a header folded over lines", "h1: *", || {
            page("HTTP/1.1 200 OK\r\nvia: a\r\n b\r\ncontent-length: 0\r\n\r\n")
        }),
        evil("preliminary answers for ever", "h1: no status, 0 bytes, *", || {
            then_flood("", b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n")
        }),
        evil("100 for ever", "h1: no status, 0 bytes, *", || {
            then_flood("", b"HTTP/1.1 100 Continue\r\n\r\n")
        }),
        evil("a switch to another protocol", "h1: 101, 0 bytes, *", || {
            page("HTTP/1.1 101 Switching Protocols\r\nupgrade: evil\r\nconnection: upgrade\r\n\r\n\0\0\0")
        }),
        evil("status 000", "h1: no status, 0 bytes, no HTTP, *", || page("HTTP/1.1 000 None\r\n\r\n")),
        evil("status 999", "h1: 999, 2 bytes, complete", || {
            page("HTTP/1.1 999 Odd\r\ncontent-length: 2\r\n\r\nno")
        }),
        evil("status 2000", "h1: no status, 0 bytes, no HTTP, *", || page("HTTP/1.1 2000 OK\r\n\r\n")),
        evil("HTTP/3.0 by TCP", "h1: no status, 0 bytes, no HTTP, *", || page("HTTP/3.0 200 OK\r\n\r\n")),
        evil("HTTP/0.9", "h1: no status, 0 bytes, no HTTP, *", || page("<html>hello</html>\r\n\r\n")),
        evil("TLS in the clear", "h1: no status, 0 bytes, no HTTP, *", || {
            page(b"\x16\x03\x03\x00\x02\x02\x28".to_vec())
        }),
        // Which of the two is first is chance; a page nobody asked for is no answer.
        evil("a page before it is asked for", "h1: *", || async {
            let address = tcp(|mut stream| async move {
                stream.write_all(PAGE.as_bytes()).await?;
                linger(stream).await
            })
            .await;
            scene(format!("http://{HOST}:{}/", address.port())).await
        }),
        evil("silence after the request", "h1: no status, 0 bytes, stalled", || http(linger)),
        evil("a close after the request", "h1: no status, 0 bytes, *", || http(|_| async { Ok(()) })),
        evil("a reset after the request", "h1: no status, 0 bytes, reset", || {
            http(|stream| async move { stream.set_zero_linger() })
        }),
        evil("a head, one byte each 100 ms", "h1: no status, 0 bytes, stalled", || {
            http(|mut stream| async move { drip(&mut stream, b"HTTP/1.1 200 OK and no end of it ").await })
        }),
    ]
}

fn lengths() -> Vec<Behaviour> {
    let with_length =
        |length: &str| page(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\nhello"));
    vec![
        evil("a negative length", "h1: no status, 0 bytes, no HTTP, *", move || with_length("-5")),
        evil("a length of 2^64", "h1: no status, 0 bytes, no HTTP, *", move || {
            with_length("18446744073709551616")
        }),
        evil("a length just below 2^64", "h1: *", move || with_length("18446744073709551614")),
        evil("two lengths that differ", "h1: no status, 0 bytes, no HTTP, *", || {
            page("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello")
        }),
        evil("a length and chunks", "h1: *", || {
            page(
                "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            )
        }),
        evil("a chunk of 2^64 bytes", "h1: 200, 0 bytes, no HTTP, *", || {
            page([CHUNKED, b"10000000000000000\r\n"].concat())
        }),
        evil("a chunk just below 2^64 bytes", "h1: 200, 262144 bytes, complete", || {
            then_flood("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffe\r\n", b"x")
        }),
        evil("a chunk without a size", "h1: 200, 0 bytes, no HTTP, *", || {
            page([CHUNKED, b"xyz\r\nhello"].concat())
        }),
        evil("a chunk's size without end", "h1: 200, 0 bytes, *", || {
            then_flood("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"0")
        }),
        evil("a chunk's extension without end", "h1: 200, 0 bytes, no HTTP, *", || {
            then_flood("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;x=", b"y")
        }),
        evil("trailers without end", "h1: 200, 5 bytes, no HTTP, *", || {
            then_flood(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
                b"x: y\r\n",
            )
        }),
        evil("chunks of one byte, for ever", "h1: 200, * bytes, *", || {
            then_flood("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n")
        }),
    ]
}

fn bodies() -> Vec<Behaviour> {
    vec![
        evil("a body without end", "h1: 200, 262144 bytes, complete", || {
            then_flood("HTTP/1.1 200 OK\r\n\r\n", b"x")
        }),
        evil("a body, one byte each 100 ms", "h1: 200, * bytes, stalled", || {
            http(|mut stream| async move {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 90000\r\n\r\n").await?;
                drip(&mut stream, b"x").await
            })
        }),
        evil("a body that stops", "h1: 200, 5 bytes, stalled", || {
            page("HTTP/1.1 200 OK\r\ncontent-length: 90000\r\n\r\nhello")
        }),
        evil("a gzip bomb", "h1: 200, * bytes, complete", || {
            let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
            zeroes(&mut bomb);
            encoded("gzip", bomb.finish().unwrap())
        }),
        evil("a deflate bomb", "h1: 200, * bytes, complete", || {
            let mut bomb = DeflateEncoder::new(Vec::new(), Compression::best());
            zeroes(&mut bomb);
            encoded("deflate", bomb.finish().unwrap())
        }),
        // A window of 16 MB, and one metablock that is said to be as long; nobody is to believe it.
        evil("a brotli bomb", "h1: 200, 600 bytes, complete", || {
            encoded("br", [&[0x0b, 0xff, 0xff, 0x7f][..], &[0xff; 596]].concat())
        }),
        // A frame of zstd that claims 2^62 bytes, and run-length blocks of 128 KB each.
        evil("a zstd bomb", "h1: 200, * bytes, complete", || {
            let head = [&[0x28, 0xb5, 0x2f, 0xfd, 0xe0][..], &(1u64 << 62).to_le_bytes()].concat();
            encoded("zstd", [head, [0x02, 0x00, 0x10, 0].repeat(512)].concat())
        }),
        evil("encodings upon encodings", "h1: 200, 4 bytes, complete", || async {
            encoded(&"gzip, ".repeat(2_000), vec![0x1f, 0x8b, 8, 0]).await
        }),
    ]
}

fn texts() -> Vec<Behaviour> {
    let with_type = |kind: &str, body: &[u8]| {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/html; charset={kind}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        page([head.as_bytes(), body].concat())
    };
    vec![
        evil("a title that drives terminals", "h1: 200, * bytes, complete", move || {
            with_type("utf-8", "<title>\u{1b}]0;x\u{7}\u{9b}2J\u{202e}\0 title</title>\u{9b}31m".as_bytes())
        }),
        evil("a title that is no UTF-8", "h1: 200, * bytes, complete", move || {
            with_type("utf-8", &[b"<title>", &[0xff, 0xc0, 0x80, 0xed, 0xa0, 0x80][..], b"</title>"].concat())
        }),
        evil("a title of 60 KB", "h1: 200, * bytes, complete", move || {
            with_type("utf-8", format!("<title>{}</title>", "ж".repeat(30_000)).as_bytes())
        }),
        evil("ten thousand titles", "h1: 200, * bytes, complete", move || {
            with_type("utf-8", "<title>".repeat(10_000).as_bytes())
        }),
        evil("a page in UTF-16", "h1: 200, * bytes, complete", move || {
            let page: Vec<u8> =
                "\u{feff}<title>Привет</title>".encode_utf16().flat_map(u16::to_le_bytes).collect();
            with_type("utf-16", &page)
        }),
        evil("a page in KOI8-R", "h1: 200, * bytes, complete", move || {
            with_type("koi8-r", b"<title>\xf0\xd2\xc9\xd7\xc5\xd4</title>")
        }),
        evil("a character set of nonsense", "h1: 200, * bytes, complete", move || {
            with_type("\u{9b}%00;;=", b"<title>x</title>")
        }),
        evil("headers that drive terminals", "h1: 200, 0 bytes, complete", || {
            page("HTTP/1.1 200 OK\r\nserver: \u{9b}2J\u{202e}x\r\nvia: \u{85}y\r\ncontent-length: 0\r\n\r\n")
        }),
    ]
}

async fn page(bytes: impl Into<Vec<u8>>) -> Scene {
    http_page(bytes.into()).await
}

async fn then_flood(head: &'static str, again: &'static [u8]) -> Scene {
    http(move |mut stream| async move {
        stream.write_all(head.as_bytes()).await?;
        flood(&mut stream, again).await
    })
    .await
}

async fn encoded(encoding: &str, body: Vec<u8>) -> Scene {
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-encoding: {encoding}\r\ncontent-length: {}\r\n\r\n", body.len());
    page([head.as_bytes(), &body].concat()).await
}

fn zeroes(bomb: &mut impl Write) {
    for _ in 0..BOMB_LEN / 65_536 {
        bomb.write_all(&[0; 65_536]).unwrap();
    }
}
