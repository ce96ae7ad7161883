//! Servers that speak HTTP/2 after a good handshake, in frames written by hand (RFC 9113).

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::child::Scene;
use super::ground::{flood, linger, over_tls};
use super::{Behaviour, evil};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// The stream of the visitor's first request.
const FIRST: u32 = 1;
/// `:status: 200`, from HPACK's static table.
const STATUS_200: &[u8] = &[0x88];
/// Length of the connection preface.
const PREFACE_LEN: usize = 24;

type Peer = TlsStream<TcpStream>;

pub fn behaviours() -> Vec<Behaviour> {
    let mut all = vec![
        evil("silence over h2", "h2: no status, 0 bytes, stalled", || h2(linger)),
        evil("HTTP/1.1 over h2", "h2: no status, 0 bytes, *", || {
            sending(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec())
        }),
        evil("a frame of 16 MB", "h2: no status, 0 bytes, *", || {
            sending([&[0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1][..], &[0; 100_000]].concat())
        }),
        evil("settings for ever", "h2: no status, 0 bytes, *", || {
            flooding(vec![], frame(SETTINGS, 0, 0, &[]))
        }),
        evil("settings of every kind for ever", "h2: no status, 0 bytes, *", || {
            let many: Vec<u8> =
                (0..2_000u16).flat_map(|n| [(n >> 8) as u8, n as u8, 0, 0, 0xff, 0xff]).collect();
            flooding(vec![], frame(SETTINGS, 0, 0, &many))
        }),
        evil("pings for ever", "h2: no status, 0 bytes, *", || flooding(vec![], frame(PING, 0, 0, &[7; 8]))),
        evil("windows for ever", "h2: no status, 0 bytes, *", || {
            flooding(vec![], frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]))
        }),
        evil("frames nobody knows, for ever", "h2: no status, 0 bytes, *", || {
            flooding(vec![], frame(0xee, 0, 0, &[9; 1_000]))
        }),
        evil("a window that overflows", "h2: no status, 0 bytes, *", || {
            sending(frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]))
        }),
        evil("no window for the request", "h2: 200, 0 bytes, *", || {
            let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
            sending([settings, frame(HEADERS, END_HEADERS, FIRST, STATUS_200)].concat())
        }),
        evil("GOAWAY at once", "h2: no status, 0 bytes, *", || sending(frame(GOAWAY, 0, 0, &[0; 8]))),
        evil("GOAWAY with a megabyte of reasons", "h2: no status, 0 bytes, *", || {
            sending(frame(GOAWAY, 0, 0, &[0x9b; 1_000_000]))
        }),
        evil("GOAWAY for ever", "h2: no status, 0 bytes, *", || {
            flooding(vec![], frame(GOAWAY, 0, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]))
        }),
        evil("the stream reset", "h2: no status, 0 bytes, *", || {
            sending(frame(RST_STREAM, 0, FIRST, &[0, 0, 0, 7]))
        }),
        evil("resets for ever", "h2: no status, 0 bytes, *", || {
            flooding(vec![], frame(RST_STREAM, 0, FIRST, &[0, 0, 0, 7]))
        }),
    ];
    all.extend(heads());
    all.extend(bodies());
    all
}

fn heads() -> Vec<Behaviour> {
    vec![
        evil("continuations for ever", "h2: no status, 0 bytes, *", || {
            let header = literal(b"x", &[b'y'; 100]);
            flooding(frame(HEADERS, 0, FIRST, STATUS_200), frame(CONTINUATION, 0, FIRST, &header))
        }),
        evil("empty continuations for ever", "h2: no status, 0 bytes, *", || {
            flooding(frame(HEADERS, 0, FIRST, STATUS_200), frame(CONTINUATION, 0, FIRST, &[]))
        }),
        evil("an HPACK bomb", "h2: *", || {
            // One header of 4,000 bytes into the table, then 12,000 times the same one of a byte each: 48 MB.
            let mut block = [STATUS_200, &[0x40, 1, b'x', 0x7f, 0xa1, 0x1e], &[b'y'; 4_000]].concat();
            block.extend_from_slice(&[0xbe; 12_000]);
            sending(frame(HEADERS, END_HEADERS | END_STREAM, FIRST, &block))
        }),
        evil("HPACK that points nowhere", "h2: no status, 0 bytes, *", || {
            sending(frame(HEADERS, END_HEADERS, FIRST, &[0xff, 0xff, 0xff, 0x7f]))
        }),
        evil("an HPACK integer without end", "h2: no status, 0 bytes, *", || {
            sending(frame(HEADERS, END_HEADERS, FIRST, &[0xff; 900]))
        }),
        evil("a head without a status", "h2: no status, 0 bytes, *", || {
            sending(frame(HEADERS, END_HEADERS, FIRST, &literal(b"via", b"x")))
        }),
        evil("preliminary answers over h2 for ever", "h2: no status, 0 bytes, *", || {
            flooding(vec![], frame(HEADERS, END_HEADERS, FIRST, &literal(b":status", b"103")))
        }),
        evil("a header of 60 KB over h2", "h2: *", || {
            let long = literal(b"via", &[b'v'; 60_000]);
            let block = [STATUS_200, &long].concat();
            let mut frames = frame(HEADERS, END_STREAM, FIRST, &block[..16_000]);
            for (n, part) in block[16_000..].chunks(16_000).enumerate() {
                let is_last = (n + 2) * 16_000 >= block.len();
                frames.extend(frame(CONTINUATION, if is_last { END_HEADERS } else { 0 }, FIRST, part));
            }
            sending(frames)
        }),
        evil("an answer nobody asked for", "h2: no status, 0 bytes, *", || {
            let block = [STATUS_200, b""].concat();
            flooding(vec![], frame(PUSH_PROMISE, END_HEADERS, FIRST, &[&[0, 0, 0, 2][..], &block].concat()))
        }),
        evil("an answer on a stream that never was", "h2: no status, 0 bytes, *", || {
            sending(frame(HEADERS, END_HEADERS, 0x7777, STATUS_200))
        }),
    ]
}

fn bodies() -> Vec<Behaviour> {
    let head = || frame(HEADERS, END_HEADERS, FIRST, STATUS_200);
    vec![
        evil("data before the head", "h2: no status, 0 bytes, *", || {
            sending(frame(DATA, 0, FIRST, b"hello"))
        }),
        evil("data after the end", "h2: 200, 0 bytes, complete", || {
            flooding(
                frame(HEADERS, END_HEADERS | END_STREAM, FIRST, STATUS_200),
                frame(DATA, 0, FIRST, &[b'x'; 999]),
            )
        }),
        evil("data beyond the window", "h2: 200, * bytes, *", move || {
            flooding(head(), frame(DATA, 0, FIRST, &[b'x'; 16_384]))
        }),
        evil("empty data for ever", "h2: 200, 0 bytes, *", move || {
            flooding(head(), frame(DATA, 0, FIRST, &[]))
        }),
        evil("padding for ever", "h2: 200, 0 bytes, *", move || {
            // PADDED: a length, and nothing but padding.
            flooding(head(), frame(DATA, 8, FIRST, &[&[255][..], &[0; 255]].concat()))
        }),
        evil("padding longer than its frame", "h2: 200, 0 bytes, *", move || {
            sending([head(), frame(DATA, 8, FIRST, &[255, 0])].concat())
        }),
        evil("trailers for ever over h2", "h2: 200, 0 bytes, *", move || {
            flooding(head(), frame(HEADERS, END_HEADERS, FIRST, &literal(b"x", b"y")))
        }),
    ]
}

/// A peer over h2 that does as told once the request is on its way.
async fn h2<F>(serve: impl Fn(Peer) -> F + Send + Sync + 'static) -> Scene
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let serve = std::sync::Arc::new(serve);
    over_tls("h2", move |mut stream: Peer| {
        let serve = serve.clone();
        async move {
            stream.read_exact(&mut [0; PREFACE_LEN]).await?;
            // Up to the request, whose stream a server may not use before.
            loop {
                let mut head = [0; 9];
                stream.read_exact(&mut head).await?;
                let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                stream.read_exact(&mut vec![0; len as usize]).await?;
                if head[3] == HEADERS {
                    break;
                }
            }
            serve(stream).await
        }
    })
    .await
}

/// Settings, as every connection begins with, then these bytes.
async fn sending(bytes: Vec<u8>) -> Scene {
    h2(move |mut stream| {
        let bytes = [frame(SETTINGS, 0, 0, &[]), bytes.clone()].concat();
        async move {
            stream.write_all(&bytes).await?;
            stream.flush().await?;
            linger(stream).await
        }
    })
    .await
}

/// Settings, these bytes, then the same frame again and again.
async fn flooding(bytes: Vec<u8>, again: Vec<u8>) -> Scene {
    h2(move |stream| {
        let (first, again) = ([frame(SETTINGS, 0, 0, &[]), bytes.clone()].concat(), again.clone());
        async move {
            let (mut reader, mut writer) = tokio::io::split(stream);
            // What comes back must not stop the flood.
            let sink = tokio::spawn(async move {
                let mut sink = [0; 65_536];
                while reader.read(&mut sink).await.is_ok_and(|len| len > 0) {}
            });
            writer.write_all(&first).await?;
            flood(&mut writer, &again).await?;
            sink.await.map_err(std::io::Error::other)
        }
    })
    .await
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header that is in no table, and put into none.
fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0][..], &length(name.len()), name, &length(value.len()), value].concat()
}

/// HPACK's integer with seven bits in the first byte.
fn length(len: usize) -> Vec<u8> {
    if len < 127 {
        return vec![len as u8];
    }
    let (mut bytes, mut rest) = (vec![127], len - 127);
    while rest >= 128 {
        bytes.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    bytes.push(rest as u8);
    bytes
}
